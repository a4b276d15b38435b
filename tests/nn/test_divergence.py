"""A run that diverges stops, names the cause, and keeps the last good step."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import nnkernels
from nnkernels.errors import DivergedError
from nnkernels.nn import MLP, SGD, EarlyStopping, Trainer
from nnkernels.program import Interpreter

RNG = np.random.default_rng(0)
X = RNG.normal(size=(24, 3))
Y = RNG.normal(size=(24, 2))


def model(**options):
    return MLP([3, 4, 2], loss="mse", activation="tanh", dtype="float64", seed=1, **options)


def recording(states, base="numpy"):
    """A backend that notes parameters and moments after every single step."""

    class Recorder(Interpreter):
        def run(self, steps, stop=None):
            for done in range(steps):
                if super().run(1, stop) < 1:
                    return done
                kept = self.state.snapshot()
                names = ("parameters", "statistics", "velocity", "moment1", "moment2")
                states.append({n: kept[n] for n in names if n in kept})
            return steps

    return replace(nnkernels.get_backend(base), executor=Recorder)


def good_steps(states):
    """States of the steps that left everything finite."""
    finite = [all(np.isfinite(v).all() for v in s.values()) for s in states]
    return states[: finite.index(False)] if False in finite else states


CASES = {
    "weights overflow": (SGD(learning_rate=1e6), 4),
    "at once": (SGD(learning_rate=1e200), 4),
    "momentum": (SGD(learning_rate=1e5, momentum=0.9), 5),
    "full batch": (SGD(learning_rate=1e160), None),
}


@pytest.mark.parametrize(("optimizer", "batch"), CASES.values(), ids=CASES)
@pytest.mark.parametrize("backend", ["numpy", "reference"])
def test_weights_and_history_of_the_last_good_step_are_kept(backend, optimizer, batch):
    linear = MLP([3, 2], loss="mse", dtype="float64", seed=1)
    states: list[dict] = []
    runs = []
    for chosen in (recording(states, backend), backend):
        trainer = Trainer(MLP.from_architecture(linear.architecture), optimizer, backend=chosen)
        with pytest.raises(DivergedError) as caught:
            trainer.fit(X, Y, epochs=400, batch_size=batch, progress=False)
        runs.append((trainer, caught.value))
    trainer, error = runs[1]
    good = good_steps(states)
    assert error.step == trainer.state.number("step") == len(good) > 0
    assert error.epoch == len(trainer.history) == len(good) // -(-24 // (batch or 24))
    np.testing.assert_array_equal(trainer.state.buffers["parameters"], good[-1]["parameters"])
    for name, array in trainer.model.parameters.items():
        np.testing.assert_array_equal(array, trainer.state.get(name))
        assert np.isfinite(array).all()
    assert trainer.history.stop_reason == "diverged"
    assert all(np.isfinite(epoch.values["loss"]) for epoch in trainer.history)


def test_the_message_names_what_happened():
    trainer = Trainer(MLP([3, 2], loss="mse", seed=1), learning_rate=1e6)
    with pytest.raises(DivergedError) as caught:
        trainer.fit(X, Y, epochs=100, batch_size=8, progress=False)
    error = caught.value
    for part in (f"epoch {error.epoch}", f"step {error.step}", repr(error.tensor), "1e+06"):
        assert part in str(error)
    assert error.tensor in trainer.state.names() or "." in error.tensor


def test_the_first_bad_tensor_is_the_one_that_overflows():
    """Finite weights of 1e200: the second layer's product is the first that is infinite."""
    network = MLP([3, 2, 2], activation="identity", loss="mse", dtype="float64")
    weights = {n: np.full(a.shape, 1e200) for n, a in network.parameters.items()}
    trainer = Trainer(network)
    trainer.set_weights({n: w for n, w in weights.items() if n.endswith("weight")})
    before = trainer.state.snapshot()
    with pytest.raises(DivergedError) as caught:
        trainer.fit(np.abs(X), Y, epochs=1, batch_size=8, progress=False, shuffle=False)
    assert (caught.value.epoch, caught.value.step) == (0, 0)
    assert caught.value.tensor.startswith("linear2")
    for name in ("parameters", "counters"):
        np.testing.assert_array_equal(trainer.state.buffers[name], before[name])


def test_weights_that_break_in_the_last_step_of_an_epoch_are_not_kept():
    """The loss is still finite: only the update overflows, and no step follows in the epoch."""
    trainer = Trainer(MLP([3, 2], loss="mse", dtype="float64", seed=1), learning_rate=1e10)
    before = trainer.weights()
    with pytest.raises(DivergedError) as caught:
        trainer.fit(X * 1e150, Y * 0, epochs=1, batch_size=None, progress=False)
    assert caught.value.step == 0
    for name, array in trainer.weights().items():
        np.testing.assert_array_equal(array, before[name])


def test_statistics_are_kept_finite_too():
    trainer = Trainer(model(norm="batch"), learning_rate=1e-3)
    with pytest.raises(DivergedError):
        trainer.fit(X * 1e180, Y, epochs=3, batch_size=8, progress=False)
    assert all(np.isfinite(a).all() for a in trainer.weights().values())


def test_training_goes_on_with_a_better_rate():
    trainer = Trainer(MLP([3, 2], loss="mse", dtype="float64", seed=1), learning_rate=1e6)
    with pytest.raises(DivergedError):
        trainer.fit(X, Y, epochs=400, batch_size=4, progress=False)
    diverged = len(trainer.history)
    trainer.set_weights({"linear0.weight": np.zeros((3, 2)), "linear0.bias": np.zeros(2)})
    trainer.optimizer = SGD(learning_rate=1e-3)
    trainer.fit(X, Y, epochs=3, batch_size=4, progress=False)
    assert (trainer.history["loss"][diverged:] < 2).all()
    assert [epoch.epoch for epoch in trainer.history] == list(range(diverged + 3))


@pytest.mark.parametrize("batch", [4, 6, None])
def test_the_next_fit_begins_the_epoch_anew_with_any_settings(batch):
    """It trains like another trainer with the weights that were kept."""
    trainer = Trainer(MLP([3, 2], loss="mse", dtype="float64", seed=1), learning_rate=1e6)
    with pytest.raises(DivergedError):
        trainer.fit(X, Y, epochs=400, batch_size=4, shuffle=False, progress=False)
    trainer.set_weights({"linear0.weight": np.ones((3, 2)), "linear0.bias": np.ones(2)})
    fresh = Trainer(MLP([3, 2], loss="mse", dtype="float64", seed=1), learning_rate=0.01)
    fresh.set_weights(trainer.weights())
    trainer.optimizer = SGD(learning_rate=0.01)
    losses = [t.fit(X, Y, batch_size=batch, shuffle=False)["loss"][-1] for t in (trainer, fresh)]
    assert losses[0] == losses[1]
    for name, array in trainer.weights().items():
        np.testing.assert_array_equal(array, fresh.weights()[name])


def test_early_stopping_does_not_put_back_other_weights():
    states: list[dict] = []
    trainer = Trainer(
        MLP([3, 2], loss="mse", dtype="float64", seed=1),
        learning_rate=1e3,
        backend=recording(states),
    )
    with pytest.raises(DivergedError):
        hook = EarlyStopping("loss", patience=1000)
        trainer.fit(X, Y, epochs=400, batch_size=4, callbacks=[hook], progress=False)
    last = good_steps(states)[-1]["parameters"]
    np.testing.assert_array_equal(trainer.state.buffers["parameters"], last)
