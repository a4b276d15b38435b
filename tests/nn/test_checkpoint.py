"""Checkpoints: a resumed training equals an uninterrupted one, a wrong file changes nothing."""

from __future__ import annotations

import json

import numpy as np
import pytest

from nnkernels.errors import CheckpointError, InputError, NnkernelsError
from nnkernels.nn import (
    MLP,
    SGD,
    Activation,
    Adam,
    AdamW,
    Linear,
    Model,
    RMSprop,
    Trainer,
    WarmUp,
    load_model,
    save_model,
)
from nnkernels.nn.tensorfile import load_tensors, save_tensors

OPTIMIZERS = [
    SGD(0.1),
    SGD(0.1, momentum=0.9),
    SGD(0.1, momentum=0.9, nesterov=True, weight_decay=0.01),
    RMSprop(0.01),
    Adam(0.01),
    AdamW(0.01),
]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run.safetensors"


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=str)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_resumed_training_equals_an_uninterrupted_one(
    optimizer, dtype, path, classes, rich_model, assert_same_state
):
    options = {"schedule": "exponential", "clip_norm": 1.0, "clip_value": 0.5}
    whole, first = (Trainer(rich_model(dtype=dtype), optimizer, **options) for _ in range(2))
    record = ["linear0.weight"]
    fit = {"batch_size": 7, "validation_data": classes, "record": record, "progress": False}
    whole.fit(*classes, epochs=5, **fit)
    first.fit(*classes, epochs=2, **fit)
    first.save(path)
    second = Trainer.load(path)
    assert_same_state(first, second)
    second.fit(*classes, epochs=3, **fit)
    assert_same_state(whole, second)
    for name in ("loss", "accuracy", "val_loss", "val_accuracy", "learning_rate"):
        np.testing.assert_array_equal(whole.history[name], second.history[name])
    np.testing.assert_array_equal(
        whole.history.recorded["linear0.weight"], second.history.recorded["linear0.weight"]
    )
    for name, array in whole.model.parameters.items():
        assert array.tobytes() == second.model.parameters[name].tobytes()


def test_everything_else_is_kept(path, classes):
    trainer = Trainer(
        MLP([4, Linear(np.int64(5)), Activation("elu", {"alpha": np.float32(0.5)}), Linear(3)]),
        Adam(np.float64(0.25)),
        schedule=WarmUp(5),
        clip_norm=2,
    )
    trainer.fit(*classes, epochs=2, batch_size=7, progress=False)
    trainer.save(path)
    loaded = Trainer.load(path, backend="numpy")
    assert loaded.model.architecture == trainer.model.architecture
    assert (loaded.optimizer, loaded.schedule) == (Adam(0.25), WarmUp(5))
    assert (loaded.metrics, loaded.clip_norm, loaded.clip_value) == (("accuracy",), 2, None)
    assert loaded.history.epochs == trainer.history.epochs
    assert loaded.history.stop_reason == "epochs"
    assert loaded.settings == trainer.settings
    np.testing.assert_array_equal(loaded.predict(classes[0]), trainer.predict(classes[0]))


def test_a_trainer_that_has_not_trained_yet_is_saved(path, classes, assert_same_state):
    trainer = Trainer(MLP([4, 3], seed=2**63 - 1))
    trainer.save(path)
    assert_same_state(trainer, Trainer.load(path))


def test_a_model_alone(path, classes):
    model = MLP([4, 5, 3], norm="batch", dropout=0.1, l2=0.1, seed=9, dtype="float64")
    Trainer(model).fit(*classes, progress=False)
    save_model(model, path)
    loaded = load_model(path)
    assert loaded.architecture == model.architecture
    for name, array in {**model.parameters, **model.statistics}.items():
        assert array.tobytes() == {**loaded.parameters, **loaded.statistics}[name].tobytes()


def test_the_model_in_a_trainers_file(path, classes):
    trainer = Trainer(MLP([4, 3]), "adam")
    trainer.fit(*classes, progress=False)
    trainer.save(path)
    np.testing.assert_array_equal(
        load_model(path).parameters["linear0.weight"], trainer.weights()["linear0.weight"]
    )


def custom(seed=0, hidden=5):
    def forward(builder, x, training):
        w, v = builder.parameter("w", (4, hidden)), builder.parameter("v", (hidden, 3))
        y, _ = builder.call(
            "dropout", builder.call("matmul", x, w), builder.entry("seed"), builder.entry("step")
        )
        return builder.call("matmul", y, v)

    rng = np.random.default_rng(1)
    arrays = {"w": rng.normal(size=(4, hidden)), "v": rng.normal(size=(hidden, 3))}
    return Model(forward, arrays, inputs=4, outputs=3, seed=seed)


def test_a_model_of_ones_own_must_be_given(path, classes, assert_same_state):
    whole, first = Trainer(custom(3), "adam"), Trainer(custom(3), "adam")
    whole.fit(*classes, epochs=3, progress=False)
    first.fit(*classes, epochs=1, progress=False)
    first.save(path)
    with pytest.raises(CheckpointError, match="model="):
        Trainer.load(path)
    with pytest.raises(CheckpointError, match="model="):
        load_model(path)
    # The seed of the given model does not matter: the checkpoint's decides the order.
    second = Trainer.load(path, model=custom(seed=99))
    second.fit(*classes, epochs=2, progress=False)
    assert_same_state(whole, second)


def halving(step, per_epoch):
    return 0.5 ** (step // per_epoch)


def test_a_schedule_of_ones_own_must_be_given(path, classes, assert_same_state):
    whole, first = (Trainer(MLP([4, 3], seed=1), schedule=halving) for _ in range(2))
    whole.fit(*classes, epochs=3, progress=False)
    first.fit(*classes, epochs=1, progress=False)
    first.save(path)
    with pytest.raises(CheckpointError, match="schedule="):
        Trainer.load(path)
    second = Trainer.load(path, schedule=halving)
    second.fit(*classes, epochs=2, progress=False)
    assert_same_state(whole, second)


# --- refusals ----------------------------------------------------------------------------------


@pytest.fixture
def saved(path, classes):
    trainer = Trainer(MLP([4, 5, 3], norm="batch", seed=1), "adam")
    trainer.fit(*classes, epochs=1, progress=False)
    trainer.save(path)
    return path


def refused(path, model=None, match="run"):
    """Loading ``path`` fails, leaves ``model`` alone and creates no file."""
    before = {n: a.copy() for n, a in model.parameters.items()} if model else {}
    files = sorted(path.parent.iterdir())
    with pytest.raises(CheckpointError, match=match) as caught:
        Trainer.load(path, model=model)
    assert str(path) in str(caught.value)
    for name, array in before.items():
        np.testing.assert_array_equal(model.parameters[name], array)
    assert sorted(path.parent.iterdir()) == files


@pytest.mark.parametrize(
    "model",
    [
        MLP([4, 6, 3], norm="batch"),
        MLP([4, 5, 3]),
        MLP([4, 5, 5, 3], norm="batch"),
        MLP([4, 5, 3], norm="batch", dtype="float64"),
        MLP([3, 5, 3], norm="batch"),
    ],
    ids=repr,
)
def test_another_architecture_is_refused(saved, model):
    refused(saved, model, "architecture")


def test_a_model_file_is_no_training(path):
    save_model(MLP([4, 3]), path)
    refused(path, match="load_model")


def test_truncated_files_are_refused(saved):
    data = saved.read_bytes()
    for length in (0, 1, 7, 8, 100, len(data) // 2, len(data) - 1):
        saved.write_bytes(data[:length])
        refused(saved)


def test_altered_files_are_refused_or_equal(saved):
    data = bytearray(saved.read_bytes())
    good = load_tensors(saved)
    rng = np.random.default_rng(0)
    for _ in range(200):
        changed = data.copy()
        changed[rng.integers(len(data))] ^= 1 << int(rng.integers(8))
        saved.write_bytes(changed)
        try:
            tensors, _ = load_tensors(saved)
        except CheckpointError:
            continue
        assert all(tensors[n].tobytes() == a.tobytes() for n, a in good[0].items())


def edited(path, what, **changes):
    """Rewrite a checkpoint's metadata, sums and all."""
    tensors, metadata = load_tensors(path)
    description = {**json.loads(metadata[what]), **changes}
    save_tensors(path, tensors, {**metadata, what: json.dumps(description)})


@pytest.mark.parametrize(
    ("what", "changes"),
    [
        ("training", {"optimizer": {"kind": "adam", "learning_rate": -1}}),
        ("training", {"optimizer": {"kind": "lion"}}),
        ("training", {"metrics": ["recall"]}),
        ("training", {"schedule": {"kind": "step", "every": 0}}),
        ("training", {"schedule": "unheard of"}),
        ("training", {"clip_norm": -1.0}),
        ("training", {"epochs": "many"}),
        ("training", {"surprise": 1}),
        ("architecture", {"inputs": 0}),
        ("architecture", {"inputs": 5}),
        ("architecture", {"layers": [{"kind": "linear", "units": -3}]}),
        ("architecture", {"layers": [{"kind": "conv", "units": 3}]}),
        ("architecture", {"loss": {"name": "unheard of"}}),
        ("architecture", {"dtype": "float16"}),
        ("architecture", {"dtype": "float64"}),
        ("architecture", {"seed": -1}),
    ],
    ids=str,
)
def test_descriptions_that_make_no_sense_are_the_files_fault(saved, what, changes):
    edited(saved, what, **changes)
    refused(saved)


def test_a_missing_or_foreign_array_is_refused(saved):
    tensors, metadata = load_tensors(saved)
    save_tensors(saved, {n: a for n, a in tensors.items() if n != "linear0.bias"}, metadata)
    refused(saved, match="linear0.bias")
    save_tensors(saved, {**tensors, "extra": np.zeros(3)}, metadata)
    refused(saved, match="extra")


def test_an_unknown_backend_is_the_callers_fault(saved):
    with pytest.raises(InputError, match="numpy"):
        Trainer.load(saved, backend="nunpy")


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises((NnkernelsError, OSError), match="nowhere"):
        Trainer.load(tmp_path / "nowhere.safetensors")
