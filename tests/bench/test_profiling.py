"""Profiles of training steps: what is counted, and that it is what runs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from nnkernels import get_backend, plugins
from nnkernels.bench import profiling
from nnkernels.errors import BackendUnavailableError, InputError, UnknownNameError
from nnkernels.nn import MLP, Trainer
from nnkernels.nn.losses import loss_names

NUMPY = profiling.single(get_backend("numpy"))


@pytest.fixture
def fixed_peak(monkeypatch):
    """The peak is not measured."""
    monkeypatch.setattr(profiling, "peak", lambda dtype: profiling.Peak(1e9, dtype))


def subject(model=None, *, optimizer="sgd", batch=4, shuffle=True, **trainer):
    made = Trainer(model or MLP([5, 4, 3]), optimizer, **trainer)
    return profiling.subject_of("5-4-3", made, batch, shuffle=shuffle)


def profiled(what, backend=NUMPY, steps=2, rounds=2):
    return profiling.profile(what, backend, steps=steps, rounds=rounds)


def operators(found) -> list[str]:
    return [row.op for row in found.rows]


@pytest.mark.usefixtures("fixed_peak")
class TestInterpreter:
    def test_every_instruction_has_its_line(self):
        found = profiled(subject(optimizer="adam", clip_norm=1.0))
        assert operators(found) == [
            "gather_rows",
            "gather_rows",
            "linear",
            "relu",
            "linear",
            "softmax_cross_entropy",
            "softmax_cross_entropy_backward",
            "linear_backward",
            "relu_backward",
            "linear_backward",
            "accumulate",
            "count_correct",
            "count",
            "clip_by_global_norm",
            "tick",
            "adam",
            "advance",
        ]
        assert all(row.seconds > 0 for row in found.rows)
        assert found.total == sum(row.seconds for row in found.rows)
        assert (found.execution, found.steps, found.rounds) == ("interpreter", 2, 2)
        assert (found.batch, found.dtype) == (4, "float32")

    def test_work_follows_the_model_cost(self):
        rows = {row.label + row.op: row for row in profiled(subject()).rows}
        assert rows["linear0linear"].flop == 2 * 4 * 4 * 5 + 4 * 4
        # The first layer needs no gradient of the data: half the products.
        assert rows["linear0linear_backward"].flop == 2 * 4 * 4 * 5 + 4 * 4
        assert rows["linear2linear_backward"].flop == 4 * 4 * 3 * 4 + 4 * 3
        assert rows["updatetick"].flop == 0

    def test_traffic_is_what_is_read_and_written_once(self):
        found = profiled(subject(), steps=1, rounds=1).rows
        gather, linear = found[0], found[2]
        assert gather.bytes == 4 * 5 * 4 * 2 + 4 * 8
        assert linear.bytes == 4 * (4 * 5 + 5 * 4 + 4 + 4 * 4)

    def test_batches_may_be_consecutive(self):
        assert "gather_rows" not in operators(profiled(subject(shuffle=False), steps=3))

    def test_more_steps_than_the_data_has(self, monkeypatch):
        monkeypatch.setattr(profiling, "MAX_ROWS", 10)
        for shuffle in (True, False):
            found = profiled(subject(shuffle=shuffle), steps=7, rounds=1)
            assert found.steps == 7
            assert all(row.seconds > 0 for row in found.rows)

    @pytest.mark.parametrize("loss", loss_names())
    @pytest.mark.parametrize("outputs", [1, 3])
    def test_every_loss_is_finite_on_the_random_data(self, loss, outputs):
        last = {"binary_cross_entropy": "sigmoid", "categorical_cross_entropy": "softmax"}.get(loss)
        model = MLP([5, outputs], loss=loss, output_activation=last, dtype="float64")
        found = profiled(subject(model), steps=2, rounds=1)
        assert found.dtype == "float64"
        assert loss in operators(found)

    def test_weights_stay_what_they_are(self):
        """Otherwise a step of a diverging network would be timed on NaN."""
        model = MLP([5, 4, 3])
        bench = profiling._Bench(subject(model), NUMPY)
        bench.run(3)
        bench.profile(3)
        for name, array in model.parameters.items():
            np.testing.assert_array_equal(bench._state.get(name), array)

    def test_a_model_that_is_not_finite_is_refused(self):
        model = MLP([5, 4, 3])
        weights = {n: np.full_like(a, 3e38) for n, a in model.parameters.items()}
        model.set_parameters(weights)
        with pytest.raises(InputError, match="not finite on random data"):
            profiled(subject(model))

    def test_the_number_of_steps_follows_the_time_of_one(self, monkeypatch):
        monkeypatch.setattr(profiling, "MAX_STEPS", 3)
        assert 1 <= profiling.profile(subject(), NUMPY, rounds=1).steps <= 3

    def test_progress_is_told(self):
        told: list[tuple[int, int, str]] = []
        profiling.profile(
            subject(), NUMPY, steps=1, rounds=2, progress=lambda *what: told.append(what)
        )
        assert [done for done, _, _ in told] == [0, 1, 2, 3]
        assert {total for _, total, _ in told} == {4}


def test_profile_of_an_interpreter_counts_like_run():
    bench = profiling._Bench(subject(), NUMPY)
    executable, state = bench._executable, bench._state
    before = int(state.number("step"))
    times = executable.profile(3)
    assert int(state.number("step")) == before + 3
    assert [i for i, _ in times] == list(executable.program.instructions)
    assert all(seconds > 0 for _, seconds in times)
    state.set("row", 0)
    assert executable.run(2) == 2


@pytest.mark.parametrize("name", ["W1", "W2", "W3", "W4"])
def test_workloads_are_those_of_the_benchmark(name):
    found = profiling.workload(name)
    network = next(n for n in profiling.NETWORKS["default"] if n.name == name)
    assert (found.batch, found.model.inputs) == (network.batch, network.layers[0])
    assert found.model.outputs == network.layers[-1]
    assert not found.shuffle


def test_an_unknown_workload():
    with pytest.raises(UnknownNameError, match="W1, W2, W3, W4"):
        profiling.workload("W9")


def test_one_thread_only():
    assert profiling.single(get_backend("numpy")).threads == 1
    assert profiling.single(get_backend("numpy(threads=1)")).threads == 1
    with pytest.raises(InputError, match="drop threads=2"):
        profiling.single(get_backend("numpy(threads=2)"))
    without = replace(get_backend("reference"), limit=None)
    assert profiling.single(without) is without


def test_the_peak_without_numba_is_numpys(monkeypatch):
    def load(name):
        raise BackendUnavailableError("no Numba")

    monkeypatch.setattr(plugins, "load", load)
    found = profiling.peak("float64")
    assert found.rate > 0
    assert found.by == "NumPy's product of two 192x192 matrices of float64"


# --- compiled epochs -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def numba():
    pytest.importorskip("numba")
    return profiling.single(get_backend("numba"))


@pytest.mark.usefixtures("fixed_peak")
class TestCompiledEpochs:
    def test_products_have_lines_of_their_own(self, numba):
        found = profiled(subject(), numba)
        assert found.execution == "compiled epoch"
        rows = {(row.label, row.op, row.part.partition(" ")[0]): row for row in found.rows}
        one, two = "linear0", "linear2"
        assert (one, "linear_backward", "grad_x") not in rows
        assert rows[two, "linear_backward", "grad_x"].flop == 2 * 4 * 3 * 4
        assert rows[two, "linear_backward", "grad_w"].flop == 2 * 4 * 3 * 4
        assert rows[two, "linear_backward", "grad_b"].flop == 4 * 3
        assert rows[two, "linear", "by"].flop == 2 * 4 * 3 * 4 + 4 * 3
        assert all(row.seconds >= 0 for row in found.rows)

    def test_parts_add_up_to_the_instructions(self, numba):
        """The same step has the same flops, whether its parts are told apart or not."""
        step = subject(optimizer="adam")
        assert profiled(step, numba).flop == profiled(step, NUMPY).flop

    def test_lines_follow_the_program(self, numba):
        compiled = list(dict.fromkeys(operators(profiled(subject(), numba))))
        plain = list(dict.fromkeys(operators(profiled(subject(), NUMPY))))
        unfused = ["linear", "relu"]
        fused = ["linear_activation", "linear"]
        at = compiled.index(fused[0])
        assert compiled[at : at + 2] == fused
        assert plain[at : at + 2] == unfused
        assert compiled[at + 2 :] == plain[at + 2 :]

    def test_an_update_of_several_parameters_is_one_line(self, numba):
        found = profiled(subject(), numba)
        (line,) = [row for row in found.rows if (row.op, row.part) == ("sgd", "")]
        assert line.bytes > 2 * 4 * (5 * 4 + 4 + 4 * 3 + 3)

    def test_blas_is_named_where_it_computes(self, numba, monkeypatch):
        from nnkernels.backends.numba.products import choice

        monkeypatch.setattr(choice, "own_bytes", lambda dtype: (0, "test"))
        parts = {row.part for row in profiled(subject(), numba, 1, 1).rows}
        assert {"by BLAS", "grad_x by BLAS", "grad_w by BLAS", "grad_b"} <= parts

    def test_a_python_kernel_is_interpreted(self, numba):
        found = profiled(subject(), numba.replace(relu="numpy"))
        assert found.execution == "interpreter"


def test_the_peak_is_measured_with_our_own_product(numba):
    from nnkernels.backends.numba.products import tuning

    found = profiling.peak("float32")
    assert found.rate > 0
    assert found.by.startswith("our own" if tuning.has_tiles() else "NumPy's")
