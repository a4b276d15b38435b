"""``nnkernels selftest``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nnkernels.cli._app import FAILED, check_target

if TYPE_CHECKING:
    from nnkernels.backend import Backend


def command(
    device: Annotated[int, typer.Option("--device", metavar="N", help="Number of the GPU.")] = 0,
    quick: Annotated[bool, typer.Option("--quick", help="Fewer shapes, shorter training.")] = False,
    only: Annotated[
        list[str] | None,
        typer.Option("--only", metavar="SECTION", help="Only this section; may be repeated."),
    ] = None,
    json: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Also write the report as JSON.")
    ] = None,
    simulate: Annotated[
        bool,
        typer.Option("--simulate", help="On the simulated device: slow, needs no GPU."),
    ] = False,
    predict: Annotated[
        bool, typer.Option("--predict", help="Only print the predicted step times.")
    ] = False,
) -> None:
    """Prove the CuPy backend on this machine's GPU, and measure it.

    Sections: layers, compilation, operators, products, training, sanitizer, speed. Exit code 1 when
    anything fails, 3 when there is no GPU to test. Attach the JSON to an issue: see docs/gpu.md.

    \b
    Examples:
      nnkernels selftest --json selftest.json
      nnkernels selftest --quick --only operators
      nnkernels selftest --predict
    """
    from nnkernels.cli._render import Bar, stdout
    from nnkernels.files import write_atomically

    if predict:
        _print_predictions()
        return
    check_target("--json", json, (".json",))
    from nnkernels import selftest

    backend = _backend(device, simulate=simulate)
    options = selftest.Options(quick=quick)
    names = only or list(selftest.SECTIONS)
    with Bar(len(names)) as bar:
        report = selftest.run(
            backend, options, only=names, progress=lambda name, done, total: bar.show(name, done)
        )
    stdout().print(report.text(), soft_wrap=True, highlight=False, markup=False)
    if json is not None:
        write_atomically(json, report.json())
    if not report.ok:
        raise typer.Exit(FAILED)


def _backend(device: int, *, simulate: bool) -> Backend:
    from nnkernels import get_backend

    if simulate:
        from nnkernels.testing.simulated import backend

        return backend()
    return get_backend(f"cupy:{device}" if device else "cupy")


def _print_predictions() -> None:
    from nnkernels.cli._render import stdout, table
    from nnkernels.selftest.predictions import DATA_SHEETS, NETWORKS, predict

    columns = [(name, "right", None) for name in ("floor", "naive", "eager", "graph")]
    rows = table(("network, batch", "left", None), ("GPU", "left", None), *columns)
    for layers, batch in NETWORKS:
        for sheet in DATA_SHEETS:
            for precision in sheet.rates:
                times = predict(sheet, layers, batch, precision)
                name = f"{'-'.join(map(str, layers))}, {batch}"
                figures = [f"{seconds * 1e6:.0f}" for seconds in times]
                rows.add_row(name, f"{sheet.name} {precision}", *figures)
    stdout().print(rows)
    stdout().print("Microseconds of one training step, predicted by a model, never measured.")
