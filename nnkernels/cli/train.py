"""``nnkernels train``."""

from __future__ import annotations

import re
import signal
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from nnkernels.cli._app import check_source, check_target
from nnkernels.errors import DivergedError, TrainingInterrupted

if TYPE_CHECKING:
    from nnkernels.data import Dataset
    from nnkernels.nn import MLP, Callback, Trainer

OUTPUT_ACTIVATIONS = {"binary_cross_entropy": "sigmoid", "categorical_cross_entropy": "softmax"}
"""What the last layer needs where the loss takes probabilities."""


DatasetArgument = Annotated[
    str, typer.Argument(metavar="DATASET", help="glyphs, spirals, mnist, ..., or a path.")
]
LayersOption = Annotated[
    str | None,
    typer.Option(metavar="SIZES", help="Hidden layers, like 64,32; '' for none. Default: 64."),
]
ActivationOption = Annotated[
    str | None, typer.Option(metavar="NAME", help="Of hidden layers. Default: relu.")
]
NormOption = Annotated[
    Literal["batch", "layer"] | None, typer.Option(help="Normalise hidden layers.")
]
DropoutOption = Annotated[
    float | None, typer.Option(metavar="P", help="Probability after hidden layers.")
]
LossOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAME", help="Default: softmax_cross_entropy for classes, mse for values."
    ),
]
OptimizerOption = Annotated[
    str | None, typer.Option(metavar="NAME", help="sgd, momentum, adam, ... Default: adam.")
]
LrOption = Annotated[
    float | None, typer.Option(metavar="RATE", help="Learning rate. Default: the optimizer's.")
]
WeightDecayOption = Annotated[float | None, typer.Option(metavar="X", help="Weight decay.")]
ScheduleOption = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="Learning rates: constant, step, exponential, cosine, ..."),
]
ClipNormOption = Annotated[
    float | None, typer.Option(metavar="X", help="Largest norm of the gradient.")
]
EpochsOption = Annotated[int, typer.Option(min=1, max=10**7, help="Epochs in all.")]
BatchOption = Annotated[
    int | None,
    typer.Option(
        min=0, max=10**9, help="Rows of a step; 0 takes all. Default: 32, or all if fewer."
    ),
]
PatienceOption = Annotated[
    int | None,
    typer.Option(min=0, max=10**7, help="Stop after so many epochs without improvement."),
]
SeedOption = Annotated[
    int | None, typer.Option(help="Of weights, shuffling and dropout. Default: 0.")
]
DtypeOption = Annotated[
    Literal["float32", "float64"] | None, typer.Option(help="Default: float32.")
]
BackendOption = Annotated[str, typer.Option("-b", "--backend", metavar="NAME", help="What trains.")]
SaveOption = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Write the training, .safetensors.")
]
ResumeOption = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Continue a saved training.")
]
PlotOption = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Draw the loss, .png, .svg or .pdf.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]


def command(
    dataset: DatasetArgument = "glyphs",
    layers: LayersOption = None,
    activation: ActivationOption = None,
    norm: NormOption = None,
    dropout: DropoutOption = None,
    loss: LossOption = None,
    optimizer: OptimizerOption = None,
    lr: LrOption = None,
    weight_decay: WeightDecayOption = None,
    schedule: ScheduleOption = None,
    clip_norm: ClipNormOption = None,
    epochs: EpochsOption = 10,
    batch: BatchOption = None,
    patience: PatienceOption = None,
    seed: SeedOption = None,
    dtype: DtypeOption = None,
    backend: BackendOption = "auto",
    save: SaveOption = None,
    resume: ResumeOption = None,
    plot: PlotOption = None,
    json: JsonOption = False,
) -> None:
    """Train a multi-layer perceptron on a dataset or table.

    Says how fast and how well it learned; the test rows are evaluated after every epoch. Ctrl-C
    ends after the current step, writes --save and --plot, and the same command with --resume FILE
    goes on from there. Exit code 5 when the training diverges; the last good step is written, too.

    \b
    Examples:
      nnkernels train
      nnkernels train mnist --layers 64,32 --epochs 5 --plot loss.png
      nnkernels train table.csv --loss mse --lr 0.001 --patience 5
      nnkernels train --epochs 3 --save model.safetensors
      nnkernels train --epochs 6 --resume model.safetensors
    """
    wanted = Wanted(
        None if layers is None else layer_sizes(layers),
        activation,
        norm,
        dropout,
        loss,
        optimizer,
        lr,
        weight_decay,
        schedule,
        clip_norm,
        batch,
        seed,
        dtype,
    )
    check_target("--save", save)
    _check_plot(plot)
    if resume is not None:
        check_source("--resume", resume)
    trainer, data = (
        _resumed(resume, wanted, dataset, backend) if resume else _new(wanted, dataset, backend)
    )
    try:
        _fit(trainer, data, epochs, _batch(trainer, wanted), _stopping(data, patience))
    except (TrainingInterrupted, DivergedError) as error:
        _write(trainer, save, plot)
        raise _for_the_command_line(error, trainer, save) from error
    _write(trainer, save, plot)
    if json:
        typer.echo(_json(trainer, data, save))
    else:
        _print(trainer, data)


@dataclass(frozen=True)
class Wanted:
    """The settings of a training, as given; None where the default, or the saved one, holds."""

    layers: tuple[int, ...] | None
    activation: str | None
    norm: str | None
    dropout: float | None
    loss: str | None
    optimizer: str | None
    lr: float | None
    weight_decay: float | None
    schedule: str | None
    clip_norm: float | None
    batch: int | None
    seed: int | None
    dtype: str | None


def layer_sizes(text: str) -> tuple[int, ...]:
    """``"64,32"`` as numbers; none for the empty text."""
    from nnkernels.errors import InputError

    if not text.strip():
        return ()
    if not re.fullmatch(r"\s*\d{1,9}\s*(,\s*\d{1,9}\s*)*", text):
        raise InputError(f"train: --layers must be sizes like 64,32, got {text[:60]!r}")
    return tuple(map(int, text.split(",")))


def _check_plot(path: Path | None) -> None:
    from nnkernels.errors import missing_extra

    check_target("--plot", path, (".png", ".svg", ".pdf"))
    if path is None:
        return
    try:
        import matplotlib  # noqa: F401  # only whether it is there
    except ImportError:
        raise missing_extra("--plot", "matplotlib", "report") from None


# --- a new training ----------------------------------------------------------------------------


def _new(wanted: Wanted, dataset: str, backend: str) -> tuple[Trainer, Dataset]:
    import msgspec

    from nnkernels import get_backend
    from nnkernels.data import load
    from nnkernels.nn import Trainer
    from nnkernels.nn.optimizers import as_optimizer

    chosen = get_backend(backend)
    optimizer = as_optimizer(wanted.optimizer or "adam", wanted.lr)
    if wanted.weight_decay is not None:
        optimizer = msgspec.structs.replace(optimizer, weight_decay=wanted.weight_decay)
    data = load(dataset, dtype=wanted.dtype or "float32")
    trainer = Trainer(
        _model(wanted, data),
        optimizer,
        backend=chosen,
        metrics=None if data.classes is None else ["accuracy"],
        schedule=wanted.schedule,
        clip_norm=wanted.clip_norm,
    )
    return trainer, data


def _model(wanted: Wanted, data: Dataset) -> MLP:
    from nnkernels.nn import MLP
    from nnkernels.nn.layers import as_activation

    loss = wanted.loss or ("mse" if data.classes is None else "softmax_cross_entropy")
    hidden = (64,) if wanted.layers is None else wanted.layers
    return MLP(
        [data.features, *hidden, _outputs(data, loss)],
        activation=as_activation(wanted.activation or "relu"),
        output_activation=OUTPUT_ACTIVATIONS.get(loss),
        loss=loss,
        dropout=wanted.dropout or 0.0,
        norm=wanted.norm,
        dtype=wanted.dtype or "float32",
        seed=wanted.seed or 0,
    )


def _outputs(data: Dataset, loss: str) -> int:
    """Columns of the last layer: one for two classes where the loss is binary."""
    if data.classes is None:
        return int(data.y_train.shape[1])
    return 1 if data.classes == 2 and loss.startswith("binary") else data.classes


# --- a saved one -------------------------------------------------------------------------------


def _resumed(path: Path, wanted: Wanted, dataset: str, backend: str) -> tuple[Trainer, Dataset]:
    from nnkernels.data import load
    from nnkernels.nn import Trainer

    trainer = Trainer.load(path, backend=backend)
    _refuse_contradictions(path, wanted, _saved(trainer))
    return trainer, load(dataset, dtype=trainer.model.dtype)


def _saved(trainer: Trainer) -> Wanted:
    """The settings of a loaded training."""
    from nnkernels.nn import Activation, BatchNorm, Dropout, LayerNorm, Linear

    model: Any = trainer.model
    settings, optimizer = trainer.settings, trainer.optimizer
    linear = [i for i, layer in enumerate(model.layers) if isinstance(layer, Linear)]
    hidden = model.layers[: linear[-1]] if linear else []

    def first(kind: Any, name: Callable[[Any], Any], default: Any) -> Any:
        return next((name(layer) for layer in hidden if isinstance(layer, kind)), default)

    return Wanted(
        tuple(layer.units for layer in hidden if isinstance(layer, Linear)),
        first(Activation, lambda layer: layer.name, None),
        first(
            (BatchNorm, LayerNorm), lambda n: "batch" if isinstance(n, BatchNorm) else "layer", None
        ),
        first(Dropout, lambda layer: layer.p, 0.0),
        model.loss.name,
        optimizer_name(optimizer),
        optimizer.rate,
        optimizer.weight_decay,  # type: ignore[attr-defined]  # every optimizer has one
        trainer.schedule or "constant",  # type: ignore[arg-type]  # the CLI sets names only
        trainer.clip_norm,
        None if settings is None else settings.batch_size,
        model.seed,
        model.dtype,
    )


def optimizer_name(optimizer: Any) -> str:
    """The name by which ``--optimizer`` takes it."""
    from nnkernels.nn import SGD

    if isinstance(optimizer, SGD) and optimizer.momentum:
        return "nesterov" if optimizer.nesterov else "momentum"
    return str(optimizer.__struct_config__.tag)


def _refuse_contradictions(path: Path, wanted: Wanted, saved: Wanted) -> None:
    from nnkernels.errors import InputError

    for name, given in asdict(wanted).items():
        before = getattr(saved, name)
        unsaid = before is None and name in ("activation", "batch")  # nothing that could differ
        if given is not None and given != before and not unsaid:
            option = "--" + name.replace("_", "-")
            raise InputError(
                f"train: {option} {_text(given)} contradicts {str(path)!r}, trained with "
                f"{_text(before)}; drop {option}, or train anew without --resume"
            )


def _text(value: Any) -> str:
    if isinstance(value, tuple):
        return ",".join(map(str, value)) or "no hidden layer"
    return "none" if value is None else str(value)


# --- training ----------------------------------------------------------------------------------


def _batch(trainer: Trainer, wanted: Wanted) -> int | Literal["auto"] | None:
    """Rows of a step: as given, as saved, or the trainer's default; None for all."""
    if wanted.batch is not None:
        return wanted.batch or None
    return "auto" if trainer.settings is None else trainer.settings.batch_size


def _stopping(data: Dataset, patience: int | None) -> list[Callback]:
    from nnkernels.nn import EarlyStopping

    if patience is None:
        return []
    return [EarlyStopping("val_loss" if len(data.x_test) else "loss", patience=patience)]


def _fit(
    trainer: Trainer,
    data: Dataset,
    epochs: int,
    batch: int | Literal["auto"] | None,
    callbacks: Sequence[Callback],
) -> None:
    from nnkernels.cli._render import counted
    from nnkernels.errors import InputError

    if trainer.epoch >= epochs:
        raise InputError(
            f"train: done already: {counted(trainer.epoch, 'epoch')}; ask for more, counted from "
            "the start, with --epochs"
        )
    test = (data.x_test, data.y_test) if len(data.x_test) else None
    trainer.fit(
        data.x_train,
        data.y_train,
        epochs=epochs - trainer.epoch,
        batch_size=batch,
        validation_data=test,
        callbacks=callbacks,
    )


def _for_the_command_line(
    error: TrainingInterrupted | DivergedError, trainer: Trainer, save: Path | None
) -> TrainingInterrupted | DivergedError:
    """``error`` with the remedies that the command line has."""
    if isinstance(error, DivergedError):
        kept = f"saved to {save}" if save else "lost (--save FILE keeps them)"
        message = (
            f"training diverged in epoch {error.epoch}: {error.tensor!r} is not finite; the "
            f"weights after step {error.step} are {kept}. Train anew with a lower --lr (it was "
            f"{trainer.optimizer.rate:g}), clip the gradient (--clip-norm 1), or scale the data"
        )
        return DivergedError(message, epoch=error.epoch, step=error.step, tensor=error.tensor)
    name, step = signal.Signals(error.signal).name, int(trainer.state.number("step"))
    remedy = (
        f"--resume {save} --epochs N goes on from there"
        if save
        else "nothing is saved; with --save FILE it can go on by --resume FILE --epochs N"
    )
    return TrainingInterrupted(
        f"training ended by {name} after step {step}; {remedy}", signal=error.signal
    )


def _write(trainer: Trainer, save: Path | None, plot: Path | None) -> None:
    """The files that were asked for, as far as the training came."""
    from nnkernels.cli._render import counted

    if save is not None:
        trainer.save(save)
        typer.echo(f"saved {save} after {counted(trainer.epoch, 'epoch')}", err=True)
    if plot is not None and trainer.epoch:
        _write_plot(trainer, plot)
    elif plot is not None:
        typer.echo(f"{plot} is not drawn: no epoch was completed", err=True)


def _write_plot(trainer: Trainer, path: Path) -> None:
    import io

    from nnkernels.files import write_atomically

    content = io.BytesIO()
    axes = trainer.history.plot()
    axes.figure.savefig(content, format=path.suffix[1:].lower(), dpi=150)
    write_atomically(path, content.getvalue())


# --- the report --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Outcome:
    """What a training came to; times are of the epochs, with the evaluation of the test rows.

    Attributes:
        epochs: that were done, by this run and those it continues.
        seconds: of all of them.
        samples_per_second: training rows seen in a second.
        best: name of the figure that tells the best epoch.
        best_value: its best value.
        best_epoch: in which it came.
        seconds_to_best: until the end of that epoch.
        stop_reason: why the training ended.
    """

    epochs: int
    seconds: float
    samples_per_second: float
    best: str
    best_value: float
    best_epoch: int
    seconds_to_best: float
    stop_reason: str


def _outcome(trainer: Trainer, data: Dataset) -> Outcome:
    history = trainer.history
    known, order = history.keys(), ("val_accuracy", "accuracy", "val_loss", "loss")
    best = next(name for name in order if name in known)
    at = best_epoch(best, history[best])
    seconds = float(history["seconds"].sum())
    return Outcome(
        len(history),
        seconds,
        len(history) * len(data.x_train) / seconds,
        best,
        float(history[best][at]),
        at,
        float(history["seconds"][: at + 1].sum()),
        history.stop_reason,
    )


def best_epoch(name: str, values: Any) -> int:
    """The first epoch with the best value of the figure ``name``."""
    return int(values.argmax() if "accuracy" in name else values.argmin())


def _print(trainer: Trainer, data: Dataset) -> None:
    from nnkernels.cli._render import counted, duration, quantity, stdout, table

    console, history = stdout(), trainer.history
    console.print(data.describe(), soft_wrap=True)
    console.print(trainer.summary())
    rows = table(
        ("figure", "left", 16), ("last", "right", 12), ("best", "right", 12), ("epoch", "right", 8)
    )
    for name in history.epochs[0].values:
        at = best_epoch(name, history[name])
        rows.add_row(name, f"{history[name][-1]:.6g}", f"{history[name][at]:.6g}", str(at))
    console.print(rows)
    end = _outcome(trainer, data)
    console.print(
        f"{history.backend}: {counted(end.epochs, 'epoch')} in {duration(end.seconds)}, "
        f"{quantity(end.samples_per_second, 'samples/s')}; "
        f"best {end.best} {end.best_value:.6g} after {duration(end.seconds_to_best)}"
        + ("" if end.stop_reason == "epochs" else f"; ended by {end.stop_reason}"),
        soft_wrap=True,
    )


def _json(trainer: Trainer, data: Dataset, save: Path | None) -> str:
    from nnkernels.cli._render import json_text

    report = {
        "dataset": data.name,
        "backend": trainer.history.backend,
        "parameters": trainer.model.parameter_count,
        **asdict(_outcome(trainer, data)),
        "saved": None if save is None else str(save),
        "history": trainer.history.epochs,
    }
    return json_text(report)
