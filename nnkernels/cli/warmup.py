"""``nnkernels warmup``."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from nnkernels.cli._app import INCOMPLETE
from nnkernels.errors import InputError

if TYPE_CHECKING:
    from nnkernels.backend import Backend
    from nnkernels.backends._compiled.entry import Entry
    from nnkernels.nn import Trainer

ROWS = 32
"""Of the steps that are prepared; compiled code is the same for any number of rows."""


def command(
    target: Annotated[
        str | None,
        typer.Argument(
            metavar="MODEL", help="Only for this: sizes like 784-64-10, or a checkpoint."
        ),
    ] = None,
    dtype: Annotated[
        Literal["float32", "float64"] | None, typer.Option(help="Only this. Default: both.")
    ] = None,
    activation: Annotated[
        str | None, typer.Option(metavar="NAME", help="Of MODEL's hidden layers. Default: relu.")
    ] = None,
    loss: Annotated[
        str | None, typer.Option(metavar="NAME", help="MODEL's. Default: softmax_cross_entropy.")
    ] = None,
    optimizer: Annotated[
        str | None, typer.Option(metavar="NAME", help="MODEL's. Default: as saved, or sgd.")
    ] = None,
) -> None:
    """Compile the kernels of backend numba now, so that no later run waits for it.

    They are compiled once on a machine, when they are first needed, and kept in your cache folder.
    This command compiles all that a training may need, or all that MODEL needs; when it is run
    again, nothing is left to do. Exit code 3 when Numba is not installed, or when the folder cannot
    be written and the next process would have to compile again.

    \b
    Examples:
      nnkernels warmup
      nnkernels warmup --dtype float32
      nnkernels warmup 784-64-10 --optimizer adam --dtype float32
    """
    from nnkernels import plugins
    from nnkernels.cli._models import refuse

    backend = plugins.load("numba")
    if not backend.kernels:
        raise InputError("warmup: NUMBA_DISABLE_JIT is set, so nothing is compiled; unset it")
    options = {"activation": activation, "loss": loss, "optimizer": optimizer}
    if target is None:
        given = {f"--{name}": value for name, value in options.items()}
        refuse("warmup", given, "it belongs to a MODEL, and none is given")
        dtypes = ["float32", "float64"] if dtype is None else [dtype]
        entries = [entry for one in dtypes for entry in _everything(backend, one)]
    else:
        trainers = list(_trainers(target, backend, dtype, options))
        dtypes = [trainer.model.dtype for trainer in trainers]
        entries = [entry for trainer in trainers for entry in _needed(backend, trainer)]
    _load(list(dict.fromkeys(entries)), f"{target or 'any model'} in {' and '.join(dtypes)}")


# --- what is compiled ----------------------------------------------------------------------------


def _everything(backend: Backend, dtype: str) -> Iterator[Entry]:
    """What all operators need, with all parameters and for all alternatives of their signatures."""
    import numpy as np

    from nnkernels.backends.numba import inventory
    from nnkernels.spec import OPERATORS
    from nnkernels.testing.samples import samples

    yield from inventory.general(dtype)
    for op in OPERATORS.values():
        for sample in samples(op, np.dtype(dtype)) if op.name in backend.kernels else ():
            shapes = [array.shape for array in sample.inputs]
            dtypes = [array.dtype.name for array in sample.inputs]
            outputs = len(sample.signature.outputs)
            yield from inventory.of_operator(backend, op, sample.params, shapes, dtypes, outputs)


def _trainers(
    target: str, backend: Backend, dtype: str | None, options: dict[str, Any]
) -> Iterator[Trainer]:
    """The trainings of MODEL: a network given by its sizes in both dtypes, unless one is asked."""
    from nnkernels.cli._models import SIZES, trainer_of

    both = dtype is None and SIZES.fullmatch(target)
    for one in ("float32", "float64") if both else (dtype,):
        yield trainer_of("warmup", target, backend, dtype=one, **options)


def _needed(backend: Backend, trainer: Trainer) -> Iterator[Entry]:
    """What training, evaluation and prediction need."""
    from nnkernels.backends.numba import inventory
    from nnkernels.nn.lowering import evaluate_program, predict_program

    model = trainer.model
    labels = model.loss.takes_labels
    programs = [
        *(trainer.step_program(ROWS, shuffle=shuffle) for shuffle in (True, False)),
        evaluate_program(model, ROWS, labels=labels, metrics=trainer.metrics),
        *(predict_program(model, ROWS, link=link) for link in {None, model.loss.link}),
    ]
    yield from inventory.general(model.dtype)
    for program in programs:
        yield from inventory.of_program(backend, program)


# --- compiling -----------------------------------------------------------------------------------


def _load(entries: Sequence[Entry], what: str) -> None:
    import warnings

    from nnkernels.backends.numba.compiling import linking
    from nnkernels.backends.numba.compiling.object_cache import CacheWarning
    from nnkernels.cli._render import Bar, counted, duration

    began, before = time.perf_counter(), [entry.seconds for entry in entries]
    with (
        warnings.catch_warnings(record=True) as caught,
        Bar(len(entries)) as bar,
    ):
        warnings.simplefilter("always", CacheWarning)
        linking.load(entries, lambda done, total: bar.show("kernels", done, total))
    pairs = zip(entries, before, strict=True)
    compiled = sum(entry.seconds > seconds for entry, seconds in pairs)
    work = (
        f"{compiled:,} compiled in {duration(time.perf_counter() - began)}"
        if compiled
        else "nothing had to be compiled"
    )
    typer.echo(f"{counted(len(entries), 'kernel')} for {what}: {work}")
    for warning in caught:
        typer.echo(f"nnkernels: warmup: {warning.message}", err=True)
    if any("kept in memory" in str(warning.message) for warning in caught):
        raise typer.Exit(INCOMPLETE)
    typer.echo(f"kept in {linking.cache().folder}")
