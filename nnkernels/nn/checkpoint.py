"""Checkpoints: a model, or a whole trainer, as one safetensors file.

The tensors are the named arrays of the model and of the State; everything else is JSON in the
file's metadata. Nothing is pickled, and a file is checked as a whole before anything is changed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from nnkernels.backend import Backend
from nnkernels.dispatch import get_backend
from nnkernels.errors import CheckpointError, InputError
from nnkernels.nn.epochs import FitSettings
from nnkernels.nn.history import Epoch
from nnkernels.nn.model import MLP, Architecture, Model
from nnkernels.nn.optimizers import AnyOptimizer
from nnkernels.nn.schedules import AnySchedule, Schedule
from nnkernels.nn.tensorfile import load_tensors, save_tensors
from nnkernels.spec import Array

if TYPE_CHECKING:
    from nnkernels.nn.trainer import Trainer

RECORDED = "recorded/"
CUSTOM = "custom"


class Training(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a trainer's checkpoint stores besides arrays."""

    optimizer: AnyOptimizer
    metrics: list[str]
    schedule: AnySchedule | str | None
    clip_norm: float | None
    clip_value: float | None
    settings: FitSettings | None
    backend: str
    stop_reason: str
    epochs: list[Epoch]


def save_model(model: Model, path: str | Path) -> None:
    """Write an MLP's architecture and arrays, or only the arrays of another model."""
    save_tensors(path, {**model.parameters, **model.statistics}, _architecture_metadata(model))


def load_model(path: str | Path) -> MLP:
    """The MLP in a file of :func:`save_model` or of ``Trainer.save``.

    Raises:
        CheckpointError: the file is damaged, foreign, or holds no MLP.
    """
    tensors, metadata = load_tensors(path)
    model = _model(path, metadata)
    _check_arrays(path, {**model.parameters, **model.statistics}, tensors)
    names = [*model.parameters, *model.statistics]
    model.set_parameters({name: tensors[name] for name in names})
    return model


def save_trainer(trainer: Trainer, path: str | Path) -> None:
    """Write everything that a resumed training needs to go on bit for bit."""
    tensors = {name: trainer.state.get(name) for name in _kept_names(trainer)}
    for name, arrays in trainer.history.recorded.items():
        tensors[RECORDED + name] = np.stack(arrays)
    metadata = _architecture_metadata(trainer.model)
    metadata["training"] = _encode(_training(trainer))
    save_tensors(path, tensors, metadata)


def load_trainer(
    path: str | Path, *, model: Model | None, backend: str | Backend, schedule: Any
) -> Trainer:
    """See :meth:`nnkernels.nn.Trainer.load`."""
    from nnkernels.nn.trainer import Trainer

    tensors, metadata = load_tensors(path)
    if "training" not in metadata:
        raise CheckpointError(
            f"{path}: holds a model, not a training; load it with nnkernels.nn.load_model"
        )
    training = _decode(path, "training", metadata["training"], Training)
    if training.schedule == CUSTOM and schedule is None:
        raise CheckpointError(f"{path}: trained with a schedule function; give schedule= again")
    backend = get_backend(backend)
    with _refused(path):
        trainer = Trainer(
            model if model is not None else _model(path, metadata),
            training.optimizer,
            backend=backend,
            metrics=training.metrics,
            schedule=schedule if schedule is not None else training.schedule,
            clip_norm=training.clip_norm,
            clip_value=training.clip_value,
        )
    _restore(path, trainer, tensors, training)
    return trainer


def _restore(
    path: str | Path, trainer: Trainer, tensors: Mapping[str, Array], training: Training
) -> None:
    """Bring a new trainer to where the checkpoint stands."""
    recorded = {n: a for n, a in tensors.items() if n.startswith(RECORDED)}
    kept = {n: a for n, a in tensors.items() if n not in recorded}
    wanted = {n: trainer.state.view(n) for n in _kept_names(trainer)}
    _check_arrays(path, wanted, kept)
    if foreign := sorted(set(kept) - set(wanted)):
        raise CheckpointError(f"{path}: holds {foreign[0]!r}; it is for another architecture")
    for name, array in kept.items():
        trainer.state.set(name, array)
    trainer.history.epochs = list(training.epochs)
    trainer.history.stop_reason = training.stop_reason
    trainer.history.recorded = {n[len(RECORDED) :]: list(a) for n, a in recorded.items()}
    trainer.settings = training.settings
    trainer.set_weights({})  # the model's arrays follow the State's


def _kept_names(trainer: Trainer) -> list[str]:
    """Arrays of the State that a checkpoint holds: not what every step computes anew."""
    entries = trainer.state.layout.entries
    return [e.name for e in entries if e.buffer not in ("gradients", "schedule")]


def _training(trainer: Trainer) -> Training:
    schedule = trainer.schedule
    plain = schedule is None or isinstance(schedule, (str, Schedule))
    return Training(
        optimizer=trainer.optimizer,  # type: ignore[arg-type]  # every Optimizer is in the union
        metrics=list(trainer.metrics),
        schedule=schedule if plain else CUSTOM,  # type: ignore[arg-type]
        clip_norm=trainer.clip_norm,
        clip_value=trainer.clip_value,
        settings=trainer.settings,
        backend=trainer.backend.name,
        stop_reason=trainer.history.stop_reason,
        epochs=trainer.history.epochs,
    )


def _architecture_metadata(model: Model) -> dict[str, str]:
    if not isinstance(model, MLP):
        return {}
    return {"architecture": _encode(model.architecture)}


def _encode(value: Any) -> str:
    """JSON, with NumPy's numbers (``units=np.int64(8)``) as plain ones."""
    return msgspec.json.encode(value, enc_hook=lambda number: number.item()).decode()


def _model(path: str | Path, metadata: Mapping[str, str]) -> MLP:
    if "architecture" not in metadata:
        raise CheckpointError(f"{path}: does not describe an MLP; give model= to load its arrays")
    architecture = _decode(path, "architecture", metadata["architecture"], Architecture)
    with _refused(path):
        return MLP.from_architecture(architecture)


@contextlib.contextmanager
def _refused(path: str | Path) -> Iterator[None]:
    """Blame the file for values that a model or a trainer refuses."""
    try:
        yield
    except InputError as error:
        raise CheckpointError(f"{path}: {error}") from error


def _decode(path: str | Path, what: str, text: str, kind: Any) -> Any:
    try:
        return msgspec.json.decode(text, type=kind)
    except (msgspec.DecodeError, RecursionError) as error:
        raise CheckpointError(f"{path}: its {what} cannot be read: {error}") from error


def _check_arrays(
    path: str | Path, wanted: Mapping[str, Array], found: Mapping[str, Array]
) -> None:
    """Every wanted array must be there in its shape and dtype."""
    for name, array in wanted.items():
        if name not in found:
            raise CheckpointError(
                f"{path}: array {name!r} is missing; it is for another architecture"
            )
        got = found[name]
        if (got.shape, got.dtype) != (array.shape, array.dtype):
            raise CheckpointError(
                f"{path}: array {name!r} is {got.shape} {got.dtype}, the model has {array.shape} "
                f"{array.dtype}; it is for another architecture"
            )
