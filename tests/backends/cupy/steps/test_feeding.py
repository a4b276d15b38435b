"""Data that stays in host memory: every batch arrives whole, in time, and while others compute."""

from __future__ import annotations

import numpy as np
import pytest

from nnkernels.backends.cupy import on
from nnkernels.backends.cupy.steps.feeding import HostRows
from nnkernels.backends.cupy.steps.pace import Pace
from nnkernels.errors import DTypeError, LabelError, ShapeError
from nnkernels.nn import MLP, Adam
from nnkernels.nn.lowering import predict_program
from nnkernels.testing import simulated

ROWS, BATCHES = 6, 8
MODEL = MLP([8, 12, 5], loss="softmax_cross_entropy", seed=2)


pytestmark = pytest.mark.usefixtures("needs_nvrtc")


@pytest.fixture(params=[None, 0, 1, 2])
def shuffled(request):
    """A device whose streams are served in some order."""
    pytest.importorskip("cupy", reason="no NVRTC: install nnkernels[ladder]")
    return on(simulated.cupy(order=request.param), layers="plain,cubin,lt,graph")


@pytest.fixture
def trained(bound, step_of, classes):
    """``trained(backend, place, gather)``: the State after some steps on placed arrays."""

    def trained(backend, place, *, gather, place_order=None):
        more = {"gather": BATCHES * ROWS} if gather else {}
        program = step_of(MODEL, Adam(), ROWS, metrics=("accuracy",), schedule=BATCHES, **more)
        executable, state = bound(backend, program, MODEL)
        state.set("schedule", np.full(BATCHES, 1e-2))
        x, y = classes(BATCHES * ROWS, 8, 5)
        arrays = {"x": place(x), "y": backend.asarray(y)}
        if gather:
            order = np.random.default_rng(4).permutation(BATCHES * ROWS)
            arrays["order"] = (place_order or backend.asarray)(order)
        executable.feed(**arrays)
        assert executable.run(3) == 3
        assert executable.run(BATCHES - 3) == BATCHES - 3
        return state

    return trained


@pytest.mark.parametrize("gather", [True, False])
def test_training_on_host_arrays_gives_the_same_bits(shuffled, trained, gather):
    resident = trained(shuffled, shuffled.asarray, gather=gather).snapshot()
    fed = trained(shuffled, np.asarray, gather=gather).snapshot()
    for buffer, values in resident.items():
        np.testing.assert_array_equal(fed[buffer], values, err_msg=buffer)


def test_the_order_may_stay_on_the_host_too(full, trained):
    resident = trained(full, full.asarray, gather=True).snapshot()
    for place in (np.asarray, full.asarray):
        fed = trained(full, place, gather=True, place_order=np.asarray).snapshot()
        for buffer, values in resident.items():
            np.testing.assert_array_equal(fed[buffer], values, err_msg=buffer)


def test_other_data_can_be_fed_between_runs(full, bound, step_of, classes):
    """What had travelled ahead of the data before is not taken for the new one's."""
    states = []
    for place in (full.asarray, np.asarray):
        executable, state = bound(full, step_of(MODEL, Adam(), ROWS, schedule=BATCHES), MODEL)
        state.set("schedule", np.full(BATCHES, 1e-2))
        for seed in range(3):
            x, y = classes(BATCHES * ROWS, 8, 5, seed)
            executable.feed(x=place(x), y=place(y))
            assert executable.run(2) == 2
        states.append(state.snapshot())
    for buffer, values in states[0].items():
        np.testing.assert_array_equal(states[1][buffer], values, err_msg=buffer)


def test_a_single_window_may_stay_on_the_host(shuffled, bound, classes):
    x, _ = classes(4 * ROWS, 8, 5)
    results = []
    for place in (np.asarray, shuffled.asarray):
        result = shuffled.device.empty((4 * ROWS, 5), "float32")
        executable, _ = bound(shuffled, predict_program(MODEL, ROWS, link=None), MODEL)
        executable.feed(x=place(x), prediction=result)
        assert executable.run(4) == 4
        results.append(shuffled.to_numpy(result))
    np.testing.assert_array_equal(*results)


def test_a_loss_that_is_not_finite_ends_the_run_with_its_own_batch(full, bound, step_of, classes):
    program = step_of(MODEL, Adam(), ROWS, schedule=BATCHES)
    executable, state = bound(full, program, MODEL)
    state.set("schedule", np.full(BATCHES, 1e-2))
    x, y = classes(BATCHES * ROWS, 8, 5)
    y[-1] = 0
    executable.feed(x=x, y=y)
    assert executable.run(2) == 2
    state.set("linear0.weight", np.full((8, 12), np.nan))
    assert executable.run(3) == 0
    assert [state.number(n) for n in ("row", "diverged")] == [2 * ROWS, 1]


@pytest.mark.parametrize("bad", [1, 2, 4, 7])
def test_a_bad_batch_within_a_chunk_leaves_what_it_leaves_on_the_device(
    full, bound, step_of, classes, monkeypatch, bad
):
    """Batches that were queued behind it leave no trace, neither in outputs nor in gradients."""
    monkeypatch.setattr(Pace, "next", lambda pace, most: most)
    x, y = classes(BATCHES * ROWS, 8, 5)
    x[bad * ROWS + 2] = np.nan
    left = []
    for place in (full.asarray, np.asarray):
        executable, state = bound(full, step_of(MODEL, Adam(), ROWS, schedule=BATCHES), MODEL)
        state.set("schedule", np.full(BATCHES, 1e-2))
        executable.feed(x=place(x), y=place(y))
        assert executable.run(1) == 1
        assert executable.run(BATCHES - 1) == bad - 1
        left.append({**state.snapshot(), "loss": executable.fetch("loss")})
    assert np.isnan(left[0]["loss"])
    for buffer, values in left[0].items():
        np.testing.assert_array_equal(left[1][buffer], values, err_msg=buffer)


def test_host_arrays_are_checked_too(full, bound, step_of, classes):
    executable, _ = bound(full, step_of(MODEL, Adam(), ROWS), MODEL)
    x, y = classes(ROWS, 8, 5)
    with pytest.raises(DTypeError, match="'x' must be float32"):
        executable.feed(x=x.astype(np.float64), y=y)
    with pytest.raises(ShapeError, match="'x' must have shape"):
        executable.feed(x=x[:-1], y=y)
    with pytest.raises(LabelError, match="'y' must lie"):
        executable.feed(x=x, y=y + 5)


def test_only_data_read_in_batches_may_stay_on_the_host(full, bound):
    executable, _ = bound(full, predict_program(MODEL, ROWS, link=None), MODEL)
    x = np.zeros((ROWS, 8), np.float32)
    with pytest.raises(DTypeError, match="'prediction' must be an array of device cuda:0"):
        executable.feed(x=x, prediction=np.zeros((ROWS, 5), np.float32))


# --- the buffers themselves ----------------------------------------------------------------------


@pytest.fixture
def cp():
    return simulated.cupy()


def test_the_next_batch_travels_before_it_is_asked_for(cp):
    source = np.arange(40, dtype=np.float32).reshape(20, 2)
    target, stream = cp.zeros((5, 2), np.float32), cp.cuda.Stream(non_blocking=True)
    rows = HostRows(on(cp).device, {"x": source}, {"x": target}, None)
    with stream:
        cp.log.reset()
        rows.bring(0, 5, stream)
        assert cp.log.names("transfer") == ["from host", "from host"]
        cp.log.reset()
        rows.bring(5, 10, stream)
        assert cp.log.names("transfer") == ["from host"]
        assert cp.log.allocations == 0
        np.testing.assert_array_equal(target.get(), source[5:10])


def test_a_batch_that_was_not_foreseen_is_fetched(cp):
    source = np.arange(20, dtype=np.float32).reshape(20, 1)
    target, stream = cp.zeros((5, 1), np.float32), cp.cuda.Stream(non_blocking=True)
    rows = HostRows(on(cp).device, {"x": source}, {"x": target}, np.arange(20)[::-1].copy())
    with stream:
        for row, following in ((0, 5), (15, 20), (10, 15)):
            rows.bring(row, following, stream)
            np.testing.assert_array_equal(target.get(), source[::-1][row : row + 5])


@pytest.mark.parametrize("order", [None, *range(6)])
@pytest.mark.parametrize("shuffled", [True, False])
def test_batches_arrive_whole_though_nobody_waits_for_them(order, shuffled):
    cp = simulated.cupy(order=order)
    source = np.arange(80, dtype=np.float32).reshape(40, 2)
    rows = np.random.default_rng(1).permutation(40) if shuffled else None
    target, stream = cp.zeros((5, 2), np.float32), cp.cuda.Stream(non_blocking=True)
    feeding = HostRows(on(cp).device, {"x": source}, {"x": target}, rows)
    seen = cp.zeros((40, 2), np.float32)
    cp.cuda.Device(0).synchronize()
    with stream:
        for row in range(0, 40, 5):
            feeding.bring(row, row + 5, stream)
            seen[row : row + 5] = target
        np.testing.assert_array_equal(seen.get(), source if rows is None else source[rows])
