"""Measuring: workloads, timing, results. :func:`nnkernels.bench.session.measure` is the way in."""
