"""What the backend uses of CuPy, read from its sources, and what a wheel offers.

Uses are attribute chains of the namespace (``cp``, ``gpu.cp``, ``self._cp``, ...), of NVRTC, of
names and members that hold one of them, and of what a call of one of them returns. A wheel is
looked at in a process of its own, without a GPU: CuPy's compiled functions tell their parameters
in their docstrings.
"""

from __future__ import annotations

import ast
import inspect
import json
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import filelock
import platformdirs

NAMESPACES = ("cp", "_cp")
ROOTS = {"nvrtc": "cuda.nvrtc"}
"""Names that stand for the namespace, and for a part of it, wherever they occur."""

RETURNS = {
    "asarray": "ndarray",
    "empty": "ndarray",
    "zeros": "ndarray",
    "from_dlpack": "ndarray",
    "ndarray.astype": "ndarray",
    "ndarray.reshape": "ndarray",
    "ndarray.view": "ndarray",
    "ndarray.T": "ndarray",
    "ndarray.data": "cuda.MemoryPointer",
    "RawModule": "RawModule",
    "RawModule.get_function": "RawKernel",
    "cuda.Device": "cuda.Device",
    "cuda.Event": "cuda.Event",
    "cuda.Stream": "cuda.Stream",
    "cuda.Stream.record": "cuda.Event",
    "cuda.Stream.end_capture": "cuda.Graph",
    "cuda.get_current_stream": "cuda.Stream",
    "cuda.alloc_pinned_memory": "cuda.PinnedMemoryPointer",
}
"""The class of what a call, or a property, gives."""


class Use(NamedTuple):
    """An attribute that is used.

    Attributes:
        path: below the namespace, ``cuda.Stream.record``.
        where: file and line.
        positional: arguments without names of a call; None where it is not called.
        keywords: arguments with names.
        partial: whether further arguments may come.
    """

    path: str
    where: str
    positional: int | None = None
    keywords: tuple[str, ...] = ()
    partial: bool = False


class _Reader(ast.NodeVisitor):
    """Collects the uses in one file."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.uses: list[Use] = []
        self._held: list[dict[str, str]] = [{}]
        self._members: dict[str, str] = {}

    def path(self, node: ast.expr) -> str | None:
        """What an expression is, below the namespace; None where it is something else."""
        if isinstance(node, ast.Name):
            if node.id in NAMESPACES:
                return ""
            return self._held[-1].get(node.id, ROOTS.get(node.id))
        if isinstance(node, ast.Call):
            called = self.path(node.func)
            return None if called is None else RETURNS.get(called)
        if not isinstance(node, ast.Attribute):
            return None
        if node.attr in NAMESPACES:
            return ""
        if _is_member(node) and node.attr in self._members:
            return self._members[node.attr]
        below = self.path(node.value)
        return None if below is None else f"{RETURNS.get(below, below)}.{node.attr}".lstrip(".")

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        self._held.append({})
        self.generic_visit(node)
        self._held.pop()

    def visit_Assign(self, node: ast.Assign) -> None:
        self.visit(node.value)
        for target in node.targets:
            self._hold(target, node.value)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            self.visit(node.value)
            self._hold(node.target, node.value)

    def visit_With(self, node: ast.With) -> None:
        for item in node.items:
            if item.optional_vars is not None:
                self._hold(item.optional_vars, item.context_expr)
        self.generic_visit(node)

    def _hold(self, target: ast.expr, value: ast.expr) -> None:
        if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
            for each, part in zip(target.elts, value.elts, strict=True):
                self._hold(each, part)
        elif isinstance(target, ast.Name):
            path = self.path(value)
            self._held[-1].pop(target.id, None)
            if path:
                self._held[-1][target.id] = path
        elif isinstance(target, ast.Attribute) and _is_member(target):
            path = self.path(value)
            if path:
                self._members[target.attr] = path

    def visit_Call(self, node: ast.Call) -> None:
        partial = ast.unparse(node.func) == "functools.partial"
        function, arguments = (node.args[0], node.args[1:]) if partial else (node.func, node.args)
        path = self.path(function)
        if path:
            keywords = tuple(k.arg for k in node.keywords if k.arg is not None)
            plain = [a for a in arguments if not isinstance(a, ast.Starred)]
            more = len(plain) < len(arguments) or len(keywords) < len(node.keywords)
            self._add(function, path, len(plain), keywords, partial or more)
            if isinstance(function, ast.Attribute):
                self.visit(function.value)
            for child in (*arguments, *node.keywords):
                self.visit(child)
        else:
            self.generic_visit(node)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        path = self.path(node)
        if path:
            self._add(node, path)
        self.generic_visit(node)

    def _add(
        self,
        node: ast.expr,
        path: str,
        positional: int | None = None,
        keywords: tuple[str, ...] = (),
        partial: bool = False,
    ) -> None:
        where = f"{self.name}:{node.lineno}"
        self.uses.append(Use(path, where, positional, keywords, partial))


def _is_member(node: ast.Attribute) -> bool:
    return isinstance(node.value, ast.Name) and node.value.id == "self"


def uses_in(text: str, name: str) -> list[Use]:
    """The uses in a source."""
    reader, tree = _Reader(name), ast.parse(text)
    reader.visit(tree)  # learns what ``self.x`` is, wherever that is said
    reader.uses.clear()
    reader.visit(tree)
    return reader.uses


def uses_below(folder: Path) -> list[Use]:
    """The uses in all sources below a folder."""
    files = sorted(folder.rglob("*.py"))
    return [use for file in files for use in uses_in(file.read_text(), str(file.name))]


# --- signatures --------------------------------------------------------------------------------


class Signature(NamedTuple):
    """Parameters.

    Attributes:
        positional: names of those that may be given by position, in order.
        required: names of those without a default.
        named: names of those that may be given by name.
        any_positional, any_named: whether there are ``*args`` and ``**kwargs``.
    """

    positional: tuple[str, ...]
    required: tuple[str, ...]
    named: tuple[str, ...]
    any_positional: bool = False
    any_named: bool = False

    def refuses(self, use: Use) -> str:
        """Why a call cannot be; empty where it can."""
        given = use.positional or 0
        if given > len(self.positional) and not self.any_positional:
            return f"takes {len(self.positional)} arguments, gets {given}"
        for name in use.keywords:
            if name not in self.named and not self.any_named:
                return f"has no parameter {name!r}"
        missing = set(self.required) - set(use.keywords) - set(self.positional[:given])
        if missing and not use.partial and not self.any_positional:
            return f"misses {sorted(missing)}"
        return ""


_LINE = re.compile(r"^\s*(?:\w+\.)*\w+\((.*)\)(?:\s*->.*)?$")
_NAME = re.compile(r"(\*{0,2})(?:[\w.\[\]|' ]*[ *])?(\w+)\s*(?::[^=]*)?(=.*)?$")


def read_signature(text: str) -> Signature | None:
    """The signature in the first line of a docstring that has one, or in ``(a, b=1)``."""
    for line in text.splitlines():
        match = _LINE.match(line) or re.match(r"^\((.*)\)(?:\s*->.*)?$", line)
        if match:
            return _parsed(match[1])
    return None


def _parsed(parameters: str) -> Signature:
    positional: list[str] = []
    required: list[str] = []
    named: list[str] = []
    stars: set[str] = set()
    parts = [part for part in _split(parameters.replace("\\", "")) if part not in ("self", "cls")]
    for part in parts:
        match = _NAME.match(part)
        if part == "/":
            named.clear()
        elif part == "*":
            stars.add("only named")
        elif match and match[1]:
            stars |= {match[1], "only named"}
        elif match:
            named.append(match[2])
            positional += [] if "only named" in stars else [match[2]]
            required += [] if match[3] else [match[2]]
    return Signature(tuple(positional), tuple(required), tuple(named), "*" in stars, "**" in stars)


def _split(parameters: str) -> Iterator[str]:
    """The parameters, parted at commas that are in no bracket and no string."""
    depth, part, quoted = 0, "", ""
    for character in parameters:
        if quoted:
            quoted = "" if character == quoted else quoted
        elif character in "'\"":
            quoted = character
        depth += (character in "([{") - (character in ")]}")
        if character == "," and depth == 0 and not quoted:
            yield part.strip()
            part = ""
        else:
            part += character
    if part.strip():
        yield part.strip()


# --- wheels ------------------------------------------------------------------------------------

DESCRIBE = """
import inspect, json, sys, warnings
warnings.simplefilter("ignore")
import cupy
INSTANCES = {
    "cuda.Stream": lambda: cupy.cuda.Stream.null,
    "cuda.runtime.CUDARuntimeError": lambda: cupy.cuda.runtime.CUDARuntimeError(1),
}
def find(path):
    found, seen = cupy, []
    for name in path.split("."):
        seen.append(name)
        holder = ".".join(seen[:-1])
        if not hasattr(found, name) and holder in INSTANCES:
            found = INSTANCES[holder]()
        found = getattr(found, name)
    return found
def describe(path):
    try:
        found = find(path)
    except AttributeError:
        return None
    except ImportError as error:  # a library that is looked for when it is asked for
        return ""
    try:
        return str(inspect.signature(found))
    except (TypeError, ValueError):
        return inspect.getdoc(found) or ""
paths = {path: describe(path) for path in json.load(sys.stdin)}
print(json.dumps(paths | {"__file__": cupy.__file__}))
"""
"""Prints, for every path, its signature or docstring; None where there is no such attribute."""


def describe(paths: Iterable[str], folder: Path | None = None) -> Mapping[str, str | None]:
    """What the installed CuPy, or the one unpacked in a folder, has at these paths.

    Under ``__file__`` is where it was found.
    """
    start = f"import sys; sys.path.insert(0, {str(folder)!r})\n" if folder else ""
    done = subprocess.run(
        [sys.executable, "-c", start + DESCRIBE],
        input=json.dumps(sorted(set(paths))),
        capture_output=True,
        text=True,
        check=True,
    )
    found: Mapping[str, str | None] = json.loads(done.stdout)
    return found


def unpacked_wheel(package: str, version: str) -> Path | None:
    """A folder with an unpacked wheel, downloaded if need be; None where that cannot be done."""
    folder = Path(platformdirs.user_cache_dir("nnkernels")) / "ladder" / f"{package}-{version}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(f"{folder}.lock"):
        if folder.is_dir():
            return folder
        with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
            command += ["--only-binary=:all:", "--dest", temporary, f"{package}=={version}"]
            if subprocess.run(command, capture_output=True, check=False).returncode:
                return None
            (wheel,) = Path(temporary).glob("*.whl")
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(Path(temporary, "unpacked"))
            Path(temporary, "unpacked").rename(folder)
    return folder


# --- comparing ---------------------------------------------------------------------------------


def broken_uses(uses: Iterable[Use], known: Mapping[str, str | None]) -> list[str]:
    """What is wrong with uses, by what is at their paths."""
    return [f"{use.where}: {use.path} {why}" for use in uses if (why := _why(use, known[use.path]))]


def _why(use: Use, text: str | None) -> str:
    if text is None:
        return "does not exist"
    signature = read_signature(text) if use.positional is not None else None
    return signature.refuses(use) if signature else ""


def differences(ours: Mapping[str, str | None], real: Mapping[str, str | None]) -> list[str]:
    """Where what stands for CuPy has what CuPy has not, or other parameters."""
    found = []
    for path, text in ours.items():
        theirs = real[path]
        if theirs is None:
            found.append(f"{path} does not exist")
            continue
        mine, other = read_signature(text or ""), read_signature(theirs)
        if mine is None or other is None:
            continue
        shared = other.positional[: len(mine.positional)]
        if shared != mine.positional and mine.positional and not other.any_positional:
            found.append(f"{path} takes {other.positional} by position, ours {mine.positional}")
        unknown = set(mine.named) - set(other.named)
        if unknown and not other.any_named:
            found.append(f"{path} has no parameters {sorted(unknown)}")
    return found


def described(object_: Any) -> str:
    """The signature of one of our own, as :func:`describe` gives it."""
    try:
        return str(inspect.signature(object_))
    except (TypeError, ValueError):
        return ""
