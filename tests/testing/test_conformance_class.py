import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from nnkernels.errors import InputError
from nnkernels.testing import Conformance

ROOT = Path(__file__).parents[2]


def run(folder, body):
    """Exit code and output of pytest on a subclass with ``body``, in a process of its own."""
    text = "from nnkernels.testing import Conformance\nclass TestMine(Conformance):\n"
    (folder / "test_mine.py").write_text(text + textwrap.indent(body, "    "))
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"]
    options = ["-c", str(folder / "pytest.ini"), "--rootdir", str(folder), "test_mine.py"]
    (folder / "pytest.ini").write_text("[pytest]\n")
    environment = {"PYTHONPATH": str(ROOT), "PATH": "", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, *options],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    return done.returncode, done.stdout


def test_a_subclass_is_parametrised_by_operator(tmp_path):
    code, output = run(tmp_path, "backend = 'numpy'\noperators = ['relu', 'tanh']\nquick = True\n")
    assert code == 0 and "2 passed" in output


@pytest.mark.parametrize(
    "body", ["backend = 'numpy'\noperators = []\n", "backend = ()\n", "backend = ''\n", "pass\n"]
)
def test_selecting_nothing_fails(tmp_path, body):
    code, output = run(tmp_path, body)
    assert code not in (0, 5) and "selects none" in output


def test_a_broken_kernel_fails_by_name_and_an_exception_excuses_it(tmp_path):
    (tmp_path / "mine.py").write_text("def relu(x, *, out):\n    out[...] = 1\n")
    body = "backend = 'numpy[relu=mine:relu]'\noperators = ['relu', 'tanh']\nquick = True\n"
    code, output = run(tmp_path, body)
    assert code == 1 and "1 failed, 1 passed" in output and "relu [values" in output
    code, _ = run(tmp_path, body + "exceptions = {'relu': 'always 1'}\n")
    assert code == 0
    code, output = run(tmp_path, body + "exceptions = {'relu': 'always 1', 'tanh': 'unneeded'}\n")
    assert code == 1 and "not needed" in output


def test_several_backends_are_run_in_turn():
    class TestTwo(Conformance):
        backend = ("numpy", "reference")

    assert TestTwo.backends() == ["numpy", "reference"]
    with pytest.raises(InputError, match="selects none"):
        Conformance.backends()
