"""Workloads at sizes that are in no preset."""

import pytest

import nnkernels
from nnkernels.bench.harness import Case, sweeps
from nnkernels.bench.harness.sweeps import sweep

SWEEPS = {found.id: found for found in sweeps()}


def right(case: Case) -> bool:
    problem = case.make()
    runner = problem.runner(nnkernels.get_backend("numpy"))
    runner.reset()
    runner.run(runner.checked)
    return problem.agreement(runner.outputs()).ok


@pytest.mark.parametrize("id", SWEEPS)
def test_both_ends_can_be_run_or_at_least_named(id: str) -> None:
    found = SWEEPS[id]
    assert found.low < found.high
    small, large = found.at(found.low), found.at(found.high)
    assert small.workload == large.workload == found.workload
    assert small.cost.bytes < large.cost.bytes
    assert right(small)


@pytest.mark.parametrize(
    ("id", "size", "shape"),
    [
        ("matmul[n]", 37, "37x37x37"),
        ("linear_backward[n]", 12, "12x12x12"),
        ("relu[elements]", 100, "100"),
        ("softmax_cross_entropy[rows]", 5, "5x100"),
        ("log_softmax[rows]", 5, "5x100"),
        ("mlp_step[batch]", 3, "784-128-128-10-b3"),
        ("mlp_step[width]", 20, "784-20-20-10-b64"),
    ],
)
def test_one_number_says_the_size(id: str, size: int, shape: str) -> None:
    case = sweep(id).at(size)
    assert case.size == shape
    assert case.sweep == (id, size)
    assert right(case)


def test_a_sweep_that_does_not_exist() -> None:
    with pytest.raises(ValueError, match="unknown sweep 'matmul'"):
        sweep("matmul")


def test_operators_without_a_size_have_no_sweep() -> None:
    names = {found.workload for found in SWEEPS.values()}
    assert not names & {"tick", "accumulate", "advance", "count"}
    assert {"matmul", "relu", "adam", "softmax", "mlp_step"} <= names
