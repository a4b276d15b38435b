"""``nnkernels tune``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from nnkernels.errors import InputError

if TYPE_CHECKING:
    from nnkernels.backends.numba.products.tuning import Ladder, Rung


def command(
    quick: Annotated[
        bool, typer.Option("--quick", help="Fewer sizes and samples: a few seconds.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Measure, but store nothing.")] = False,
    reset: Annotated[
        bool, typer.Option("--reset", help="Forget what was stored; measure nothing.")
    ] = False,
) -> None:
    """Measure which matrix products backend numba leaves to BLAS.

    Its own product is faster while the right operand is small, BLAS where it is large; where the
    two meet differs between machines. Both are timed in turns on one thread, float32 and float64,
    our own with its part of the transposed copies that it needs in a training step. The limits
    are stored in a file of yours that new processes use. Without this command they are the
    defaults: nothing is ever tuned silently. Let nothing else run meanwhile.

    \b
    Examples:
      nnkernels tune
      nnkernels tune --quick --dry-run
      nnkernels tune --reset
      nnkernels explain matmul -b numba     the limits that hold now
    """
    _check_backend()
    from nnkernels.backends.numba.products import tuned, tuning
    from nnkernels.bench import machine

    if reset:
        _reset(quick=quick, dry_run=dry_run)
        return
    if not tuning.has_tiles():
        raise InputError(
            "tune: this processor has no vectors that our products are written for; BLAS computes "
            "all of them, and there is nothing to tune"
        )
    for line in machine.warnings(machine.environment()):
        typer.echo(f"nnkernels: tune: {line}", err=True)
    rungs = _measure(tuning.QUICK if quick else tuning.FULL)
    limits = {dtype: tuning.limit(found) for dtype, found in rungs.items()}
    _print(rungs, limits)
    if dry_run:
        typer.echo("nothing stored (--dry-run)")
        return
    file = tuned.write(limits)
    typer.echo(f"stored in {file}; new processes use it, 'nnkernels tune --reset' forgets it")


def _check_backend() -> None:
    """Refuse where backend numba, or its compiler, is absent."""
    from nnkernels import plugins

    if not plugins.load("numba").kernels:
        raise InputError("tune: NUMBA_DISABLE_JIT is set, so nothing is compiled; unset it")


def _reset(*, quick: bool, dry_run: bool) -> None:
    from nnkernels.backends.numba.products import tuned

    for option, given in (("--quick", quick), ("--dry-run", dry_run)):
        if given:
            raise InputError(f"tune: --reset measures nothing; drop {option}")
    file = tuned.path()
    done = f"removed {file}" if tuned.forget() else f"there was nothing to forget: no {file}"
    typer.echo(f"{done}; new processes use the default limits")


def _measure(ladder: Ladder) -> dict[str, list[Rung]]:
    from nnkernels.backends.numba.products import tuned, tuning
    from nnkernels.cli._render import Bar

    steps = len(ladder.sizes)
    found: dict[str, list[Rung]] = {}
    with Bar(steps * len(tuned.DTYPES)) as bar:
        for number, dtype in enumerate(tuned.DTYPES):
            first = number * steps

            def show(done: int, first: int = first, dtype: str = dtype) -> None:
                bar.show(dtype, first + done)

            found[dtype] = tuning.measure(dtype, ladder, show)
    return found


def _print(rungs: Mapping[str, Sequence[Rung]], limits: Mapping[str, int]) -> None:
    from nnkernels.cli._render import stdout, table

    shown = table(
        ("dtype", "left", 7),
        ("right operand", "right", None),
        ("own GFLOP/s", "right", None),
        ("BLAS GFLOP/s", "right", None),
        ("faster", "left", None),
    )
    for dtype, found in rungs.items():
        for rung in found:
            rates = [f"{rung.flop / seconds / 1e9:.1f}" for seconds in (rung.own, rung.blas)]
            shown.add_row(dtype, f"{rung.nbytes:,} B", *rates, _winner(rung))
    stdout().print(shown)
    for dtype, limit in limits.items():
        largest = max(rung.nbytes for rung in rungs[dtype])
        typer.echo(f"{dtype}: {_conclusion(limit, largest)}")


def _winner(rung: Rung) -> str:
    gain = max(rung.own, rung.blas) / min(rung.own, rung.blas)
    return f"{'own' if rung.own <= rung.blas else 'BLAS'} by {100 * (gain - 1):.0f}%"


def _conclusion(limit: int, largest: int) -> str:
    from nnkernels.backends.numba.products.choice import OWN_BYTES

    default = f"(default: {OWN_BYTES:,} B)"
    if limit == 0:
        return f"BLAS for all products {default}"
    more = "" if limit < largest else f"; nothing beyond {largest:,} B was measured"
    return f"own product up to a right operand of {limit:,} B {default}{more}"
