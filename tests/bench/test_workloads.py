"""The registry: complete, solvable, and right on every backend at the small sizes."""

import importlib.util
import math
import sys
from pathlib import Path

import numpy as np
import pytest

import nnkernels
from nnkernels import ops
from nnkernels.bench import harness, session
from nnkernels.bench.harness import operators, training
from nnkernels.bench.harness.networks import NETWORKS, draw_data
from nnkernels.spec import OPERATORS

QUICK = harness.cases("quick")
BACKENDS = sorted({*session.choose_backends([])[0], "reference"})


def case_of(workload: str, preset: str = "quick") -> harness.Case:
    return next(c for c in harness.cases(preset) if c.workload == workload)


def run_checked(problem: harness.Problem, backend: nnkernels.Backend | str) -> harness.Agreement:
    """What is found of a backend, or of the textbook."""
    if backend == "textbook":
        runner = problem.baseline("textbook")
    else:
        runner = problem.runner(nnkernels.get_backend(backend))
    runner.reset()
    runner.run(runner.checked)
    return problem.agreement(runner.outputs())


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("case", QUICK, ids=lambda case: case.id)
def test_every_workload_agrees_with_its_reference(case: harness.Case, backend: str) -> None:
    agreement = run_checked(case.make(), backend)
    assert agreement.ok, agreement.reason


@pytest.mark.parametrize("case", [c for c in QUICK if c.baselines], ids=lambda case: case.id)
def test_the_textbook_agrees_with_its_float64_self(case: harness.Case) -> None:
    agreement = run_checked(case.make(), "textbook")
    assert agreement.ok, agreement.reason


@pytest.mark.parametrize("preset", harness.PRESETS)
def test_every_operator_has_a_workload_with_cost_and_tolerance(preset: harness.Preset) -> None:
    declared = {o.name for o in OPERATORS.values() if o.__module__.startswith("nnkernels.catalog")}
    assert declared == {name for name in vars(ops) if name in OPERATORS}
    cases = {case.workload: case for case in harness.cases(preset)}
    assert declared <= set(cases)
    for name in declared:
        assert cases[name].cost.bytes > 0
        assert OPERATORS[name].error.c >= 0


def test_the_gate_has_the_rows_that_were_agreed_on() -> None:
    gate = [case.workload for case in harness.cases("default") if harness.GATE in case.tags]
    assert len(gate) >= 14
    operators = "matmul linear_backward relu relu_backward sigmoid sigmoid_backward"
    rest = "softmax_cross_entropy adam dropout batch_norm W1 W2 W4"
    assert {*operators.split(), *rest.split()} <= set(gate)


def test_the_textbooks_product_is_there_in_both_formats() -> None:
    found = [c for c in harness.cases("default") if c.workload == "vector_matrix"]
    assert [c.id for c in found] == [
        "vector_matrix[1x6400x5000]",
        "vector_matrix[1x6400x5000-float64]",
    ]
    assert [c.cost.flop for c in found] == [2 * 6400 * 5000] * 2
    assert [c.cost.bytes for c in found] == [n * (6400 + 6400 * 5000 + 5000) for n in (4, 8)]


def test_every_network_is_measured_at_inference_too() -> None:
    found = {c.params["network"]: c for c in harness.cases("default") if c.workload == "predict"}
    assert set(found) == {"W1", "W2", "W3", "W4"}
    assert found["W1"].cost.flop == 2 * 32 * (784 * 64 + 64 * 32 + 32 * 10)


def test_wrong_and_unwritten_predictions_are_noticed() -> None:
    problem = case_of("predict").make()
    runner = problem.runner(nnkernels.get_backend("numpy"))
    runner.reset()
    runner.run(1)
    assert problem.agreement(runner.outputs()).reason == "W1: predictions are not finite"
    runner.run(1)
    (found,) = runner.outputs()
    assert problem.agreement([found]).ok
    found[1, 3, 2] += 1e-3
    assert not problem.agreement([found]).ok


@pytest.mark.parametrize("preset", harness.PRESETS)
def test_ids_are_unique_and_costs_are_positive(preset: harness.Preset) -> None:
    cases = harness.cases(preset)
    assert len({case.id for case in cases}) == len(cases)
    assert all(case.cost.bytes > 0 and case.cost.items > 0 for case in cases)
    assert all(case.cost.flop > 0 for case in cases if case.rate != "byte")


def test_costs_of_a_product_and_of_an_update() -> None:
    matmul = case_of("matmul")
    assert matmul.params == {"m": 32, "k": 64, "n": 48}
    assert matmul.cost.flop == 2 * 32 * 64 * 48
    assert matmul.cost.bytes == 4 * (32 * 64 + 64 * 48 + 32 * 48)
    # param and grad read, param written, and the float64 learning rate
    assert case_of("sgd").cost.bytes == 3 * 4 * 32 * 64 + 8


@pytest.mark.parametrize("case", [c for c in QUICK if "operator" in c.tags], ids=lambda c: c.id)
def test_inputs_are_random_and_the_costs_sizes_are_theirs(case: harness.Case) -> None:
    problem = case.make()
    signature = problem.op.signatures(problem.params)[0]
    dims = signature.solve([x.shape for x in problem.inputs], problem.params)
    assert [signature.shape(a, dims) for a in signature.outputs] == [s for s, _ in problem.outputs]
    for array in problem.inputs:
        if array.dtype.kind == "f":
            assert np.isfinite(array).all()
            assert array.any()


def test_the_networks_are_the_published_ones() -> None:
    found = {
        n.name: (n.layers, n.activation, n.loss, n.optimizer, n.batch) for n in NETWORKS["default"]
    }
    assert found == {
        "W1": ((784, 64, 32, 10), "sigmoid", "sum_squared_error", "sgd", 32),
        "W2": ((784, 512, 512, 10), "relu", "softmax_cross_entropy", "adam", 128),
        "W3": ((1024, 4096, 4096, 1000), "relu", "softmax_cross_entropy", "momentum", 512),
        "W4": ((20, 64, 64, 1), "tanh", "mse", "adam", 256),
    }


def test_batches_are_slices_that_start_over() -> None:
    network = NETWORKS["quick"][3]
    problem = training.TrainingProblem(network)
    x, _ = problem.batch(network.rows // network.batch + 1)
    assert np.shares_memory(x, problem.data.x)
    assert np.array_equal(x, draw_data(network).x[network.batch : 2 * network.batch])


def test_training_goes_on_from_the_first_batch_after_the_last() -> None:
    network = NETWORKS["quick"][3]
    problem = training.TrainingProblem(network)
    runner = problem.runner(nnkernels.get_backend("numpy"))
    batches = network.rows // network.batch
    runner.run(2 * batches + 1)
    assert runner._state.number("step") == 2 * batches + 1
    assert runner._state.number("row") == network.batch


@pytest.mark.parametrize("damage", ["one weight off", "one step missing", "not finite"])
def test_wrong_training_is_noticed(damage: str) -> None:
    problem = training.TrainingProblem(NETWORKS["quick"][3])
    runner = problem.runner(nnkernels.get_backend("numpy"))
    runner.reset()
    runner.run(runner.checked - (damage == "one step missing"))
    if damage == "one weight off":
        runner._state.view("linear0.weight")[3, 5] += 1e-3
    if damage == "not finite":
        runner._state.view("linear0.weight")[0, 0] = math.nan
    assert not problem.agreement(runner.outputs()).ok


def test_an_unwritten_output_is_noticed() -> None:
    backend = nnkernels.get_backend("numpy").replace(relu=lambda x, *, out: None)
    agreement = run_checked(case_of("relu").make(), backend)
    assert not agreement.ok
    assert agreement.error is None
    assert "is nan" in agreement.reason


def test_float16_accumulation_is_noticed() -> None:
    def half(a, b, *, transpose_a, transpose_b, out):
        out[...] = np.matmul(a.astype(np.float16), b.astype(np.float16))

    backend = nnkernels.get_backend("numpy").replace(matmul=half)
    for workload in ("matmul", "vector_matrix"):
        agreement = run_checked(case_of(workload).make(), backend)
        assert agreement.error > 5 * agreement.limit


@pytest.mark.parametrize("workload", ["argmax", "dropout", "count"])
def test_unwritten_integers_and_masks_are_noticed(workload: str) -> None:
    nothing = nnkernels.Kernel(lambda *inputs, **keywords: None)
    backend = nnkernels.get_backend("numpy").replace(**{workload: nothing})
    agreement = run_checked(case_of(workload).make(), backend)
    assert not agreement.ok
    assert agreement.reason.startswith(f"{workload}: result ")


def test_one_element_beyond_the_bound_is_noticed() -> None:
    def nearly(x, *, out):
        np.tanh(x, out=out)
        out[1, 1] *= 1.000001

    backend = nnkernels.get_backend("numpy").replace(tanh=nearly)
    agreement = run_checked(case_of("tanh").make(), backend)
    assert not agreement.ok
    assert agreement.error > agreement.limit
    assert "result 0[1, 1]" in agreement.reason
    assert "1 of 2048" in agreement.reason


def test_a_fallback_is_told() -> None:
    numpy = nnkernels.get_backend("numpy")
    fallback = numpy.fallback
    kernels = {name: k for name, k in numpy.kernels.items() if name != "relu"}
    bare = type(numpy)("bare", numpy.device, kernels, numpy.executor, fallback=fallback)
    assert case_of("relu").make().runner(bare).note == "served by reference"
    assert case_of("relu").make().runner(numpy).note is None


def test_operators_follow_each_other_with_derivatives() -> None:
    names = [op.name for op in operators.catalogue()]
    assert names.index("relu_backward") == names.index("relu") + 1


def test_the_harness_loads_by_path_under_another_name(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Path(harness.__file__).parent
    spec = importlib.util.spec_from_file_location(
        "newest_harness", folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "newest_harness", module)
    spec.loader.exec_module(module)
    case = next(c for c in module.cases("quick") if c.workload == "relu")
    assert type(case).__module__ == "newest_harness.workload"
    assert run_checked(case.make(), "numpy").ok
    for name in [n for n in sys.modules if n.startswith("newest_harness.")]:
        monkeypatch.delitem(sys.modules, name)
