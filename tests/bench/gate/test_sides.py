"""What a name means, what it becomes, and that nothing is left of it."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest

import nnkernels
from nnkernels.bench.gate import sides
from nnkernels.bench.gate.sides import prepared, split
from nnkernels.errors import InputError

ROOT = Path(nnkernels.__file__).parents[1]


@pytest.fixture(scope="module")
def repository(planting, tmp_path_factory) -> Path:
    """Three commits: this nnkernels, one that cannot be imported, one without nnkernels.

    The first is also on the branch ``good``; its folder has a space in its name.
    """
    folder = planting.tree(tmp_path_factory.mktemp("a repository"))
    planting.commit(folder, "good")
    planting.git(folder, "branch", "good")
    (folder / "nnkernels" / "errors.py").write_text("import nothing_like_this\n")
    planting.commit(folder, "broken")
    planting.git(folder, "branch", "broken")
    planting.git(folder, "rm", "-r", "--quiet", "nnkernels")
    planting.commit(folder, "empty")
    planting.git(folder, "checkout", "--quiet", "good")
    return folder


@pytest.fixture
def here(repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, planting):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    monkeypatch.chdir(repository)
    yield repository
    assert len(planting.worktrees(repository)) == 1
    assert planting.git(repository, "worktree", "prune", "--verbose", "--dry-run") == ""
    assert not list(scratch.iterdir())


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ("x", "y", ("x", "y")),
        ("HEAD~1", None, ("HEAD~1", ".")),
        ("main..feature", None, ("main", "feature")),
        ("main...feature", None, ("main", "feature")),
        ("main..", None, ("main", "HEAD")),
        ("..feature", None, ("HEAD", "feature")),
        ("..", None, ("..", ".")),
        ("../tree", "y", ("../tree", "y")),
    ],
)
def test_sides_of_a_command_line(a, b, expected) -> None:
    assert split(a, b) == expected


def test_a_revision_and_the_tree(here: Path, planting) -> None:
    with prepared("good", ".") as (a, b):
        sha = planting.git(here, "rev-parse", "good")
        assert (a.label, a.what) == (sha[:7], "worktree")
        assert (a.code.git_sha, a.code.dirty) == (sha, False)
        assert Path(a.path[0]) == a.root != here
        assert (a.root / "nnkernels" / "__init__.py").is_file()
        assert (b.label, b.what, b.root) == (sha[:7], "tree", here)
        assert len(planting.worktrees(here)) == 2
        assert a.python == b.python == sys.executable


def test_a_dirty_tree_is_allowed_and_said(here: Path) -> None:
    extra = here / "nnkernels" / "draft.py"
    extra.write_text("")
    try:
        with prepared("good", ".") as (_, b):
            assert (b.label, b.what) == (".", "tree, uncommitted changes")
    finally:
        extra.unlink()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no-such-revision", "there is no revision 'no-such-revision'"),
        ("broken", "cannot be imported: ModuleNotFoundError: No module named 'nothing_like_this'"),
        ("main", "revision 'main' has no nnkernels/__init__.py"),
        ("./nnkernels", "neither a source tree"),
        ("gone.whl", "no such file"),
        ("--force", "there is no revision '--force'"),
    ],
)
def test_what_cannot_be_had(here: Path, name, message) -> None:
    with pytest.raises(InputError, match=message), prepared("good", name):
        pass


def test_outside_of_a_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    with pytest.raises(InputError, match="'HEAD' is no file here, and"), prepared("HEAD", "."):
        pass


def test_a_hooks_variables_and_hooks_do_not_matter(here: Path, monkeypatch) -> None:
    monkeypatch.setenv("GIT_DIR", "/nowhere")
    hook = here / ".git" / "hooks" / "post-checkout"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text("#!/bin/sh\nexit 1\n")
    hook.chmod(0o755)
    try:
        with prepared("good", "good") as (a, _):
            assert a.what == "worktree"
    finally:
        hook.unlink()
        monkeypatch.delenv("GIT_DIR")


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_nothing_is_left_whatever_ends_it(here: Path, error) -> None:
    with pytest.raises(error), prepared("good", "good"):
        raise error


KILLED = """
import os, sys
from nnkernels.bench.gate.sides import prepared
with prepared("good", "good"):
    print("ready", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def other_run(here: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Another process that compares, and the temporary folder that it shares with this one."""
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(sides, "YOUNG", 0.0)
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdout.readline() == b"ready\n"
    with process:
        yield process, temporary
    monkeypatch.undo()


def test_what_a_killed_run_left_is_removed_by_the_next(here: Path, other_run, planting) -> None:
    process, temporary = other_run
    process.kill()
    process.wait()
    (temporary / "nnkernels-ab-of-another-program").mkdir()
    assert len(planting.worktrees(here)) == 3
    with prepared("good", "."):
        assert len(planting.worktrees(here)) == 2
    assert [path.name for path in temporary.iterdir()] == ["nnkernels-ab-of-another-program"]


def test_a_run_that_lives_is_let_be_and_so_is_a_young_folder(
    here: Path, other_run, planting, monkeypatch: pytest.MonkeyPatch
) -> None:
    process, _ = other_run
    sides._sweep()
    assert len(planting.worktrees(here)) == 3
    process.kill()
    process.wait()
    monkeypatch.setattr(sides, "YOUNG", 60.0)
    sides._sweep()
    assert len(planting.worktrees(here)) == 3
    monkeypatch.setattr(sides, "YOUNG", 0.0)
    sides._sweep()
    assert len(planting.worktrees(here)) == 1


def test_a_killed_runs_repository_may_be_gone(here: Path, other_run) -> None:
    process, temporary = other_run
    process.kill()
    process.wait()
    (left,) = temporary.iterdir()
    for record in left.glob("*/.git"):
        record.write_text("gitdir: /nowhere/.git/worktrees/a\n")
    sides._sweep()
    assert not left.exists()
    sides._git(here, "", "worktree", "prune", "--expire", "now")


def test_cleaning_up_is_not_interrupted() -> None:
    before = signal.getsignal(signal.SIGINT)
    with sides._uninterrupted():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)
    assert signal.getsignal(signal.SIGINT) is before
    thread = threading.Thread(target=lambda: sides._uninterrupted().__enter__())
    thread.start()
    thread.join()


def test_a_wheel(planting, tmp_path: Path) -> None:
    wheel = planting.wheel(tmp_path)
    with prepared(str(wheel), str(ROOT)) as (a, b):
        assert (a.label, a.what) == (f"nnkernels-{nnkernels.__version__}", "wheel")
        assert a.code.git_sha is None
        assert (b.root, b.what.split(",")[0]) == (ROOT, "tree")
    wheel.write_bytes(wheel.read_bytes()[:1000])
    with pytest.raises(InputError, match="cannot be installed"), prepared(str(wheel), str(ROOT)):
        pass


def test_an_environment_is_driven_by_its_own_python(tmp_path: Path) -> None:
    python = tmp_path / "environment" / "bin" / "python"
    python.parent.mkdir(parents=True)
    (python.parents[1] / "pyvenv.cfg").write_text("home = somewhere\n")
    entries = [*sys.path, str(tmp_path)]
    python.write_text(
        '#!/bin/sh\ncase "$1" in\n'
        f"-I) echo '{json.dumps(entries)}';;\n"
        f'*) exec "{sys.executable}" "$@";;\nesac\n'
    )
    python.chmod(0o755)
    for name in (python, python.parents[1]):
        with prepared(str(name), str(ROOT)) as (a, _):
            assert (a.python, a.path, a.what) == (str(python), entries, "environment")
            assert a.root == ROOT


def test_two_backends() -> None:
    with prepared("numpy", "numpy(threads=1)") as (a, b):
        assert (a.backend, b.backend) == ("numpy", "numpy(threads=1)")
        assert a.what == "backend"
        assert a.root == ROOT
    with pytest.raises(InputError, match="one is a backend"), prepared("numpy", str(ROOT)):
        pass


@pytest.mark.slow
def test_the_oldest_revision_of_this_repository_is_driven(monkeypatch: pytest.MonkeyPatch) -> None:
    """By this version's harness; the first revision stands for the first tag."""
    from nnkernels.bench.gate.pairs import Effort
    from nnkernels.bench.gate.session import Gate, Plan

    class Silent:
        def proceed(self, stage, done, total) -> None:
            pass

    if (
        not (ROOT / ".git").exists()
        or sides._git(ROOT, "", "rev-parse", "--is-shallow-repository") == "true"
    ):
        pytest.skip("this checkout has no history: fetch it with 'git fetch --unshallow'")
    monkeypatch.chdir(ROOT)
    first = sides._git(ROOT, "", "rev-list", "--max-parents=0", "HEAD").splitlines()[-1]
    with prepared(first, ".") as both:
        effort = Effort(restarts=1, rounds=1, sample=0.0005, prime=0.05)
        gate = Gate(Plan(both, "quick", effort, backends=["numpy", "numba"]), Silent())
        gate.run()
    statuses = {(c.workload, c.backend): c.status for c in gate.record().comparisons}
    assert {status for (_, backend), status in statuses.items() if backend == "numba"} == {"new"}
    compared = [w for (w, backend), s in statuses.items() if (backend, s) == ("numpy", "ok")]
    assert {"matmul", "relu", "adam", "W1", "W2", "W4"} <= set(compared)
