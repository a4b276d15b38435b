"""Models on the command line: sizes like 784-64-10, or a checkpoint."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnkernels.cli._app import check_source, unknown_operator
from nnkernels.errors import InputError

if TYPE_CHECKING:
    from nnkernels.backend import Backend
    from nnkernels.nn import Trainer

SIZES = re.compile(r"\d{1,9}(-\d{1,9})+")


def refuse(command: str, options: dict[str, Any], reason: str) -> None:
    """Refuse options that would do nothing."""
    for option, value in options.items():
        if value is not None:
            raise InputError(f"{command}: {option} {value}: {reason}; drop {option}")


def trainer_of(
    command: str,
    target: str,
    backend: Backend,
    *,
    activation: str | None = None,
    optimizer: str | None = None,
    loss: str | None = None,
    dtype: str | None = None,
) -> Trainer:
    """What trains the network of so many layers, or goes on with the checkpoint.

    None stands for the default of a new network, and for what a checkpoint holds.
    """
    from nnkernels.cli.train import OUTPUT_ACTIVATIONS
    from nnkernels.nn import MLP, Trainer
    from nnkernels.nn.layers import as_activation

    if not SIZES.fullmatch(target):
        path = _checkpoint(command, target)
        given = {"--activation": activation, "--loss": loss, "--dtype": dtype}
        refuse(command, given, f"{target!r} has its own")
        return _saved(path, backend, optimizer)
    chosen = loss or "softmax_cross_entropy"
    model = MLP(
        [int(size) for size in target.split("-")],
        activation=as_activation(activation or "relu"),
        output_activation=OUTPUT_ACTIVATIONS.get(chosen),
        loss=chosen,
        dtype=dtype or "float32",
    )
    return Trainer(model, optimizer or "sgd", backend=backend)


def _checkpoint(command: str, target: str) -> Path:
    """``target`` as the name of a file, unless it looks like a misspelt operator or sizes."""
    path = Path(target)
    if os.sep in target or path.suffix or path.exists():
        check_source(f"{command}:", path)
        return path
    if set(target) <= set("0123456789-, x"):
        raise InputError(f"{command}: sizes are written like 784-64-10, got {target!r}")
    raise unknown_operator(target, " A network is given by its sizes, like 784-64-10.")


def _saved(path: Path, backend: Backend, optimizer: str | None) -> Trainer:
    """The training in a checkpoint; a new one where it holds a model, or ``optimizer`` is given."""
    from nnkernels.nn import Trainer, load_model
    from nnkernels.nn.tensorfile import load_tensors

    _, metadata = load_tensors(path)
    if optimizer is None and "training" in metadata:
        # No kernel depends on the schedule, and a function of the user's is not in the file.
        return Trainer.load(path, backend=backend, schedule="constant")
    return Trainer(load_model(path), optimizer or "sgd", backend=backend)


def described(trainer: Trainer, rows: int) -> str:
    """Batch, optimizer, clipping and backend, in words."""
    from nnkernels.cli.train import optimizer_name

    clips = (("value", trainer.clip_value), ("norm", trainer.clip_norm))
    clipping = [f"gradients clipped to {what} {limit:g}" for what, limit in clips if limit]
    words = [f"batch {rows}", optimizer_name(trainer.optimizer), *clipping]
    return f"{', '.join(words)}, on {trainer.backend.name}"
