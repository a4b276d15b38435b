"""The house rules of the source tree, read from its syntax trees."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import nnkernels
from nnkernels import ops
from nnkernels.spec import OPERATORS, Op

PACKAGE = Path(nnkernels.__file__).parent
ROOT = Path(__file__).parent.parent

LEVELS = (
    ("errors",),
    ("names", "files"),
    ("signature",),
    ("spec",),
    ("catalog",),
    ("backend",),
    ("program", "plugins"),
    ("backends",),
    ("dispatch",),
    ("explain", "ops"),
    ("nnkernels",),
    ("nn", "testing"),
    ("bench", "reproduce", "selftest", "sklearn", "distributed"),
    ("cli",),
    ("__main__",),
)
"""Rooms from the foundation up; a room imports from lower levels and from itself only."""

LEVEL = {room: level for level, rooms in enumerate(LEVELS) for room in rooms}
DATA_STANDS_ON = {"data", "errors", "files"}
ABOVE_DATA = LEVEL["nn"]


def modules() -> list[Path]:
    found = sorted(PACKAGE.rglob("*.py"))
    assert len(found) > 30
    return found


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"), str(path))


# --- imports -----------------------------------------------------------------------------------


def room_of(module: str) -> str:
    """``nnkernels.nn.model`` lies in room ``nn``, ``nnkernels`` itself is the front door."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "nnkernels"


def imported(tree: ast.AST, module: str, *, package: bool) -> Iterator[tuple[int, str]]:
    """Line and absolute name of everything imported, in function bodies too."""
    base = module.split(".") if package else module.split(".")[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = base[: len(base) - node.level + 1] if node.level else []
            source = ".".join([*start, *([node.module] if node.module else [])])
            if source == "nnkernels":
                yield from ((node.lineno, f"{source}.{alias.name}") for alias in node.names)
            else:
                yield node.lineno, source


def allowed(room: str, target: str) -> bool:
    """Whether a module of ``room`` may import ``target``, a room or a name of the front door."""
    if target == room:
        return True
    if room == "data":
        return target in DATA_STANDS_ON
    if target == "data":
        return LEVEL[room] >= ABOVE_DATA
    return LEVEL.get(target, LEVEL["nnkernels"]) < LEVEL[room]


def violations(source: str, module: str, *, package: bool = False) -> list[str]:
    room = room_of(module)
    return [
        f"{module}:{line} imports {name}"
        for line, name in imported(ast.parse(source), module, package=package)
        if name.split(".")[0] == "nnkernels" and not allowed(room, room_of(name))
    ]


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def test_every_room_has_its_place():
    rooms = {p.relative_to(PACKAGE).parts[0].removesuffix(".py") for p in modules()}
    assert rooms - {"__init__", "data"} <= set(LEVEL)


@pytest.mark.parametrize("path", modules(), ids=module_name)
def test_imports_run_one_way(path):
    package = path.name == "__init__.py"
    assert violations(path.read_text("utf-8"), module_name(path), package=package) == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("nnkernels.spec", "from nnkernels.backend import Backend"),
        ("nnkernels.spec", "def f():\n    import nnkernels.dispatch"),
        ("nnkernels.spec", "from nnkernels import dispatch, errors"),
        ("nnkernels.spec", "import nnkernels"),
        ("nnkernels.spec", "from .dispatch import use"),
        ("nnkernels.program.state", "from nnkernels import plugins"),
        ("nnkernels.program.state", "from ..backends import numpy"),
        ("nnkernels.backends.reference", "from nnkernels import get_backend"),
        ("nnkernels.data.idx", "from nnkernels.spec import Array"),
        ("nnkernels.catalog.losses", "from nnkernels.data import load"),
        ("nnkernels.nn.model", "from nnkernels.testing import verify"),
        (
            "nnkernels.bench.session",
            "class A:\n    def f(self):\n        from nnkernels import cli",
        ),
    ],
)
def test_an_import_against_the_order_is_found(module, source):
    assert len(violations(source, module)) == 1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("nnkernels.dispatch", "from nnkernels import plugins, spec"),
        ("nnkernels.dispatch", "def f():\n    import cupy"),
        ("nnkernels.nn.model", "import nnkernels\nfrom nnkernels import get_backend, spec"),
        ("nnkernels.nn.model", "from .layers import Linear"),
        ("nnkernels.data.idx", "from nnkernels.errors import DatasetError"),
        ("nnkernels.cli.app", "from nnkernels.data import load\nfrom nnkernels import nn"),
    ],
)
def test_an_import_along_the_order_is_allowed(module, source):
    assert violations(source, module) == []


def harness_violations(source: str, name: str) -> list[str]:
    """What keeps a harness from being loaded by path, under another name, beside an old library."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom):
            names = [node.module or ""] if node.module else [a.name for a in node.names]
            library = node.level == 0 and names[0].split(".")[0] == "nnkernels"
            if library or node.level > 1:
                found.append(f"{name}:{node.lineno} imports from {'.' * node.level}{names[0]}")
    return found


@pytest.mark.parametrize("path", sorted((PACKAGE / "bench" / "harness").glob("*.py")), ids=str)
def test_the_harness_imports_the_library_absolutely_and_siblings_relatively(path):
    assert harness_violations(path.read_text("utf-8"), path.name) == []


def test_the_harness_rule_finds_what_it_forbids():
    for source in ("from nnkernels.bench import x", "from ..results import y", "from .. import z"):
        assert len(harness_violations(source, "planted")) == 1
    assert harness_violations("import nnkernels.nn\nfrom . import timing\n", "fine") == []


# --- what the code must not do -----------------------------------------------------------------

UNSAFE_MODULES = {"pickle", "cPickle", "marshal", "shelve", "dill", "cloudpickle", "joblib"}
UNSAFE_CALLS = {"eval", "exec", "compile", "__import__", "execfile"}
UNSAFE_ATTRIBUTES = {
    ("os", "system"),
    ("os", "popen"),
    ("yaml", "load"),
    ("yaml", "unsafe_load"),
    ("torch", "load"),
    ("pandas", "read_pickle"),
    ("tempfile", "mktemp"),
}
UNSAFE_KEYWORDS = ("shell", "allow_pickle")


def unsafe(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            yield from _unsafe_import(node)
        elif isinstance(node, ast.Call):
            yield from _unsafe_call(node)


def _unsafe_import(node: ast.Import | ast.ImportFrom) -> Iterator[str]:
    source = node.module or "" if isinstance(node, ast.ImportFrom) else ""
    for alias in node.names:
        if {source.split(".")[0], alias.name.split(".")[0]} & UNSAFE_MODULES:
            yield f"line {node.lineno}: imports {source or alias.name}"
        if (source, alias.name) in UNSAFE_ATTRIBUTES:
            yield f"line {node.lineno}: imports {source}.{alias.name}"


def _unsafe_call(node: ast.Call) -> Iterator[str]:
    function = node.func
    if isinstance(function, ast.Name) and function.id in UNSAFE_CALLS:
        yield f"line {node.lineno}: calls {function.id}"
    if isinstance(function, ast.Attribute):
        owner = function.value.id if isinstance(function.value, ast.Name) else ""
        if (owner, function.attr) in UNSAFE_ATTRIBUTES or function.attr == "extractall":
            yield f"line {node.lineno}: calls {owner}.{function.attr}"
    for keyword in node.keywords:
        literal = isinstance(keyword.value, ast.Constant) and not keyword.value.value
        if keyword.arg in UNSAFE_KEYWORDS and not literal:
            yield f"line {node.lineno}: {keyword.arg}=True"


@pytest.mark.parametrize("path", modules(), ids=module_name)
def test_nothing_is_unpickled_evaluated_or_run_by_a_shell(path):
    assert list(unsafe(parse(path))) == []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from pickle import loads",
        "import marshal as m",
        "def f():\n    import joblib",
        "eval('1')",
        "exec(code)",
        "compile(text, 'x', 'exec')",
        "__import__(name)",
        "os.system('ls')",
        "from os import system",
        "subprocess.run('ls', shell=True)",
        "subprocess.run(c, shell=flag)",
        "tar.extractall(path)",
        "tarfile.open(x).extractall()",
        "np.load(p, allow_pickle=True)",
        "yaml.load(text)",
        "torch.load(path)",
    ],
)
def test_each_unsafe_form_is_found(source):
    assert len(list(unsafe(ast.parse(source)))) == 1


def test_safe_forms_are_not_reported():
    source = "np.load(p, allow_pickle=False)\nre.compile(x)\nmodel.eval()\nsubprocess.run(['ls'])"
    assert list(unsafe(ast.parse(source))) == []


@pytest.mark.parametrize("path", modules(), ids=module_name)
def test_only_the_command_line_prints(path):
    if path.is_relative_to(PACKAGE / "cli"):
        return
    calls = [n for n in ast.walk(parse(path)) if isinstance(n, ast.Call)]
    prints = [n.lineno for n in calls if isinstance(n.func, ast.Name) and n.func.id == "print"]
    assert prints == []


LONGEST = 60


def code_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a body; parameters (the options of a command) and the docstring are declarations."""
    body = node.body[1:] if ast.get_docstring(node, clean=False) is not None else node.body
    return (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0


def long_functions(tree: ast.AST, longest: int) -> list[str]:
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    found = [node for node in ast.walk(tree) if isinstance(node, functions)]
    return [node.name for node in found if code_lines(node) > longest]


@pytest.mark.parametrize("path", modules(), ids=module_name)
def test_functions_stay_short(path):
    assert long_functions(parse(path), LONGEST) == []


def test_a_long_function_is_found_wherever_it_stands():
    lines = "\n        ".join(["x = 1"] * 5)
    tree = ast.parse(
        f'class A:\n    def f(\n        a,\n    ):\n        """Text."""\n        {lines}'
    )
    assert long_functions(tree, 4) == ["f"] and long_functions(tree, 5) == []


# Written in two parts, so that this file does not hold what it looks for.
MACHINE_PATH = re.compile("(?<![\\w.:/-])/" + "(work|root|mnt)/")


def text_files() -> list[Path]:
    suffixes = {".py", ".md", ".toml", ".yml", ".yaml", ".json", ".cfg", ".sh", ".txt", ".rst"}
    folders = [PACKAGE, *(ROOT / name for name in ("tests", "docs", "benchmarks", ".github"))]
    files = [p for folder in folders for p in folder.rglob("*") if p.suffix in suffixes]
    return [*files, *(p for p in ROOT.glob("*") if p.suffix in suffixes), ROOT / ".ci" / "run"]


def test_no_file_names_a_path_of_some_machine():
    found = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in text_files()
        if path.is_file()
        for number, line in enumerate(path.read_text("utf-8").splitlines(), 1)
        if MACHINE_PATH.search(line)
    ]
    assert found == []


def test_machine_paths_are_recognised():
    assert MACHINE_PATH.search("see " + "/wo" + "rk/shared")
    assert not MACHINE_PATH.search("https://example.org/" + "work/x and net" + "work/a")


# --- the catalogue -----------------------------------------------------------------------------


def test_every_operator_is_public_and_every_public_name_is_an_operator():
    public = {n: v for n, v in vars(ops).items() if isinstance(v, Op)}
    assert {n for n, v in public.items() if v.name == n} == set(OPERATORS) == set(public)


FORMULA_OR_SHAPES = re.compile(r"Shapes?: |``[^`]+``")


@pytest.mark.parametrize("name", sorted(OPERATORS))
def test_every_operator_says_its_formula_or_shapes(name):
    assert FORMULA_OR_SHAPES.search(OPERATORS[name].__doc__ or "")


@pytest.mark.parametrize("name", sorted(OPERATORS))
def test_every_operator_with_an_output_takes_out(name):
    op = OPERATORS[name]
    code = op.reference.__code__
    keywords = code.co_varnames[code.co_argcount : code.co_argcount + code.co_kwonlyargcount]
    assert ("out" in keywords) == bool(op.signatures(op.params)[0].outputs)


# --- one file an activation, one module a backend ----------------------------------------------

ACTIVATION = '''

@op("(...)->(...)", error=Error(4), cost=Cost(2), saves=("x",), kinks=(0.0,))
def softsign(x: Array, *, out: Array | None = None) -> Array:
    """Softsign, ``x / (1 + |x|)`` elementwise."""
    y: Array = x / (1 + np.abs(x))
    return y


@softsign.backward(error=Error(4), cost=Cost(3))
def softsign_backward(grad: Array, x: Array, *, out: Array | None = None) -> Array:
    """Gradient of :func:`softsign`: ``grad / (1 + |x|)**2``."""
    y: Array = grad / (1 + np.abs(x)) ** 2
    return y


__all__ += ["softsign", "softsign_backward"]
'''

USE_THE_ACTIVATION = """
import numpy as np
import nnkernels
from nnkernels import ops, plugins
from nnkernels.nn import MLP, Trainer
from nnkernels.testing import check_gradients, verify

x = np.array([[-3.0, 0.0, 1.0]])
want = x / (1 + abs(x))
assert np.array_equal(ops.softsign(x), want)
names = [name for name, reason in plugins.availability().items() if reason is None]
assert {"numpy", "reference"} <= set(names)
for name in names:
    backend = nnkernels.get_backend(name)
    assert np.array_equal(backend.softsign(x), want)
    assert backend.coverage()["softsign"] == "reference"
    verify(name, operators=["softsign", "softsign_backward"], quick=True).check()
check_gradients("softsign", np.array([-2.0, 0.5, 3.0]))

rng = np.random.default_rng(0)
data = rng.normal(size=(64, 3)).astype("float32")
labels = (data[:, 0] > 0).astype(np.int64)
for name in names:
    trainer = Trainer(MLP([3, 8, 2], activation="softsign"), backend=name)
    history = trainer.fit(data, labels, epochs=5)
    assert history["loss"][-1] < history["loss"][0]
print("done")
"""

BACKEND = '''
"""A backend in one module."""

import numpy as np

from nnkernels import plugins
from nnkernels.backend import Backend, KernelTable
from nnkernels.backends._host import HOST
from nnkernels.program import Interpreter

kernels = KernelTable()


@kernels.kernel
def relu(x, *, out):
    np.maximum(x, 0, out=out)


def load():
    return Backend("single", HOST, kernels, Interpreter, fallback=plugins.load("reference"))
'''

USE_THE_BACKEND = """
import numpy as np
import nnkernels
from nnkernels import plugins
from nnkernels.nn import MLP, Trainer
from nnkernels.testing import verify

reasons = plugins.availability()
assert {n for n, why in reasons.items() if why is None} >= {"numpy", "reference", "single"}
single = nnkernels.get_backend("single")
assert single.coverage()["relu"] == "own" and single.coverage()["tanh"] == "reference"
assert nnkernels.explain("relu", "single")[0].kernel == "nnkernels.backends.single:relu"
verify("single", operators=["relu", "linear"], quick=True).check()
rng = np.random.default_rng(0)
x = rng.normal(size=(64, 3)).astype("float32")
y = (x[:, 0] > 0).astype(np.int64)
losses = {}
for name in ("single", "reference"):
    history = Trainer(MLP([3, 8, 2], activation="relu"), backend=name).fit(x, y, epochs=3)
    losses[name] = history["loss"]
np.testing.assert_allclose(losses["single"], losses["reference"], rtol=1e-5)
print("done")
"""


@pytest.fixture
def copied_package(tmp_path):
    """A copy of the source tree that a test may change."""
    for path in modules():
        target = tmp_path / path.relative_to(PACKAGE.parent)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    return tmp_path


def run_copy(folder: Path, script: str) -> str:
    command = [sys.executable, "-W", "error", "-c", script]
    environment = {"PYTHONPATH": str(folder), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_adding_an_activation_touches_one_file(copied_package):
    with (copied_package / "nnkernels" / "catalog" / "activations.py").open("a") as file:
        file.write(ACTIVATION)
    assert run_copy(copied_package, USE_THE_ACTIVATION) == "done"


def test_adding_a_backend_touches_one_module(copied_package):
    (copied_package / "nnkernels" / "backends" / "single.py").write_text(BACKEND)
    assert run_copy(copied_package, USE_THE_BACKEND) == "done"
