"""The Trainer: what it counts, shows, predicts, and refuses."""

from __future__ import annotations

import threading
from dataclasses import replace

import numpy as np
import pytest

import nnkernels
from nnkernels import get_backend
from nnkernels.errors import (
    DTypeError,
    InputError,
    LabelError,
    NnkernelsError,
    NonFiniteError,
    ProgramError,
    ShapeError,
    UnknownNameError,
)
from nnkernels.nn import MLP, SGD, BatchNorm, Callback, Dropout, EarlyStopping, Loss, Trainer
from nnkernels.program import Interpreter

X = np.random.default_rng(0).normal(size=(12, 4))
Y = np.arange(12) % 3


def fresh(**options) -> Trainer:
    return Trainer(MLP([4, 5, 3], dtype="float64", seed=1), "sgd", learning_rate=0.1, **options)


def regression(**options) -> Trainer:
    return Trainer(MLP([4, 5, 2], loss="mse", dtype="float64", seed=1), **options)


def forward(model, x):
    w1, b1, w2, b2 = model.parameters.values()
    return np.maximum(x @ w1 + b1, 0) @ w2 + b2


def softmax(z):
    e = np.exp(z - z.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


# --- inference ---------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [1, 5, 1024, 2051], ids=lambda n: f"{n} rows")
def test_prediction_goes_in_batches_with_a_rest(rows):
    trainer = fresh()
    x = np.random.default_rng(1).normal(size=(rows, 4))
    y = np.random.default_rng(2).integers(0, 3, rows)
    z = forward(trainer.model, x)
    np.testing.assert_allclose(trainer.outputs(x), z, rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(trainer.predict_proba(x), softmax(z), rtol=1e-12)
    np.testing.assert_array_equal(trainer.predict(x), z.argmax(1))
    got = trainer.evaluate(x, y)
    assert got["loss"] == pytest.approx(-np.log(softmax(z)[np.arange(rows), y]).mean(), rel=1e-12)
    assert got["accuracy"] == pytest.approx((z.argmax(1) == y).mean(), rel=1e-15)


def test_no_rows_give_no_predictions():
    trainer = fresh()
    assert trainer.outputs(np.empty((0, 4))).shape == (0, 3)
    assert trainer.predict(np.empty((0, 4))).shape == (0,)


def test_regression_predicts_values():
    trainer = regression(metrics=("mae", "mse"))
    z, target = forward(trainer.model, X), np.ones((12, 2))
    np.testing.assert_allclose(trainer.predict(X), z, rtol=1e-13)
    got = trainer.evaluate(X, target)
    assert got["mae"] == pytest.approx(np.abs(z - target).mean(), rel=1e-13)
    assert got["loss"] == got["mse"] == pytest.approx(np.square(z - target).mean(), rel=1e-13)
    with pytest.raises(InputError, match="predict"):
        trainer.predict_proba(X)


@pytest.mark.parametrize("loss", ["binary_cross_entropy_with_logits", "binary_cross_entropy"])
def test_binary_classification(loss):
    last = "sigmoid" if loss == "binary_cross_entropy" else None
    model = MLP([4, 1], loss=loss, output_activation=last, dtype="float64", seed=1)
    trainer, y = Trainer(model), (X[:, 0] > 0).astype(int)
    trainer.fit(X, y, epochs=200, batch_size=None, progress=False)
    z = X @ model.parameters["linear0.weight"] + model.parameters["linear0.bias"]
    np.testing.assert_allclose(trainer.predict_proba(X), 1 / (1 + np.exp(-z)), rtol=1e-12)
    np.testing.assert_array_equal(trainer.predict(X), (z[:, 0] > 0).astype(int))
    assert trainer.evaluate(X, y)["accuracy"] == (trainer.predict(X) == y).mean()


def test_inference_leaves_a_started_epoch_alone(assert_same_state):
    trainer, other = fresh(), fresh()
    for t in (trainer, other):
        t.fit(X, Y, epochs=1, batch_size=5, progress=False)
        t.state.set("row", 5)
        t.state.set("loss_sum", 1.5)
    trainer.evaluate(X, Y)
    trainer.predict(X)
    trainer.gradients(X, Y)
    assert_same_state(trainer, other)


def test_dropout_and_batch_norm_act_in_training_only():
    model = MLP([4, BatchNorm(), Dropout(0.5)], loss="mse", dtype="float64")
    model.set_parameters({"batch_norm0.running_mean": np.ones(4)})
    expected = (X - 1) / np.sqrt(1 + 1e-5)
    np.testing.assert_allclose(Trainer(model).outputs(X), expected, rtol=1e-12)


def test_gradients_are_those_of_the_loss_with_penalties():
    model = MLP([4, 2], loss="mse", l2=0.5, dtype="float64", seed=1)
    w, b = model.parameters.values()
    target = np.ones((12, 2))
    loss, gradients = Trainer(model).gradients(X, target)
    error = X @ w + b - target
    assert loss == pytest.approx(np.square(error).mean() + 0.5 * np.square(w).sum(), rel=1e-13)
    expected = X.T @ error * 2 / error.size + w
    np.testing.assert_allclose(gradients["linear0.weight"], expected, rtol=1e-12)


# --- training ----------------------------------------------------------------------------------


def test_the_history_of_a_fit():
    trainer = fresh()
    history = trainer.fit(X, Y, epochs=3, batch_size=5, validation_data=(X, Y), progress=False)
    assert history is trainer.history
    assert [e.step for e in history] == [3, 6, 9]
    assert history.keys() == [
        "loss", "accuracy", "val_loss", "val_accuracy", "learning_rate", "seconds",
    ]  # fmt: skip
    assert history.stop_reason == "epochs"
    assert (history["seconds"] > 0).all()
    after = trainer.evaluate(X, Y)
    assert history["val_loss"][-1] == after["loss"]
    assert history["val_accuracy"][-1] == after["accuracy"]


def test_fitting_in_parts_is_fitting_at_once(assert_same_state, rich_model):
    whole, parts = (Trainer(rich_model(), "adam") for _ in range(2))
    whole.fit(X, Y, epochs=5, batch_size=5, progress=False)
    for epochs in (2, 0, 3):
        parts.fit(X, Y, epochs=epochs, batch_size=5, progress=False)
    assert_same_state(whole, parts)
    np.testing.assert_array_equal(whole.history["loss"], parts.history["loss"])


def test_the_batch_size_may_change_between_epochs():
    trainer = fresh()
    trainer.fit(X, Y, epochs=1, batch_size=5, progress=False)
    trainer.fit(X, Y, epochs=1, batch_size=None, progress=False)
    assert [e.step for e in trainer.history] == [3, 4]


def orders(backend, epochs=3):
    """The order of the rows, read off single-sample steps on marked data."""
    seen: list[float] = []

    def noting(x, w, b, *, out):
        seen.append(float(x[0, 0]))
        np.copyto(out, x @ w + b)

    chosen = nnkernels.get_backend(backend).replace(linear=noting)
    trainer = Trainer(MLP([1, 1], loss="mse", seed=5), learning_rate=1e-9, backend=chosen)
    x = np.arange(10.0)[:, None]
    trainer.fit(x, x, epochs=epochs, batch_size=1, progress=False)
    return np.reshape(seen, (epochs, 10))


def test_the_order_is_the_same_on_every_backend_and_new_every_epoch():
    numpy, reference = orders("numpy"), orders("reference")
    np.testing.assert_array_equal(numpy, reference)
    assert len({tuple(o) for o in numpy}) == 3
    np.testing.assert_array_equal(np.sort(numpy), np.tile(np.arange(10), (3, 1)))


def test_labels_and_one_hot_rows_train_alike():
    one, other = fresh(), fresh()
    one.fit(X, Y, epochs=3, batch_size=5, progress=False)
    other.fit(X, np.eye(3)[Y], epochs=3, batch_size=5, progress=False)
    np.testing.assert_allclose(one.history["loss"], other.history["loss"], rtol=1e-12)
    assert list(one.history["accuracy"]) == list(other.history["accuracy"])


def test_labels_become_rows_for_other_losses():
    one, other = (Trainer(MLP([4, 3], loss="mse", seed=1)) for _ in range(2))
    one.fit(X, Y, epochs=2, progress=False, batch_size=5)
    other.fit(X, np.eye(3)[Y], epochs=2, progress=False, batch_size=5)
    np.testing.assert_array_equal(one.history["loss"], other.history["loss"])


@pytest.mark.parametrize("clip", [{"clip_norm": 0.01}, {"clip_value": 0.003}, {"clip_norm": 1e9}])
def test_clipping(clip):
    trainer, plain = fresh(**clip), fresh()
    _, gradients = plain.gradients(X, Y)
    before = trainer.weights()
    trainer.fit(X, Y, batch_size=None, progress=False, shuffle=False)
    norm = np.sqrt(sum(np.square(g).sum() for g in gradients.values()))
    for name, gradient in gradients.items():
        if "clip_norm" in clip:
            gradient = gradient * min(1, clip["clip_norm"] / (norm + 1e-6))
        else:
            gradient = np.clip(gradient, -0.003, 0.003)
        expected = before[name] - 0.1 * gradient
        np.testing.assert_allclose(trainer.weights()[name], expected, rtol=1e-12, atol=1e-15)


def test_weight_decay_shrinks_what_has_no_gradient():
    trainer = Trainer(MLP([4, 3], loss="mse"), SGD(learning_rate=0.5, weight_decay=0.2))
    before = trainer.weights()["linear0.weight"]
    trainer.fit(np.zeros((4, 4)), np.zeros((4, 3)), batch_size=4, progress=False)
    np.testing.assert_allclose(trainer.weights()["linear0.weight"], 0.9 * before, rtol=1e-6)


def test_recorded_arrays():
    trainer = fresh()
    names = ["linear0.weight", "linear0.weight.gradient"]
    history = trainer.fit(X, Y, epochs=3, batch_size=None, record=names, progress=False)
    weights, gradients = (np.stack(history.recorded[n]) for n in names)
    assert weights.shape == gradients.shape == (3, 4, 5)
    np.testing.assert_allclose(weights[1] - weights[0], -0.1 * gradients[1], rtol=1e-9, atol=1e-15)
    np.testing.assert_array_equal(weights[-1], trainer.model.parameters["linear0.weight"])


def test_gradient_norms_show_a_vanishing_gradient():
    sizes = [4, *[8] * 6, 3]
    trainer = Trainer(MLP(sizes, activation="sigmoid", dtype="float64", seed=1))
    history = trainer.fit(X, Y, epochs=2, batch_size=None, progress=False)
    first, last = (history.gradient_norms(f"linear{i}.weight") for i in (0, 12))
    assert (first < 1e-3 * last).all()
    _, gradients = trainer.gradients(X, Y)
    assert history.gradient_norms("linear0.weight").shape == (2,)
    assert gradients.keys() == history.epochs[0].gradient_norms.keys()


def test_a_trained_model_is_the_trainers():
    trainer = fresh()
    trainer.fit(X, Y, epochs=2, batch_size=5, progress=False)
    for name, array in trainer.weights().items():
        np.testing.assert_array_equal(trainer.model.parameters[name], array)
    assert trainer.summary() == trainer.model.summary()


def test_another_thread_trains_too(assert_same_state):
    trainer, other = fresh(), fresh()
    thread = threading.Thread(
        target=trainer.fit, args=(X, Y), kwargs={"epochs": 3, "batch_size": 5}
    )
    thread.start()
    thread.join(60)
    other.fit(X, Y, epochs=3, batch_size=5)
    assert_same_state(trainer, other)


def test_the_users_arrays_stay_as_they_are():
    x, y = X.copy(), Y.copy()
    trainer = Trainer(MLP([4, 5, 3], dtype="float64", dropout=0.3, norm="batch"), "adam")
    trainer.fit(x, y, epochs=2, batch_size=5, validation_data=(x, y), progress=False)
    trainer.predict(x)
    assert (x.tobytes(), y.tobytes()) == (X.tobytes(), Y.tobytes())


def test_any_layout_and_real_dtype_is_taken():
    expected = fresh().fit(X.round(), Y, epochs=2, batch_size=5, progress=False)["loss"]
    whole = X.round()
    for x in (
        np.asfortranarray(whole),
        whole.astype(int),
        whole.astype("float32"),
        whole.astype(">f8"),
        np.repeat(whole, 2, 0)[::2],
        whole[::-1].copy()[::-1],
        whole.tolist(),
        np.ma.array(whole),
    ):
        for y in (Y.astype("uint8"), Y.tolist(), np.repeat(Y, 2)[::2]):
            got = fresh().fit(x, y, epochs=2, batch_size=5, progress=False)["loss"]
            np.testing.assert_array_equal(got, expected)


# --- refusals ----------------------------------------------------------------------------------


def changed(array, at, value):
    array = np.array(array, dtype=np.result_type(array, type(value)))
    array[at] = value
    return array


RAGGED = [[1.0, 2.0], [3.0]]
BAD_DATA = {
    "nan in X": (changed(X, (7, 2), np.nan), Y, NonFiniteError, r"X is nan, row 7, column 2"),
    "inf in X": (changed(X, (3, 0), -np.inf), Y, NonFiniteError, r"-inf, row 3"),
    "too large": (changed(X, (3, 0), 1e300), Y, None, ""),
    "ragged X": (RAGGED, Y, InputError, "X .*ragged"),
    "object": (np.array([[1, None]] * 12), Y, DTypeError, "X has dtype object"),
    "complex": (X.astype(complex), Y, DTypeError, "complex128"),
    "text": (np.array([["a"] * 4] * 12), Y, DTypeError, "X has dtype"),
    "dates": (np.zeros((12, 4), "datetime64[s]"), Y, DTypeError, "datetime"),
    "structured": (np.zeros(12, "f4,f4"), Y, DTypeError, "X has dtype"),
    "masked": (np.ma.masked_greater(X, 0), Y, InputError, "masked"),
    "0-d": (np.float64(1), Y, ShapeError, r"\(rows, 4\)"),
    "1-d": (X[0], Y, ShapeError, r"\(4,\)"),
    "3-d": (X[None], Y, ShapeError, r"\(1, 12, 4\)"),
    "columns": (X[:, :3], Y, ShapeError, r"\(12, 3\)"),
    "empty": (X[:0], Y[:0], InputError, "empty"),
    "lengths": (X, Y[:-1], ShapeError, "12 rows, y has 11"),
    "label too large": (X, changed(Y, 4, 3), LabelError, r"y\[4\] is 3"),
    "label negative": (X, changed(Y, 4, -1), LabelError, r"y\[4\] is -1"),
    "label wraps": (X, np.full(12, 2**64 - 1, "uint64"), LabelError, "18446744073709551615"),
    "label fractions": (X, Y + 0.5, DTypeError, "integer labels"),
    "ragged y": (X, RAGGED, InputError, "y .*ragged"),
    "0-d y": (X, np.int64(1), ShapeError, "y must"),
    "wide y": (X, np.zeros((12, 4)), ShapeError, r"\(12, 4\)"),
    "nan in y": (X, changed(np.eye(3)[Y], (5, 1), np.nan), NonFiniteError, "y is nan, row 5"),
    "no probability": (X, 2 * np.eye(3)[Y], LabelError, r"y must lie in \[0,1\].*row 0"),
}


@pytest.mark.parametrize(("x", "y", "error", "message"), BAD_DATA.values(), ids=BAD_DATA)
def test_bad_data_is_refused_and_changes_nothing(x, y, error, message, assert_same_state):
    trainer = fresh()
    if error is None:
        trainer = Trainer(MLP([4, 5, 3], seed=1))
        error, message = NonFiniteError, "not a finite float32"
    before = trainer.state.snapshot()
    with pytest.raises(error, match=message):
        trainer.fit(x, y, batch_size=4, progress=False)
    with pytest.raises(error, match=message):
        trainer.fit(X, Y, batch_size=4, validation_data=(x, y), progress=False)
    with pytest.raises(error, match=message):
        trainer.evaluate(x, y)
    for name, values in trainer.state.snapshot().items():
        np.testing.assert_array_equal(values, before[name])
    assert len(trainer.history) == 0


def test_targets_of_a_regression_are_checked_by_row():
    with pytest.raises(NonFiniteError, match="y is inf, row 2, column 1"):
        regression().fit(X, changed(np.zeros((12, 2)), (2, 1), np.inf), batch_size=4)


def test_binary_labels_are_checked():
    trainer = Trainer(MLP([4, 1], loss="binary_cross_entropy_with_logits"))
    with pytest.raises(LabelError, match="row 2"):
        trainer.fit(X, Y, batch_size=4)


@pytest.mark.parametrize(("rows", "batch"), [(1, 1), (31, 31), (32, 32), (33, 32), (100, 32)])
def test_a_step_takes_32_rows_or_all_unless_told_otherwise(rows, batch):
    trainer = fresh()
    x, y = np.resize(X, (rows, 4)), np.resize(Y, rows)
    trainer.fit(x, y, progress=False)
    assert trainer.settings.batch_size == batch


BAD_SETTINGS = [
    ({"batch_size": 13}, "larger than the data"),
    ({"batch_size": 0}, "batch_size"),
    ({"batch_size": -4}, "batch_size"),
    ({"batch_size": 4.0}, "batch_size"),
    ({"batch_size": True}, "batch_size"),
    ({"batch_size": "all"}, "batch_size"),
    ({"batch_size": [4, 4]}, "batch_size"),
    ({"batch_size": np.array([4, 4])}, "batch_size"),
    ({"batch_size": 10**18}, "larger than the data"),
    ({"epochs": -1}, "epochs"),
    ({"epochs": 1.5}, "epochs"),
    ({"record": ["linear0.weigth"]}, "linear0.weight"),
    ({"record": 3}, "a name or a list of names"),
    ({"shuffle": "no"}, "shuffle must be True or False"),
    ({"shuffle": 1}, "shuffle must be True or False"),
    ({"callbacks": EarlyStopping("loss")}, r"put a single one in brackets"),
    ({"callbacks": [print]}, r"nnkernels\.nn\.Callback.*print"),
    ({"callbacks": [EarlyStopping]}, r"nnkernels\.nn\.Callback"),
    ({"callbacks": [EarlyStopping("los")]}, "Did you mean 'loss'"),
    ({"callbacks": [EarlyStopping()]}, "need validation_data="),
    ({"callbacks": [EarlyStopping("mae")], "validation_data": (X, Y)}, "'mae'"),
    ({"validation_data": X}, "pair"),
    ({"validation_data": (X,)}, "pair"),
]


@pytest.mark.parametrize(("settings", "message"), BAD_SETTINGS)
def test_bad_settings_of_a_fit_are_refused(settings, message):
    trainer = fresh()
    before = trainer.weights()
    with pytest.raises(InputError, match=message):
        trainer.fit(X, Y, **{"batch_size": 4, **settings})
    for name, values in trainer.weights().items():
        np.testing.assert_array_equal(values, before[name])
    assert len(trainer.history) == 0


@pytest.mark.parametrize("hands_over", [True, False], ids=["another thread", "the same thread"])
def test_a_second_fit_at_the_same_time_is_refused(hands_over, assert_same_state):
    refused = []

    class Greedy(Callback):
        def epoch_end(self, trainer, record):
            if hands_over:
                thread = threading.Thread(target=self.refuse, args=(trainer,))
                thread.start()
                thread.join(60)
            else:
                self.refuse(trainer)

        def refuse(self, trainer):
            with pytest.raises(ProgramError, match="already training") as caught:
                trainer.fit(X, Y)
            refused.append(caught)

    trainer, other = fresh(), fresh()
    trainer.fit(X, Y, epochs=2, callbacks=[Greedy()])
    assert len(refused) == 2
    trainer.fit(X, Y)  # and not for ever
    other.fit(X, Y, epochs=3)
    assert_same_state(trainer, other)


def test_a_single_name_is_taken_for_a_list_of_one():
    trainer = regression(metrics="mae")
    history = trainer.fit(X, X[:, :2], record="linear0.weight", progress=False)
    assert trainer.metrics == ("mae",)
    assert list(history.recorded) == ["linear0.weight"]


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.zeros((3, 2, 2)), r"x\.reshape\(len\(x\), 4\)"),
        (np.zeros((3, 5)), r"takes 4 columns: reshape, or build MLP\(\[5, \.\.\.\]\)"),
        (np.zeros(4), "takes 4 columns: give one row for each sample"),
        (np.float64(1), "takes 4 columns: give one row for each sample"),
    ],
)
def test_features_of_another_shape_come_with_a_remedy(x, message):
    with pytest.raises(ShapeError, match=message):
        fresh().predict(x)


BAD_TRAINERS = [
    ({"clip_norm": 0}, InputError, "clip_norm"),
    ({"clip_norm": float("nan")}, InputError, "clip_norm"),
    ({"clip_value": -1}, InputError, "clip_value"),
    ({"clip_value": "1"}, InputError, "clip_value"),
    ({"metrics": ["acuracy"]}, UnknownNameError, "accuracy"),
    ({"metrics": ["mae"] * 5}, InputError, "at most 4"),
    ({"backend": "nunpy"}, UnknownNameError, "numpy"),
    ({"schedule": "cosinus"}, UnknownNameError, "cosine"),
    ({"schedule": 0.5}, InputError, "schedule"),
    ({"schedule": lambda step: 1.0}, InputError, "schedule must take two arguments"),
    ({"metrics": 3}, InputError, "a name or a list of names"),
    ({"metrics": "acuracy"}, UnknownNameError, "accuracy"),
    ({"learning_rate": 0}, InputError, "learning_rate"),
]


@pytest.mark.parametrize(("options", "error", "message"), BAD_TRAINERS)
def test_bad_arguments_of_a_trainer_are_refused(options, error, message):
    with pytest.raises(error, match=message):
        Trainer(MLP([4, 3]), **options)


def test_set_weights_changes_all_or_nothing():
    trainer = fresh()
    before = trainer.weights()
    for bad in ({"linear9.bias": [0]}, {"linear0.bias": [0.0]}, {"linear0.bias": [np.nan] * 5}):
        with pytest.raises(NnkernelsError):
            trainer.set_weights({"linear0.weight": np.ones((4, 5)), **bad})
    for name, values in trainer.weights().items():
        np.testing.assert_array_equal(values, before[name])


def test_a_loss_with_parameters():
    wide = Trainer(MLP([4, 1], loss=Loss("huber", {"delta": 1e6}), dtype="float64", seed=1))
    target = X.sum(1)
    w, b = wide.model.parameters.values()
    expected = np.square(X @ w + b - target[:, None]).mean() / 2
    assert wide.evaluate(X, target)["loss"] == pytest.approx(expected, rel=1e-12)


def test_validation_binds_its_programs_once():
    made = []

    def bind(backend, program, state):
        made.append(program.rows)
        return Interpreter(backend, program, state)

    trainer = fresh(backend=replace(get_backend("numpy"), executor=bind))
    trainer.fit(X, Y, epochs=4, batch_size=12, validation_data=(X[:7], Y[:7]))
    assert made == [12, 7]
