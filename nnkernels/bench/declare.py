"""What a file for ``--workloads`` imports: see ``docs/measuring.md``, "How to add a workload"."""

from nnkernels.bench.harness.declare import Cost, backend, workload

__all__ = ["Cost", "backend", "workload"]
