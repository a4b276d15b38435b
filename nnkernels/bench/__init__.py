"""Measuring: workloads, timing, results. :class:`nnkernels.bench.session.Session` is the way in."""
