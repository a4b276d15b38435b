"""``nnkernels explain``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from nnkernels.backend import Notes
    from nnkernels.explain import Choice


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
    shown with its own optimizer, batch and clipping. Backend numba also says whether its own code
    or BLAS computes the matrix products, by which rule, and whether whole epochs run compiled.

    \b
    Examples:
      nnkernels explain gelu
      nnkernels explain matmul -b numba
      nnkernels explain 784-64-32-10 --activation sigmoid --optimizer adam
      nnkernels explain model.safetensors -b "numpy[relu=mypkg.kernels:relu]"
    """
    from nnkernels import explain, get_backend
    from nnkernels.cli._models import described, refuse, trainer_of
    from nnkernels.explain import notes
    from nnkernels.spec import OPERATORS

    chosen = get_backend(backend)
    if target in OPERATORS:
        given = {"--batch": batch, "--activation": activation, "--optimizer": optimizer}
        refuse("explain", given, f"{target!r} is an operator; it belongs to a model")
        _print(f"{target} on {chosen.name}", explain(target, chosen), notes(target, chosen))
        return
    trainer = trainer_of("explain", target, chosen, activation=activation, optimizer=optimizer)
    saved = trainer.settings
    rows = batch or (saved.batch_size if saved else 32)
    program = trainer.step_program(rows, shuffle=saved.shuffle if saved else True)
    title = f"a training step of {target}, {described(trainer, rows)}"
    _print(title, explain(program, chosen), notes(program, chosen))


def _print(title: str, choices: list[Choice], notes: Notes) -> None:
    from nnkernels.cli._render import print_wrapped

    print_wrapped(title, style="bold")
    if len(choices) > 1:
        _print_notes(notes)
    width = max(len(choice.label) for choice in choices)
    for number, choice in enumerate(choices):
        head = f"{number:>4}  {choice.label:<{width}}  " if len(choices) > 1 else "  "
        print_wrapped(f"{head}{choice.op}: {choice.why}", indent=len(head) + 2)
        for line in (choice.kernel, _place(choice)) if choice.kernel else ():
            print_wrapped(f"{'':<{len(head)}}{line}", indent=len(head) + 2, style="dim")
    if len(choices) == 1:
        _print_notes(notes)


def _print_notes(notes: Notes) -> None:
    """What the backend adds: sentences, and a table."""
    from nnkernels.cli._render import print_wrapped, stdout, table

    for line in notes.lines:
        print_wrapped(f"  {line}")
    if notes.table:
        heads, *rows = notes.table
        shown = table(*((f"  {heads[0]}", "left", None), *((h, "left", None) for h in heads[1:])))
        for first, *rest in rows:
            shown.add_row(f"  {first}", *rest)
        stdout().print(shown)


def _place(choice: Choice) -> str:
    """File and line; those of this package from its folder on."""
    import nnkernels

    if not choice.file:
        return "not a Python function"
    file, home = Path(choice.file), Path(nnkernels.__file__).parents[1]
    shown = file.relative_to(home) if file.is_relative_to(home / "nnkernels") else file
    return f"{shown}:{choice.line}"
