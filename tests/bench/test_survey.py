"""Ceilings of all devices of a run: one that does not answer costs its percentages, no more."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from nnkernels.bench import ceilings, device_ceilings, survey
from nnkernels.bench.survey import Survey
from nnkernels.bench.workers import CandidateError, WorkerHungError, WorkerLostError

CPU = ceilings.empty("triad_bw", "B/s", threads=1, level="memory", nbytes=1)
GPU = ceilings.empty("triad_bw", "B/s", device="cuda:0", level="memory", nbytes=1)
CREW = [SimpleNamespace(name=n, device=d) for n, d in (("numpy", "cpu"), ("cupy", "cuda:0"))]
PLAN = SimpleNamespace(threads=1, cpus=None, cases=[SimpleNamespace(dtype="float32")])


def surveying() -> Survey:
    return Survey(PLAN, CREW, survey.GLANCE, lambda *_: None, [1])


class Asked:
    """Stands for a measurement: counts how often it is asked, and answers or raises."""

    def __init__(self, answer) -> None:
        self.answer, self.times = answer, 0

    def __call__(self, *args, **settings):
        self.times += 1
        if isinstance(self.answer, Exception):
            raise self.answer
        return [self.answer]


@pytest.fixture
def asked(monkeypatch):
    """Has the CPU and the other device answer so."""

    def prepare(cpu, other) -> tuple[Asked, Asked]:
        found = Asked(cpu), Asked(other)
        monkeypatch.setattr(ceilings, "measure", found[0])
        monkeypatch.setattr(device_ceilings, "measure", found[1])
        return found

    return prepare


def test_every_device_is_measured_as_often_as_asked(asked) -> None:
    cpu, gpu = asked(CPU, GPU)
    found = surveying()
    assert found.measure() == found.measure() == [CPU, GPU]
    assert (cpu.times, gpu.times, found.warnings) == (2, 2, [])


@pytest.mark.parametrize("kind", [WorkerHungError, WorkerLostError, CandidateError])
def test_a_device_that_does_not_answer_is_told_once_and_let_be(asked, kind) -> None:
    cpu, gpu = asked(CPU, kind("no answer in 120 s"))
    found = surveying()
    assert found.measure() == found.measure() == [CPU]
    assert (cpu.times, gpu.times) == (2, 1)
    assert found.warnings == ["the ceilings of cuda:0 are not known: no answer in 120 s"]


def test_nor_does_the_cpu_end_a_run(asked) -> None:
    asked(WorkerLostError("its process has ended"), GPU)
    found = surveying()
    assert found.measure() == [GPU]
    assert found.warnings == ["the ceilings of cpu are not known: its process has ended"]
