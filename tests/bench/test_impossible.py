"""What is faster than possible, from end to end: it agrees with the reference and is refused."""

from pathlib import Path

import pytest

from nnkernels import plugins
from nnkernels.bench import harness, results, roofline
from nnkernels.bench.harness import registry
from nnkernels.bench.session import Effort, Plan, Session, hired

RELU = next(c for c in harness.cases("thorough") if c.id == "relu[2048x2048]")
BEYOND_ANY_MEMORY = 1e12
"""Bytes a second that one thread of a CPU does not move."""


class Silent:
    def begin(self, case, number, total) -> None:
        pass

    def finish(self, case, found) -> None:
        pass


@pytest.fixture
def own_registry(monkeypatch):
    """What a test adds is gone after it."""
    for where, name in ((registry, "_added"), (plugins, "_registered"), (plugins, "_loaded")):
        monkeypatch.setattr(where, name, dict(getattr(where, name)))


def measured(backends):
    plan = Plan([RELU], "thorough", backends, {}, Effort(0.1, 2, 2, 0.05), threads=1)
    with hired(plan) as crew:
        session = Session(plan, crew, Silent())
        session.run()
    devices = {row.device for row in session.found}
    ceilings = [
        results.Ceiling(d, None, None, "copy_bw", BEYOND_ANY_MEMORY, "B/s", "", "memory", 1 << 20)
        for d in devices
    ]
    rows, _ = roofline.judged_all(session.found, ceilings, list)
    return rows


def test_a_backend_that_does_not_wait_is_found_out(own_registry) -> None:
    harness.add(Path(__file__).with_name("unsynchronised.py"))
    waiting, hasty = measured(["waiting", "hasty"])
    assert (waiting.status, waiting.rates.bound) == ("ok", "memory")
    assert hasty.correctness.ok
    assert hasty.status == "failed"
    assert "missing sync" in hasty.reason


def test_a_kernel_that_keeps_its_result_is_found_out(monkeypatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    right, keeping = measured(["numpy", "numpy[relu=planted_kernels:keeping]"])
    assert right.status == "ok"
    assert keeping.correctness.ok
    assert keeping.status == "failed"
    assert "cached result" in keeping.reason
