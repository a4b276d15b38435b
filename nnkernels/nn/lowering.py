"""From a model to Programs: a training step, a gradient, an evaluation, a prediction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from nnkernels.errors import InputError, ProgramError, ShapeError, unknown
from nnkernels.nn.losses import Loss
from nnkernels.nn.model import Model
from nnkernels.nn.optimizers import Optimizer
from nnkernels.program import Builder, Program, differentiate

METRICS = ("accuracy", "mae", "mse")


@dataclass(frozen=True, slots=True)
class Step:
    """What a training step consists of, besides the model.

    Attributes:
        optimizer: its update.
        metrics: names of :data:`METRICS`, accumulated over the epoch.
        labels: whether targets are class labels (integers) instead of rows of numbers.
        gather: number of rows of the data set when batches are gathered by a shuffled order;
            None when they are consecutive rows.
        clip_value: largest magnitude of a gradient's element, if clipped.
        clip_norm: largest Euclidean norm of the whole gradient, if clipped.
        schedule: length of the learning-rate schedule (steps of an epoch).
    """

    optimizer: Optimizer | None = None
    metrics: tuple[str, ...] = ()
    labels: bool = False
    gather: int | None = None
    clip_value: float | None = None
    clip_norm: float | None = None
    schedule: int = 1


def check_metrics(names: Sequence[str]) -> tuple[str, ...]:
    """Known metrics, at most four of them."""
    for name in names:
        if name not in METRICS:
            raise unknown("metric", name, METRICS)
    if len(names) > 4:
        raise InputError(f"metrics: at most 4, got {len(names)}")
    return tuple(names)


def train_program(model: Model, rows: int, step: Step) -> Program:
    """One step of training on ``rows`` samples: forward, loss, gradients, update."""
    builder = _builder(model, rows, step.schedule)
    x, target = _batch(builder, model, step)
    prediction, data_loss, loss = _forward(builder, model, x, target, training=True)
    differentiate(builder, loss)
    with builder.update_phase():
        if step.optimizer is not None:
            _accumulate(builder, model.loss, step.metrics, prediction, target, data_loss)
            _clip(builder, step)
            with builder.label("update"):
                _tick(builder)
                step.optimizer.build(builder)
        with builder.label("data"):
            _advance(builder)
    return builder.program(guard=loss, loss=loss, prediction=prediction)


def gradient_program(model: Model, rows: int, *, labels: bool) -> Program:
    """Loss and gradients of ``rows`` samples; nothing is updated."""
    builder = _builder(model, rows, 1)
    x, target = _batch(builder, model, Step(labels=labels))
    prediction, _, loss = _forward(builder, model, x, target, training=True)
    differentiate(builder, loss)
    return builder.program(loss=loss, prediction=prediction)


def evaluate_program(model: Model, rows: int, *, labels: bool, metrics: tuple[str, ...]) -> Program:
    """Loss and metrics of ``rows`` samples in inference mode, accumulated."""
    builder = _builder(model, rows, 1)
    x, target = _batch(builder, model, Step(labels=labels))
    prediction, data_loss, _ = _forward(builder, model, x, target, training=False)
    with builder.update_phase():
        _accumulate(builder, model.loss, metrics, prediction, target, data_loss)
        _advance(builder)
    return builder.program(loss=data_loss, prediction=prediction)


def predict_program(model: Model, rows: int, *, link: str | None) -> Program:
    """Predictions of ``rows`` samples, written to the rows of the input ``prediction``."""
    builder = _builder(model, rows, 1)
    x = builder.input("x", (rows, model.inputs))
    prediction = _predicted(builder, model, x, training=False)
    result = builder.input("prediction", (rows, model.outputs))
    with builder.label("output"):
        builder.emit(link or "identity", [prediction], [result], {})
    with builder.update_phase():
        _advance(builder)
    return builder.program(prediction=result)


def _builder(model: Model, rows: int, schedule: int) -> Builder:
    builder = Builder(rows, model.dtype, schedule=schedule)
    model.declare(builder)
    return builder


def _batch(builder: Builder, model: Model, step: Step) -> tuple[int, int]:
    """Slots of the batch's features and targets."""
    wide = (model.outputs,)
    interval = (0, model.outputs) if step.labels else None
    kind = "int64" if step.labels else None
    if step.gather is None:
        x = builder.input("x", (builder.rows, model.inputs))
        shape = (builder.rows, *(() if step.labels else wide))
        return x, builder.input("y", shape, kind, interval=interval)
    total = step.gather
    x = builder.input("x", (total, model.inputs), window=False)
    shape = (total, *(() if step.labels else wide))
    y = builder.input("y", shape, kind, window=False, interval=interval)
    order = builder.input("order", (builder.rows,), "int64", interval=(0, total))
    with builder.label("data"):
        return builder.call("gather_rows", x, order), builder.call("gather_rows", y, order)


def _predicted(builder: Builder, model: Model, x: int, *, training: bool) -> int:
    """The slot of the model's prediction, checked: its forward pass may be the user's."""
    slot = model.forward(builder, x, training=training)
    if not isinstance(slot, int) or not 0 <= slot < len(builder.slots):
        raise ProgramError(f"model: forward must return the prediction's slot, got {slot!r}")
    shape, want = builder.slots[slot].shape, (builder.rows, model.outputs)
    if shape != want:
        raise ShapeError(f"model: forward returned shape {shape}, expected {want} (rows, outputs)")
    known = {*model.parameters, *model.statistics}
    for entry in builder.slots:
        if entry.buffer in ("parameters", "statistics") and entry.name not in known:
            raise ProgramError(
                f"model: forward uses {entry.name!r}, which has no initial value; add it to "
                f"parameters= (or statistics=) with shape {entry.shape}"
            )
    return slot


def _forward(
    builder: Builder, model: Model, x: int, target: int, *, training: bool
) -> tuple[int, int, int]:
    """Slots of the prediction, of the data's loss, and of the loss with its penalties."""
    prediction = _predicted(builder, model, x, training=training)
    with builder.label("loss"):
        called = builder.call(model.loss.name, prediction, target, **model.loss.params)
        data_loss: int = called[0] if isinstance(called, tuple) else called
    loss = data_loss
    if training:
        for term in model.penalty(builder):
            with builder.label("loss"):
                loss = builder.call("add", loss, term)
    return prediction, data_loss, loss


def _accumulate(
    builder: Builder,
    loss: Loss,
    metrics: tuple[str, ...],
    prediction: int,
    target: int,
    data_loss: int,
) -> None:
    with builder.label("metrics"):
        total = builder.entry("loss_sum")
        builder.call("accumulate", total, data_loss, weight=float(builder.rows))
        for index, name in enumerate(metrics):
            total = builder.entry(f"metric{index}")
            if name == "accuracy":
                hits = builder.call("count_correct", prediction, target, threshold=loss.threshold)
                builder.call("count", total, hits)
            else:
                value = builder.call(name, prediction, target)
                builder.call("accumulate", total, value, weight=float(builder.rows))


def _clip(builder: Builder, step: Step) -> None:
    with builder.label("clip"):
        if step.clip_value is not None:
            builder.call("clip_by_value", builder.flat("gradients"), limit=step.clip_value)
        if step.clip_norm is not None:
            builder.call("clip_by_global_norm", builder.flat("gradients"), max_norm=step.clip_norm)


def _tick(builder: Builder) -> None:
    names = ("step", "epoch_step", "learning_rate")
    builder.emit("tick", [*map(builder.entry, names), builder.flat("schedule")], [], {})


def _advance(builder: Builder) -> None:
    builder.emit("advance", [builder.entry("row")], [], {"rows": builder.rows})
