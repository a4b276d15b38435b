"""The frame of the command line: finding commands, and turning errors into exit codes.

A command is a module of this package whose name does not begin with an underscore, with a function
``command``: its parameters are the options, its docstring is the help. Modules are imported for
``--help``, so they import what is heavy inside of the function. Data goes to standard output,
everything else to standard error.

Exit codes: 0 as asked; 1 the thing checked failed; 2 usage, inputs or infrastructure; 3 incomplete,
not comparable, or a backend that was named is not available; 4 unsure, where that was asked to
count; 5 training diverged; 129, 130 and 143 interrupted.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import os
import pkgutil
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, ParamSpec

import typer

from nnkernels.errors import (
    BackendUnavailableError,
    DivergedError,
    InputError,
    NnkernelsError,
    NotComparableError,
    TrainingInterrupted,
    UnknownNameError,
    suggestion,
)

P = ParamSpec("P")
TERMINATING = ("SIGTERM", "SIGHUP")
"""Signals, where the system has them, that end a command in order."""

ORDER = (
    *("info", "doctor", "bench", "train", "predict", "list", "explain", "profile", "roofline"),
    *("crossover", "ab", "calibrate", "compare", "history", "report", "verify", "reproduce"),
)
"""Commands in the order of the help, which is the order that a newcomer asks in; others follow."""

FAILED, USAGE, INCOMPLETE, UNSURE, DIVERGED, INTERRUPTED = 1, 2, 3, 4, 5, 130


def command_names() -> list[str]:
    """Names of the commands, sorted."""
    modules = pkgutil.iter_modules([str(Path(__file__).parent)])
    return sorted(m.name for m in modules if not m.name.startswith("_"))


def _position(name: str) -> int:
    return ORDER.index(name) if name in ORDER else len(ORDER)


def build() -> typer.Typer:
    """The application with all its commands."""
    app = typer.Typer(
        name="nnkernels",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 80},
    )
    app.callback()(_root)
    for name in sorted(command_names(), key=_position):
        app.command(name)(_guarded(importlib.import_module(f"nnkernels.cli.{name}").command))
    return app


class _Interrupted(Exception):
    """Carries a KeyboardInterrupt, or a child of it, past typer, which would make it exit 130."""


def _guarded(command: Callable[P, None]) -> Callable[P, None]:
    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            command(*args, **kwargs)
        except KeyboardInterrupt as error:
            raise _Interrupted from error

    return run


def _print_version(asked: bool) -> None:
    if asked:
        import nnkernels

        typer.echo(f"nnkernels {nnkernels.__version__}")
        raise typer.Exit


def _root(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    """Neural-network kernels behind one interface: compare backends, train, verify.

    \b
    Examples:
      nnkernels bench             compare the available backends on training steps
      nnkernels info              this machine, its BLAS, and the backends
      nnkernels train             train a network, and see how well it learns
      nnkernels profile 784-64-10 where the time of a training step goes
      nnkernels bench --help      options of a command
    """


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit."""
    sys.exit(run(arguments))


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code. No exception of ours becomes a traceback."""
    if sys.stdout is None:
        return _report(OSError("standard output is closed"))
    try:
        with _terminated():
            code = build()(arguments, prog_name="nnkernels", standalone_mode=False)
            sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except typer.Exit as error:
        return error.exit_code or _flushed()
    except _Interrupted as error:
        return _report(error.__cause__ or error)
    except SystemExit:  # click's answer to a pipe that the reader closed
        return USAGE
    except (NnkernelsError, KeyboardInterrupt, OSError, MemoryError) as error:
        return _report(error)
    except Exception as error:
        # Usage errors are click's, of which typer brings its own copy or not, by version.
        if not hasattr(error, "format_message"):
            raise
        return _report_usage(error)


def _flushed() -> int:
    try:
        sys.stdout.flush()
    except OSError as error:
        return _report(error)
    return 0


def check_target(option: str, path: Path | None, suffixes: Sequence[str] = ()) -> None:
    """Refuse, before the work, a file that cannot be written or whose name ends otherwise.

    Raises:
        InputError: naming ``option``.
    """
    if path is None:
        return
    if not path.absolute().parent.is_dir():
        raise InputError(f"{option} {str(path)!r}: the folder does not exist; create it first")
    if path.exists() and not path.is_file():
        raise InputError(f"{option} {str(path)!r} is not a regular file; choose another name")
    if suffixes and path.suffix.lower() not in suffixes:
        *others, last = suffixes
        listed = f"{', '.join(others)} or {last}"
        raise InputError(f"{option} {str(path)!r}: the name must end in {listed}")


def check_source(what: str, path: Path) -> None:
    """Refuse a file to read that is not there.

    Raises:
        InputError: naming ``what``.
    """
    if not path.is_file():
        found = "is not a regular file" if path.exists() else "no such file"
        raise InputError(f"{what} {str(path)!r}: {found}; 'nnkernels train --save FILE' writes one")


def unknown_operator(name: str, hint: str = "") -> UnknownNameError:
    """The error for an operator's name, with the nearest ones but never the whole catalogue."""
    import difflib

    from nnkernels.spec import OPERATORS

    near = difflib.get_close_matches(name, OPERATORS)
    found = suggestion(name, near) or " 'nnkernels list operators' lists them."
    return UnknownNameError(f"unknown operator {name!r}.{found}{hint}")


def exit_code(error: BaseException) -> int:
    """The one place where an error becomes an exit code."""
    if isinstance(error, TrainingInterrupted):
        return 128 + error.signal
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED
    if isinstance(error, DivergedError):
        return DIVERGED
    incomplete = isinstance(error, BackendUnavailableError | NotComparableError)
    return INCOMPLETE if incomplete else USAGE


def _report_usage(error: Any) -> int:
    """One line for a mistake on the command line; the help where no command was given."""
    context = getattr(error, "ctx", None)
    path = context.command_path if context else "nnkernels"
    if type(error).__name__ == "NoArgsIsHelpError":
        print(error.format_message(), file=sys.stderr)
    else:
        print(f"{path}: {error.format_message().rstrip('.')}; see '{path} --help'", file=sys.stderr)
    return USAGE


def _report(error: BaseException) -> int:
    """One line on standard error, and the exit code."""
    if isinstance(error, OSError):
        _drop_stdout()
        line = f"cannot write the output: {error.strerror or error}"
    elif isinstance(error, MemoryError):
        line = "not enough memory; choose smaller sizes"
    else:
        line = " ".join(str(error).split()) or "interrupted"
    with contextlib.suppress(OSError):
        print(f"nnkernels: {line}", file=sys.stderr, flush=True)
    return exit_code(error)


def _drop_stdout() -> None:
    """Let the interpreter's last flush of a broken standard output go nowhere."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)


@contextlib.contextmanager
def _terminated() -> Iterator[None]:
    """Make SIGTERM and SIGHUP an exception like Ctrl-C, so that commands can save what they have.

    What is ignored stays so: SIGHUP is under nohup.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        raise TrainingInterrupted("terminated", signal=number)

    numbers = [getattr(signal, name) for name in TERMINATING if hasattr(signal, name)]
    heard = [number for number in numbers if signal.getsignal(number) not in (signal.SIG_IGN, None)]
    before = {number: signal.signal(number, stop) for number in heard}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
