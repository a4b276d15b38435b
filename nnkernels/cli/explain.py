"""``nnkernels explain``."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from nnkernels.backend import Backend
    from nnkernels.explain import Choice
    from nnkernels.nn import Trainer

SIZES = re.compile(r"\d{1,9}(-\d{1,9})+")


def command(
    target: Annotated[
        str,
        typer.Argument(
            metavar="OP|MODEL", help="An operator, a checkpoint file, or sizes like 784-64-10."
        ),
    ],
    backend: Annotated[
        str, typer.Option("-b", "--backend", metavar="NAME", help="Whose kernels.")
    ] = "auto",
    batch: Annotated[
        int | None,
        typer.Option(
            min=1, max=1 << 20, help="Rows of a model's training step. Default: as saved, or 32."
        ),
    ] = None,
    activation: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Of a model given by its sizes. Default: relu."),
    ] = None,
    optimizer: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Of a model's training step. Default: as saved, or sgd."),
    ] = None,
) -> None:
    """Show which kernels run, with file, line and reason.

    Of one operator, or of every instruction of a training step; for each the reason, the function,
    its file and its line; for layers also whether they are fused, or why not. A saved training is
    shown with its own optimizer, batch and clipping.

    \b
    Examples:
      nnkernels explain gelu
      nnkernels explain 784-64-32-10 --activation sigmoid --optimizer adam
      nnkernels explain model.safetensors -b "numpy[relu=mypkg.kernels:relu]"
    """
    from nnkernels import explain, get_backend
    from nnkernels.spec import OPERATORS

    chosen = get_backend(backend)
    if target in OPERATORS:
        given = {"--batch": batch, "--activation": activation, "--optimizer": optimizer}
        _refuse(given, f"{target!r} is an operator; it belongs to a model")
        _print(f"{target} on {chosen.name}", explain(target, chosen))
        return
    trainer = _trainer(target, chosen, activation, optimizer)
    saved = trainer.settings
    rows = batch or (saved.batch_size if saved else 32)
    program = trainer.step_program(rows, shuffle=saved.shuffle if saved else True)
    _print(f"a training step of {target}, {_described(trainer, rows)}", explain(program, chosen))


def _refuse(options: dict[str, Any], reason: str) -> None:
    """Refuse options that would do nothing."""
    from nnkernels.errors import InputError

    for option, value in options.items():
        if value is not None:
            raise InputError(f"explain: {option} {value}: {reason}; drop {option}")


def _trainer(
    target: str, backend: Backend, activation: str | None, optimizer: str | None
) -> Trainer:
    """What trains the network of so many layers, or goes on with the checkpoint."""
    from nnkernels.nn import MLP, Trainer
    from nnkernels.nn.layers import as_activation

    if not SIZES.fullmatch(target):
        path = _checkpoint(target)
        _refuse({"--activation": activation}, f"{target!r} has its own activations")
        return _saved(path, backend, optimizer)
    hidden = as_activation(activation or "relu")
    model = MLP([int(size) for size in target.split("-")], activation=hidden)
    return Trainer(model, optimizer or "sgd", backend=backend)


def _checkpoint(target: str) -> Path:
    """``target`` as the name of a file, unless it looks like a misspelt operator or sizes."""
    import os

    from nnkernels.cli._app import check_source, unknown_operator
    from nnkernels.errors import InputError

    path = Path(target)
    if os.sep in target or path.suffix or path.exists():
        check_source("explain:", path)
        return path
    if set(target) <= set("0123456789-, x"):
        raise InputError(f"explain: sizes are written like 784-64-10, got {target!r}")
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


def _described(trainer: Trainer, rows: int) -> str:
    """Batch, optimizer, clipping and backend, in words."""
    from nnkernels.cli.train import optimizer_name

    clips = (("value", trainer.clip_value), ("norm", trainer.clip_norm))
    clipping = [f"gradients clipped to {what} {limit:g}" for what, limit in clips if limit]
    words = [f"batch {rows}", optimizer_name(trainer.optimizer), *clipping]
    return f"{', '.join(words)}, on {trainer.backend.name}"


def _print(title: str, choices: list[Choice]) -> None:
    from nnkernels.cli._render import print_wrapped

    print_wrapped(title, style="bold")
    width = max(len(choice.label) for choice in choices)
    for number, choice in enumerate(choices):
        head = f"{number:>4}  {choice.label:<{width}}  " if len(choices) > 1 else "  "
        print_wrapped(f"{head}{choice.op}: {choice.why}", indent=len(head) + 2)
        for line in (choice.kernel, _place(choice)) if choice.kernel else ():
            print_wrapped(f"{'':<{len(head)}}{line}", indent=len(head) + 2, style="dim")


def _place(choice: Choice) -> str:
    """File and line; those of this package from its folder on."""
    import nnkernels

    if not choice.file:
        return "not a Python function"
    file, home = Path(choice.file), Path(nnkernels.__file__).parents[1]
    shown = file.relative_to(home) if file.is_relative_to(home / "nnkernels") else file
    return f"{shown}:{choice.line}"
