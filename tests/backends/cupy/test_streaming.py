"""A data set that does not fit on the device is streamed, with the same bits and one notice."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import pytest

from nnkernels.backends.cupy import on
from nnkernels.backends.cupy.staging import StreamingWarning
from nnkernels.errors import DeviceMemoryError, DivergedError
from nnkernels.nn import MLP, Callback, Trainer
from nnkernels.program import Interpreter
from nnkernels.testing import simulated

pytestmark = pytest.mark.usefixtures("needs_nvrtc")

ROWS, INPUTS, BATCH = 203, 64, 20
RNG = np.random.default_rng(0)
X = RNG.standard_normal((ROWS, INPUTS)).astype(np.float32)
Y = (X @ RNG.standard_normal((INPUTS, 3))).argmax(1)


def device(nbytes=None, layers="plain", order=None, executor=None):
    limit = {} if nbytes is None else {"memory_bytes": nbytes}
    backend = on(simulated.cupy(order=order, **limit), layers=layers)
    return backend if executor is None else replace(backend, executor=executor)


def used(backend):
    return backend.device.gpu.cp.machine.memory.used[0]


def take_all_but(rest, backend):
    """An array that leaves so many bytes of a device's memory."""
    place = backend.device
    place.synchronize()
    place.empty((1,), "uint8")  # what nobody owns any more is freed now
    return place.empty((place.gpu.device.mem_info[0] - rest,), "uint8")


def trainer(backend, **options):
    return Trainer(
        MLP([INPUTS, 8, 3], activation="relu", seed=1, **options), "adam", backend=backend
    )


def noted(call):
    """What a call gives, and the notices on the way."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = call()
    return result, [w for w in caught if w.category is StreamingWarning]


def fit(backend, data=(X, Y), model=None, **options):
    """A trainer after two epochs, and the notices."""
    trained = trainer(backend, **(model or {}))
    settings = {"epochs": 2, "batch_size": BATCH, "progress": False, **options}
    return trained, noted(lambda: trained.fit(*data, **settings))[1]


def fit_twice(case=None, **options):
    """Trainers whose data was streamed, and lay on the device."""
    case = case or {}
    large = device(**case)
    resident, silent = fit(large, **options)
    streamed, notices = fit(device(used(large) - X.nbytes // 2, **case), **options)
    assert (len(notices), len(silent)) == (1, 0)
    return streamed, resident


def assert_same(streamed, resident):
    figures = resident.history.keys()
    assert streamed.history.keys() == figures
    for name in set(figures) - {"seconds"}:
        np.testing.assert_array_equal(streamed.history[name], resident.history[name], name)
    kept = streamed.state.snapshot()
    for buffer, values in resident.state.snapshot().items():
        np.testing.assert_array_equal(kept[buffer], values, buffer)


CASES = {
    "eager": {"layers": "plain"},
    "graph": {"layers": "plain,cubin,lt,graph"},
    "streams in another order": {"layers": "plain,cubin,lt,graph", "order": 1},
    "interpreter": {"layers": "plain", "executor": Interpreter},
}


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_streamed_training_has_the_bits_of_the_resident(case, shuffle):
    assert_same(*fit_twice(case, shuffle=shuffle))


def test_what_depends_on_the_step_does_not_depend_on_where_data_lies():
    streamed, resident = fit_twice(
        model={"dropout": 0.3, "norm": "batch", "l2": 1e-3},
        validation_data=(X[:37], Y[:37]),
        record="linear0.weight.gradient",
    )
    assert_same(streamed, resident)
    recorded = (t.history.recorded["linear0.weight.gradient"] for t in (streamed, resident))
    np.testing.assert_array_equal(*recorded)


def test_targets_may_be_rows():
    assert_same(*fit_twice(data=(X, X[:, :3]), model={"loss": "mse"}))


def test_the_notice_says_how_much_there_is_and_what_it_costs():
    _, (notice,) = fit(device(90_000))
    text = str(notice.message)
    assert text.startswith("a data set of 0.1 MiB does not fit on cuda:0, where 0.0 MiB are free")
    assert "streamed from host memory" in text and "slower" in text


def test_sizes_are_told_in_gib_where_they_are_large():
    from nnkernels.backends.cupy.staging import _size

    assert [_size(5 << 28), _size(1 << 19)] == ["1.2 GiB", "0.5 MiB"]


@pytest.fixture
def small_passes(monkeypatch):
    monkeypatch.setattr("nnkernels.nn.passes.INFERENCE_ROWS", 40)


@pytest.mark.parametrize(("executor", "room"), [(None, 60_000), (Interpreter, 50_000)])
def test_evaluation_and_prediction_stream_too(small_passes, executor, room):
    few = {"data": (X[:5], Y[:5]), "batch_size": 5}
    resident, _ = fit(device(executor=executor), **few)
    small = device(200_000, executor=executor)
    streamed, silent = fit(small, **few)
    assert silent == []
    taken = take_all_but(room, small)
    for call in (lambda t: t.evaluate(X, Y), lambda t: t.predict_proba(X)):
        values, notices = noted(lambda call=call: call(streamed))
        np.testing.assert_equal(values, call(resident))
        assert len(notices) == 1
    assert taken.nbytes > 0


def test_validation_data_is_told_of_once_a_fit(small_passes):
    case = {"data": (X[:20], Y[:20]), "validation_data": (X, Y)}
    streamed, notices = fit(device(110_000), **case)
    resident, _ = fit(device(), **case)
    assert len(notices) == 1
    assert_same(streamed, resident)


class Takes(Callback):
    """Takes all memory but ``rest`` bytes after the first epoch."""

    def __init__(self, rest):
        self.rest = rest

    def epoch_end(self, trainer, record):
        if record.epoch == 0:
            self.taken = take_all_but(self.rest, trainer.backend)


def test_data_makes_room_when_a_later_epoch_finds_none_for_its_order():
    streamed, notices = fit(device(200_000), epochs=3, callbacks=[Takes(512)])
    resident, _ = fit(device(), epochs=3)
    assert len(notices) == 1
    assert_same(streamed, resident)


# --- divergence ----------------------------------------------------------------------------------


@pytest.mark.parametrize("executor", [None, Interpreter])
@pytest.mark.parametrize("shuffle", [True, False])
def test_divergence_is_found_in_its_own_batch(executor, shuffle):
    x = X.copy()
    x[150] = 1e38
    found = []
    large = device(executor=executor)
    for nbytes in (None, 90_000):
        trained = trainer(large if nbytes is None else device(nbytes, executor=executor))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with pytest.raises(DivergedError) as caught:
                trained.fit(x, Y, batch_size=BATCH, shuffle=shuffle, progress=False)
        found.append((caught.value.tensor, caught.value.step, trained.state.snapshot()))
    (tensor, step, kept), (streamed_tensor, streamed_step, streamed) = found
    assert (streamed_tensor, streamed_step) == (tensor, step)
    assert tensor != "a parameter after the update"
    for buffer, values in kept.items():
        np.testing.assert_array_equal(streamed[buffer], values, buffer)


# --- no room for anything else -------------------------------------------------------------------


def test_scratch_that_does_not_fit_is_an_error_as_ever():
    trained = trainer(device(40_000))
    with pytest.raises(DeviceMemoryError, match="no room on cuda:0 for a step of"):
        trained.fit(X, Y, batch_size=BATCH, progress=False)


@pytest.mark.parametrize("rows", [100, ROWS])
def test_streamed_batches_that_do_not_fit_are_an_error_with_the_batch_that_does(rows):
    small = {"data": (X[:rows], Y[:rows]), "batch_size": rows, "epochs": 1}
    needed = used(fit(device(), **small)[0].backend) - X[:rows].nbytes
    with (
        pytest.warns(StreamingWarning),
        pytest.raises(DeviceMemoryError, match=r"and 0\.\d MiB for streamed batches") as caught,
    ):
        trainer(device(needed)).fit(*small["data"], batch_size=rows, progress=False)
    fitting = int(str(caught.value).partition("batches of ")[2].split()[0])
    assert rows // 4 < fitting < rows
    del caught
    fit(device(needed), **{**small, "data": (X[:fitting], Y[:fitting]), "batch_size": fitting})


def test_the_batch_that_is_said_to_fit_beside_the_scratch_can_be_streamed():
    with pytest.raises(DeviceMemoryError, match="of scratch; ") as caught:
        trainer(device(40_000)).fit(X, Y, batch_size=ROWS, progress=False)
    fitting = int(str(caught.value).partition("batches of ")[2].split()[0])
    del caught
    rows = ROWS // fitting * fitting
    _, notices = fit(device(40_000), data=(X[:rows], Y[:rows]), batch_size=fitting, epochs=1)
    assert len(notices) == 1


def test_weights_that_do_not_fit_are_an_error_whatever_the_batch():
    with pytest.raises(DeviceMemoryError, match=r"the weights .* do not fit .*whatever the batch"):
        trainer(device(4_000))


def test_the_whole_data_as_one_batch_is_not_streamed_in_gradients():
    trained = trainer(device(60_000))
    with pytest.raises(DeviceMemoryError, match="no room"):
        trained.gradients(X, Y)
