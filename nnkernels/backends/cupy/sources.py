"""The CUDA sources: text, storage types, and what every kernel takes.

A module is one ``.cu`` of ``nnkernels/csrc/device``. It is compiled once for every storage type of
its arrays. Its ``extern "C"`` declarations are the only place where a kernel's parameters are
written down: :func:`signatures` reads them, and every launch is checked against them.
"""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from nnkernels.errors import BackendError, unknown

CSRC = Path(__file__).parents[2] / "csrc"
DEVICE = CSRC / "device"

STORAGES: Mapping[str, int] = {"float32": 1, "float64": 2, "float16": 3, "bfloat16": 4}
"""Value of ``NNK_STORAGE`` by storage type."""

ITEMSIZES: Mapping[str, int] = {"float32": 4, "float64": 8, "float16": 2, "bfloat16": 2}
"""Bytes of an element by storage type."""

VECTOR_BYTES = 16
"""What a thread of a vector kernel reads and writes at once."""

FLAGS = ("--std=c++17", "-ftz=true")
"""Every compilation's flags; CuPy adds the second one to its own in any case."""

_INCLUDE = re.compile(r'^[ \t]*#include[ \t]+"([^"]+)"[ \t]*$', re.MULTILINE)
_MACRO = re.compile(r"^#define[ \t]+(\w+)\(([\w, ]*)\)[ \t]*((?:.*\\\n)*.*)$", re.MULTILINE)
_COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/", re.DOTALL)
_KERNEL = re.compile(
    r'extern\s+"C"\s+__global__\s+void\s+NNK_BOUNDS\(\s*(\d+)\s*\)\s*(\w+)\s*\(([^)]*)\)'
)


class Parameter(NamedTuple):
    """One parameter of a kernel.

    Attributes:
        name: its name in the source.
        type: its C type without ``const`` and ``*``: ``T``, ``A``, ``long long``, ...
        pointer: whether it is an array.
        const: whether the kernel only reads the array.
    """

    name: str
    type: str
    pointer: bool
    const: bool


class Signature(NamedTuple):
    """What a kernel takes, and the largest block it is compiled for."""

    name: str
    parameters: tuple[Parameter, ...]
    bound: int


@functools.cache
def module_names() -> tuple[str, ...]:
    """Names of all modules."""
    return tuple(sorted(path.stem for path in DEVICE.glob("*.cu")))


@functools.cache
def amalgamated(module: str) -> str:
    """The module's source as one text, with every header in the place of its first inclusion."""
    path = DEVICE / f"{module}.cu"
    if not path.is_file():
        raise unknown("kernel module", module, module_names())
    return _inlined(path, set())


@functools.cache
def digest() -> str:
    """SHA-256 of all modules' sources."""
    return hashlib.sha256("".join(map(amalgamated, module_names())).encode()).hexdigest()


def _inlined(path: Path, seen: set[Path]) -> str:
    def include(match: re.Match[str]) -> str:
        header = (path.parent / match[1]).resolve()
        if header in seen:
            return ""
        seen.add(header)
        return _inlined(header, seen)

    text = path.read_text(encoding="utf-8").replace("#pragma once\n", "")
    return _INCLUDE.sub(include, text)


def options(storage: str) -> tuple[str, ...]:
    """Compiler options for arrays of ``storage``."""
    if storage not in STORAGES:
        raise unknown("storage type", storage, STORAGES)
    return (*FLAGS, f"-DNNK_STORAGE={STORAGES[storage]}")


def element_type(parameter: Parameter, storage: str) -> np.dtype[np.generic]:
    """NumPy's dtype of a parameter's elements; bfloat16 stands as its bits, uint16."""
    arithmetic = "float64" if storage == "float64" else "float32"
    stored = "uint16" if storage == "bfloat16" else storage
    known = {"T": stored, "A": arithmetic, **_PLAIN}
    return np.dtype(known[parameter.type])


_PLAIN = {
    "double": "float64",
    "float": "float32",
    "int": "int32",
    "unsigned": "uint32",
    "long long": "int64",
    "unsigned long long": "uint64",
    "unsigned char": "uint8",
}


@functools.cache
def signatures(module: str) -> Mapping[str, Signature]:
    """Every kernel of a module by name, in the order of the source."""
    found = {}
    for bound, name, parameters in _KERNEL.findall(_expanded(amalgamated(module))):
        if name in found:
            raise BackendError(f"{module}.cu declares two kernels {name!r}")
        found[name] = Signature(name, tuple(_parameters(module, name, parameters)), int(bound))
    return found


def _parameters(module: str, kernel: str, text: str) -> Iterator[Parameter]:
    for part in filter(None, (p.strip() for p in text.split(","))):
        words = part.replace("*", " * ").replace("__restrict__", " ").split()
        pointer, const = "*" in words, words[0] == "const"
        kind = " ".join(w for w in words[:-1] if w not in ("*", "const"))
        if kind not in ("T", "A", *_PLAIN):
            raise BackendError(f"{module}.cu: {kernel} has a parameter of unknown type: {part!r}")
        yield Parameter(words[-1], kind, pointer, const)


def _expanded(text: str) -> str:
    """``text`` with the macros replaced that declare kernels."""
    text = _COMMENT.sub("", text)
    macros = {name: (_split(params), body) for name, params, body in _MACRO.findall(text)}
    declaring = _declaring(macros)
    plain = re.sub(r"^[ \t]*#(?:.*\\\n)*.*$", "", text, flags=re.MULTILINE)
    return _replace(plain, {n: macros[n] for n in declaring}) if declaring else plain


def _declaring(macros: Mapping[str, tuple[list[str], str]]) -> set[str]:
    """Macros whose expansion holds a kernel, directly or through another one."""
    found = {name for name, (_, body) in macros.items() if "__global__" in body}
    while True:
        called = {
            name
            for name, (_, body) in macros.items()
            if any(re.search(rf"\b{other}\s*\(", body) for other in found)
        }
        if called <= found:
            return found
        found |= called


def _replace(text: str, macros: Mapping[str, tuple[list[str], str]]) -> str:
    call = re.compile(rf"\b({'|'.join(sorted(macros))})\(([^()]*)\)")
    while call.search(text):
        text = call.sub(lambda m: _substituted(*macros[m[1]], _split(m[2])), text)
    return text


def _substituted(params: list[str], body: str, arguments: list[str]) -> str:
    values = dict(zip(params, arguments, strict=True))
    body = body.replace("\\\n", "\n")
    body = re.sub(r"\b\w+\b", lambda m: values.get(m[0], m[0]), body)
    return re.sub(r"\s*##\s*", "", body)


def _split(text: str) -> list[str]:
    return [part.strip() for part in text.split(",")] if text.strip() else []
