"""Source trees and repositories of nnkernels with planted faults, for workers to import."""

from __future__ import annotations

import os
import shutil
import subprocess
import zipfile
from pathlib import Path

import nnkernels

NUMPY = "backends/numpy/activations.py"
PACKAGE = Path(nnkernels.__file__).parent

TANH = "    np.tanh(x, out)\n"
"""The whole body of NumPy's tanh."""

SLOW = "    for _ in range(3):\n        np.tanh(x, out)\n"
WRONG = TANH + "    out[0] += 1\n"
CRASHING = "    import os\n\n    os._exit(7)\n"


def tree(folder: Path) -> Path:
    """A copy of this nnkernels, compiled files too, in ``folder``."""
    ignored = shutil.ignore_patterns("csrc")
    shutil.copytree(PACKAGE, folder / "nnkernels", ignore=ignored)
    return folder


def replace(folder: Path, old: str, new: str, module: str = NUMPY) -> None:
    """Change a module; ``old`` must be there once."""
    path = folder / "nnkernels" / module
    text = path.read_text("utf-8")
    assert text.count(old) == 1
    path.write_text(text.replace(old, new), "utf-8")


def wheel(folder: Path) -> Path:
    """A wheel of this nnkernels' Python files in ``folder``."""
    info = f"nnkernels-{nnkernels.__version__}.dist-info"
    path = folder / f"nnkernels-{nnkernels.__version__}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for source in PACKAGE.rglob("*.py"):
            archive.write(source, source.relative_to(PACKAGE.parent))
        archive.writestr(f"{info}/METADATA", f"Name: nnkernels\nVersion: {nnkernels.__version__}\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return path


def git(folder: Path, *arguments: str) -> str:
    """Output of git, on its own."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")}
    name = ("-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false")
    done = subprocess.run(
        ["git", "-C", str(folder), *name, *arguments],
        env={**clean, "GIT_CONFIG_GLOBAL": os.devnull},
        check=True,
        capture_output=True,
        text=True,
    )
    return done.stdout.strip()


def commit(folder: Path, message: str) -> str:
    """Commit everything; the new sha."""
    if not (folder / ".git").exists():
        git(folder, "init", "--quiet", "--initial-branch=main")
        (folder / ".gitignore").write_text("__pycache__\n")
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "-m", message)
    return git(folder, "rev-parse", "HEAD")


def worktrees(folder: Path) -> list[str]:
    """The worktrees of a repository."""
    lines = git(folder, "worktree", "list", "--porcelain").splitlines()
    return [line for line in lines if line.startswith("worktree ")]
