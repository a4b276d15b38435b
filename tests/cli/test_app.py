"""The frame: finding commands, exit codes, broken outputs."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from nnkernels import errors
from nnkernels.cli import _app, _render

ROOT = Path(__file__).parents[2]


def start(*arguments: str, **options) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "nnkernels", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **options.pop("env", {})}
    options = {"stdout": subprocess.PIPE, **options}
    return subprocess.run(
        command, stderr=subprocess.PIPE, text=True, timeout=120, env=environment, **options
    )


def run_command(monkeypatch: pytest.MonkeyPatch, command) -> int:
    module = type(sys)("nnkernels.cli.list")
    module.command = command
    monkeypatch.setitem(sys.modules, "nnkernels.cli.list", module)
    monkeypatch.setattr(_app, "command_names", lambda: ["list"])
    app = _app.build()
    app.command("other")(lambda: None)
    monkeypatch.setattr(_app, "build", lambda: app)
    return _app.run(["list"])


def raising(error: BaseException):
    def command() -> None:
        raise error

    return command


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.InputError("bad\ninput"), 2),
        (errors.DatasetError("no data"), 2),
        (errors.BackendError("broke"), 2),
        (errors.UnknownNameError("which?"), 2),
        (errors.BackendUnavailableError("no GPU"), 3),
        (errors.DivergedError("NaN", epoch=1, step=2, tensor="loss"), 5),
        (KeyboardInterrupt(), 130),
        (errors.TrainingInterrupted("stopped", signal=2), 130),
        (errors.TrainingInterrupted("stopped", signal=15), 143),
        (MemoryError(), 2),
        (OSError(28, "No space left on device"), 2),
    ],
)
def test_errors_are_one_line_and_an_exit_code(monkeypatch, capsys, error, code) -> None:
    monkeypatch.setattr(_app, "_drop_stdout", lambda: None)
    assert run_command(monkeypatch, raising(error)) == code
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("nnkernels: ")


def test_a_bug_keeps_its_traceback(monkeypatch) -> None:
    with pytest.raises(ZeroDivisionError):
        run_command(monkeypatch, raising(ZeroDivisionError()))


@pytest.mark.parametrize(("command", "code"), [(raising(typer.Exit(1)), 1), (lambda: None, 0)])
def test_a_command_chooses_its_exit_code(monkeypatch, command, code) -> None:
    assert run_command(monkeypatch, command) == code


def test_sigterm_is_an_interruption(monkeypatch, capsys) -> None:
    assert run_command(monkeypatch, lambda: os.kill(os.getpid(), 15)) == 143


def test_commands_are_the_modules() -> None:
    folder = Path(_app.__file__).parent
    assert _app.command_names() == sorted(
        p.stem for p in folder.glob("*.py") if not p.stem.startswith("_")
    )


@pytest.mark.parametrize("name", [None, *_app.command_names()])
def test_every_help_has_examples_and_fits_80_columns(name: str | None, capsys) -> None:
    assert _app.run([*([name] if name else []), "--help"]) == 0
    text = capsys.readouterr().out
    assert "Examples:" in text
    assert max(map(len, text.splitlines())) <= 80


def test_version(capsys) -> None:
    import nnkernels

    assert _app.run(["--version"]) == 0
    assert capsys.readouterr().out == f"nnkernels {nnkernels.__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing"], "No such command 'nothing'; see 'nnkernels --help'"),
        (["bench", "--nothing"], "No such option"),
        (["list", "nothing"], "see 'nnkernels list --help'"),
    ],
)
def test_usage_errors_are_one_line(arguments: list[str], message: str, capsys) -> None:
    assert _app.run(arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_no_command_shows_the_help(capsys) -> None:
    assert _app.run([]) == 2
    assert "Usage: nnkernels" in capsys.readouterr().err


def test_help_imports_nothing_heavy() -> None:
    script = (
        "import sys; from nnkernels.cli import _app; code = _app.run(['--help']);"
        "heavy = {'scipy', 'msgspec', 'rich', 'psutil', 'matplotlib', 'nnkernels.nn'};"
        "print(code, sorted(heavy & set(sys.modules)))"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=environment, timeout=60
    )
    assert done.stdout.splitlines()[-1] == "0 []"


@pytest.mark.parametrize("arguments", [["--help"], ["list"], ["info", "--json"]])
def test_a_full_disk_is_an_error_without_traceback(arguments: list[str]) -> None:
    with Path("/dev/full").open("w") as full:
        done = start(*arguments, stdout=full)
    assert done.returncode == 2
    assert done.stderr == "nnkernels: cannot write the output: No space left on device\n"


def test_a_closed_pipe_is_an_error_without_traceback() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as pipe:
        done = start("list", stdout=pipe)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_no_standard_output_at_all(monkeypatch, capsys) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    assert _app.run(["list"]) == 2
    assert "standard output is closed" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (2.5e-10, "0.25 ns"),
        (88.1e-6, "88.1 us"),
        (0.00346, "3.46 ms"),
        (0.687, "687 ms"),
        (99.96, "100 s"),
    ],
)
def test_durations(value: float, text: str) -> None:
    assert _render.duration(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(363e3, "363 kB/s"), (2.1e11, "210 GB/s"), (0.5, "0.50 B/s"), (9.996, "10.0 B/s")],
)
def test_quantities(value: float, text: str) -> None:
    assert _render.quantity(value, "B/s") == text


def test_the_progress_bar_is_silent_when_piped(capsys) -> None:
    with _render.Bar(3) as bar:
        bar.show("one", 1)
        with bar.paused():
            print("data")
    assert capsys.readouterr() == ("data\n", "")
