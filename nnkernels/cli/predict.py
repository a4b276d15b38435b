"""``nnkernels predict``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nnkernels.cli._app import check_source, check_target

if TYPE_CHECKING:
    from nnkernels.nn import MLP, Trainer
    from nnkernels.spec import Array

TABLES = (".csv", ".npy")
"""Ends of the names of files that are tables."""


def command(
    model: Annotated[
        Path, typer.Argument(metavar="MODEL", help="A file written by 'nnkernels train --save'.")
    ],
    data: Annotated[
        str, typer.Argument(metavar="DATA", help="A dataset's name, or a .csv, .npy or .npz file.")
    ],
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="FILE", help="Write to a .csv or .npy file."),
    ] = None,
    proba: Annotated[
        bool, typer.Option("--proba", help="Probabilities of the classes, not labels.")
    ] = False,
    backend: Annotated[
        str, typer.Option("-b", "--backend", metavar="NAME", help="What computes.")
    ] = "auto",
) -> None:
    """Predict labels or values with a trained model.

    One row for each row of the data. The table of a .csv or .npy file is predicted row by row, as
    it stands; a last column that the model does not need holds the targets. Of other datasets the
    test rows are predicted. Where targets are known, loss and accuracy go to standard error.

    \b
    Examples:
      nnkernels predict model.safetensors glyphs
      nnkernels predict model.safetensors table.csv --proba -o probabilities.csv
    """
    from nnkernels import get_backend
    from nnkernels.nn import Trainer, load_model

    check_target("-o", output, TABLES)
    check_source("predict: MODEL", model)
    chosen = get_backend(backend)
    network = load_model(model)
    rows = _rows(data, network)
    labels = rows.y is not None and rows.y.dtype.kind == "i"
    trainer = Trainer(network, backend=chosen, metrics=["accuracy"] if labels else None)
    result = trainer.predict_proba(rows.x) if proba else trainer.predict(rows.x)
    score = _score(trainer, rows)
    _write(_encode(result, output, proba=proba), output)
    if score:
        typer.echo(score, err=True)


@dataclass(frozen=True)
class Rows:
    """Features (n, inputs), and their labels (n) int64 or values (n, outputs), if known."""

    x: Array
    y: Array | None


def _rows(source: str, model: MLP) -> Rows:
    from nnkernels.data import load, names, read_table

    if Path(source).suffix.lower() in TABLES and source not in names():
        return _split(source, read_table(source, dtype=model.dtype), model)
    data = load(source, dtype=model.dtype)
    if len(data.x_test):
        return Rows(data.x_test, data.y_test)
    return Rows(data.x_train, data.y_train)


def _split(path: str, table: Array, model: MLP) -> Rows:
    from nnkernels.errors import ShapeError

    extra = table.shape[1] - model.inputs
    if extra not in (0, 1):
        raise ShapeError(
            f"predict: {path!r} has {table.shape[1]} columns; the model takes {model.inputs}, "
            "and one more may hold the targets: take the columns that it was trained on"
        )
    if not extra:
        return Rows(table, None)
    return Rows(table[:, :-1], _targets(path, table[:, -1], model))


def _targets(path: str, column: Array, model: MLP) -> Array:
    """The last column as labels where the model is a classifier."""
    import numpy as np

    from nnkernels.errors import LabelError

    if not model.loss.classifies:
        return column[:, None]
    wrong = np.flatnonzero((column < 0) | (column != np.floor(column)) | (column > 1 << 24))
    if len(wrong):
        raise LabelError(
            f"predict: {path!r} holds {column[wrong[0]]} in the last column of row {wrong[0]} "
            "(from 0); labels are whole numbers from 0"
        )
    return column.astype(np.int64)


def _encode(result: Array, output: Path | None, *, proba: bool) -> bytes:
    """The bytes of a .npy file, or of a .csv file with a header."""
    import io

    import numpy as np

    content = io.BytesIO()
    if output is not None and output.suffix.lower() == ".npy":
        np.save(content, result, allow_pickle=False)
    else:
        form = "%d" if result.dtype.kind == "i" else f"%.{9 if result.itemsize == 4 else 17}g"
        header = _header(result, proba=proba)
        np.savetxt(content, result, fmt=form, delimiter=",", header=header, comments="")
    return content.getvalue()


def _header(result: Array, *, proba: bool) -> str:
    if result.ndim == 1:
        return "label"
    name = "p" if proba else "y"
    return ",".join(f"{name}{column}" for column in range(result.shape[1]))


def _write(content: bytes, output: Path | None) -> None:
    from nnkernels.files import write_atomically

    if output is not None:
        write_atomically(output, content)
    else:
        typer.echo(content.decode(), nl=False)


def _score(trainer: Trainer, rows: Rows) -> str:
    """Loss and metrics where targets are known, as a sentence."""
    if rows.y is None:
        return ""
    found = trainer.evaluate(rows.x, rows.y)
    figures = ", ".join(f"{name} {value:.6g}" for name, value in found.items())
    return f"{figures} over {len(rows.x)} rows"
