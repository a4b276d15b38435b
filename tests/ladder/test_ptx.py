"""Rung 4: what NVRTC made of the kernels, executed; and what it does to the memory."""

from __future__ import annotations

import dataclasses

import pytest
from ladder import cases, traffic
from ladder.cases import Case
from ladder.interpreted import Interpreter
from ladder.needs import require_nvrtc

from nnkernels.backends.cupy import sources

NOISE_SLACK = 2.0
"""Factor of the bounds under noise, which errs by more than the hardware is known to."""


@pytest.fixture(autouse=True)
def nvrtc():
    require_nvrtc()


def faults_of(case: Case, storage: str, seed: int) -> list[str]:
    trial = case.build(storage)
    if seed:
        slack = [r._replace(bound=r.bound * NOISE_SLACK) for r in trial.results]
        trial = dataclasses.replace(trial, results=slack)
    found = Interpreter(seed=seed).run(trial)
    return [f"{case}: {text}" for text in ([found] if found else trial.faults())]


def all_faults(chosen: list[Case], storage: str, seed: int) -> list[str]:
    return [text for case in chosen for text in faults_of(case, storage, seed)]


@pytest.mark.parametrize(
    "storage",
    [s if s == "float32" else pytest.param(s, marks=pytest.mark.slow) for s in sources.STORAGES],
)
@pytest.mark.parametrize("module", sources.module_names())
def test_every_case_is_right(module, storage):
    assert not all_faults(cases.of_module(module, storage), storage, seed=0)


@pytest.mark.parametrize("storage", sources.STORAGES)
@pytest.mark.parametrize("module", sources.module_names())
def test_some_cases_are_right_in_another_order_and_with_noise(module, storage):
    assert not all_faults(cases.few_of_module(module, storage), storage, seed=1)


@pytest.mark.parametrize("storage", sources.STORAGES)
@pytest.mark.parametrize("module", sources.module_names())
def test_memory_is_moved_in_whole_sectors_and_banks_do_not_conflict(module, storage):
    assert not traffic.faults(module, storage, cases.of_module(module, storage))


@pytest.mark.parametrize("kernel", traffic.MORE)
def test_every_exception_for_sectors_is_needed(kernel):
    (module,) = (m for m in sources.module_names() if kernel in sources.signatures(m))
    found = []
    for storage in sources.STORAGES:
        chosen = cases.cases_by_kernel(storage)[module, kernel]
        found.append(traffic.measure(module, storage, chosen)[kernel].excess)
    assert max(found) > traffic.EXCESS


@pytest.mark.slow
@pytest.mark.parametrize("seed", [2, 3, 4])
@pytest.mark.parametrize("storage", sources.STORAGES)
@pytest.mark.parametrize("module", sources.module_names())
def test_every_case_is_right_in_every_order_and_with_noise(module, storage, seed):
    assert not all_faults(cases.of_module(module, storage), storage, seed)
