"""``nnkernels verify``."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from nnkernels.cli._app import run

FAULT = """
import numpy as np
def relu(x, *, out):
    np.maximum(x, 0, out=out)
    out[...] = np.minimum(out, 6)
"""


@pytest.fixture
def faulty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Name of a backend whose relu is clipped at 6."""
    (tmp_path / "nnk_clipped.py").write_text(FAULT)
    monkeypatch.syspath_prepend(str(tmp_path))
    return "numpy[relu=nnk_clipped:relu]"


def test_a_sound_kernel_passes(capsys):
    assert run(["verify", "numpy", "--quick", "-k", "relu", "-k", "tanh"]) == 0
    out, err = capsys.readouterr()
    assert re.match(r"numpy: \d+ cases passed; operators: 2 passed, 0 failed,", out)
    assert err == ""


def test_a_planted_fault_is_reported_in_80_columns(capsys, faulty):
    assert run(["verify", faulty, "--quick", "-k", "relu", "-k", "tanh"]) == 1
    *rows, summary = capsys.readouterr().out.splitlines()
    assert re.search(r"\d+ failures in \d+ cases; operators: 1 passed, 1 failed,", summary)
    assert any(row.startswith("relu") and " values " in row for row in rows)
    assert not any(row.startswith("tanh") for row in rows)
    assert max(map(len, rows)) <= 80


def test_kernels_that_are_the_reference_are_not_called_passed(capsys):
    assert run(["verify", "reference", "--quick", "-k", "relu"]) == 0
    out = capsys.readouterr().out
    assert "served by the reference, which proves nothing: relu" in out
    assert "operators: 0 passed" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nunpy"], "Did you mean 'numpy'?"),
        (["numpy", "-k", "rleu"], "Did you mean 'relu'?"),
        (["numpy", "-k", "foo"], "unknown operator 'foo'. 'nnkernels list operators'"),
        (["numpy[relu=nowhere:relu]"], "cannot be imported"),
        ([], "Missing argument"),
    ],
)
def test_bad_arguments_are_one_line(capsys, arguments, message):
    assert run(["verify", *arguments]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert message in err


def test_an_unavailable_backend_is_told_apart(capsys, install):
    install("sleeping-plugin", asleep="nnk_wrong_object:asleep")
    assert run(["verify", "asleep"]) == 3
    assert "asleep" in capsys.readouterr().err
