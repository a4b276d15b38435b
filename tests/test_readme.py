"""Every code block of the README runs as written."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
BLOCK = re.compile(r"^```(?P<language>\w+)\n(?P<code>.*?)^```", re.MULTILINE | re.DOTALL)
DOCUMENTS = [ROOT / "README.md", ROOT / "docs" / "program.md", ROOT / "docs" / "numba.md"]


def blocks(language: str) -> list[tuple[str, str]]:
    return [
        (document.name, match["code"])
        for document in DOCUMENTS
        for match in BLOCK.finditer(document.read_text(encoding="utf-8"))
        if match["language"] == language
    ]


PYTHON = blocks("python")
COMMANDS = [
    (document, line.strip())
    for document, code in blocks("bash")
    for line in code.splitlines()
    if line.startswith(("nnkernels ", "pytest benchmarks/"))
]


def run(arguments: list[str], folder: Path) -> None:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        arguments,
        cwd=folder,
        env={**os.environ, "PATH": path, "COLUMNS": "80"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("index", range(len(PYTHON)))
def test_python_block_runs(index: int, tmp_path: Path) -> None:
    _, code = PYTHON[index]
    script = tmp_path / "block.py"
    script.write_text(code, encoding="utf-8")
    run([sys.executable, "-W", "error", str(script)], tmp_path)


def test_commands_run(tmp_path: Path) -> None:
    assert len(COMMANDS) >= 8
    for _, command in COMMANDS:
        folder = ROOT if command.startswith("pytest") else tmp_path
        run(["bash", "-c", command], folder)


def test_the_three_users_come_first() -> None:
    headings = re.findall(r"^## (.+)$", DOCUMENTS[0].read_text(encoding="utf-8"), re.MULTILINE)
    assert headings[:3] == [
        "Compare backends",
        "Call a kernel on your arrays",
        "Gate a pull request",
    ]
