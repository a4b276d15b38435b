"""``nnkernels explain``."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from nnkernels.backend import Backend
    from nnkernels.explain import Choice
    from nnkernels.nn import Model
    from nnkernels.program import Program

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
        int, typer.Option(min=1, max=1 << 20, help="Rows of a model's training step.")
    ] = 32,
    activation: Annotated[
        str, typer.Option(metavar="NAME", help="Of a model given by its sizes.")
    ] = "relu",
    optimizer: Annotated[
        str, typer.Option(metavar="NAME", help="Of a model's training step.")
    ] = "sgd",
) -> None:
    """Show which kernels run, with file, line and reason.

    Of one operator, or of every instruction of a training step; for each the reason, the function,
    its file and its line; for layers also whether they are fused, or why not.

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
        _print(f"{target} on {chosen.name}", explain(target, chosen))
        return
    model = _model(target, activation)
    program = _training_step(model, chosen, optimizer, batch)
    what = f"a training step of {target}, batch {batch}, {optimizer}, on {chosen.name}"
    _print(what, explain(program, chosen))


def _model(target: str, activation: str) -> Model:
    import os
    from pathlib import Path

    from nnkernels.errors import unknown
    from nnkernels.nn import MLP, load_model
    from nnkernels.nn.layers import as_activation
    from nnkernels.spec import OPERATORS

    if SIZES.fullmatch(target):
        return MLP([int(size) for size in target.split("-")], activation=as_activation(activation))
    if os.sep in target or "." in target or Path(target).exists():
        return load_model(target)
    raise unknown("operator", target, OPERATORS)


def _training_step(model: Model, backend: Backend, optimizer: str, batch: int) -> Program:
    """The step that ``Trainer.fit`` runs on shuffled rows."""
    from nnkernels.nn import Trainer
    from nnkernels.nn.lowering import Step, train_program

    trainer = Trainer(model, optimizer, backend=backend)
    labels = model.loss.takes_labels
    step = Step(trainer.optimizer, trainer.metrics, labels, gather=batch)
    return train_program(model, batch, step)


def _print(title: str, choices: list[Choice]) -> None:
    from nnkernels.cli._render import stdout

    console = stdout()
    console.print(title, style="bold", soft_wrap=True)
    width = max(len(choice.label) for choice in choices)
    for number, choice in enumerate(choices):
        head = f"{number:>4}  {choice.label:<{width}}  " if len(choices) > 1 else "  "
        console.print(f"{head}{choice.op}: {choice.why}", soft_wrap=True)
        where = f"{choice.file}:{choice.line}" if choice.file else "not a Python function"
        if choice.kernel:
            console.print(f"{'':<{len(head)}}{choice.kernel}  {where}", style="dim", soft_wrap=True)
