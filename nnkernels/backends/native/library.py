"""The library of C++ kernels: found, asked who it is, and its tables read.

It is opened with ctypes and has a C interface (``nnkernels/csrc/host/library.h``), so that one
file serves every version of Python. It must know the interface's number, and be built from the
sources that lie beside this package, before any of its code is called.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from nnkernels.backends._compiled.entry import Entry
from nnkernels.backends._compiled.record import Layout
from nnkernels.errors import BackendUnavailableError

ABI = 1
"""Number of the interface that this version speaks; ``NNK_ABI`` in ``library.h``."""

NAME = "nnkernels_native.so"
PATH_VARIABLE = "NNKERNELS_NATIVE_LIBRARY"
VARIANT_VARIABLE = "NNKERNELS_NATIVE_ISA"
REQUIRE_VARIABLE = "NNKERNELS_REQUIRE_NATIVE"
"""Makes an installation fail that cannot build the library (``pyproject.toml``)."""

DTYPES = ("float32", "float64")

CSRC = Path(__file__).parents[2] / "csrc"


class _Kernel(ctypes.Structure):
    _fields_ = [
        ("op", ctypes.c_char_p),
        ("arguments", ctypes.c_char_p),
        ("over", ctypes.c_char_p),
        ("makes", ctypes.c_char_p),
        ("alternative", ctypes.c_int64),
        ("call", ctypes.c_void_p),
    ]


class _Kernels(ctypes.Structure):
    _fields_ = [
        ("first", ctypes.POINTER(_Kernel)),
        ("count", ctypes.c_int64),
        ("vector_bytes", ctypes.c_int64),
    ]


class Declaration(NamedTuple):
    """What the library says of one kernel, whose code there is for both dtypes.

    Attributes:
        op: operator of the catalogue, or a part's name, which begins with an underscore.
        code: its functions.
        over: dimension that is divided, if any.
        makes: outputs and scratch that it runs for; None: the outputs among its arguments.
        alternative: of the operator's signatures; None: all.
    """

    op: str
    code: NativeCode
    over: str | None
    makes: tuple[str, ...] | None
    alternative: int | None


@dataclass(frozen=True, eq=False)
class NativeCode:
    """The functions of one kernel, as :class:`nnkernels.backends._compiled.entry.Code`."""

    name: str
    parameters: tuple[str, ...]
    entries: Mapping[str, Entry]
    written_in: Callable[..., Any] | None = None

    def entry(self, layout: Layout) -> Entry:
        """The function for the layout's dtype."""
        return self.entries[layout.floating]


def digest(csrc: Path) -> str:
    """Digest of the sources below ``csrc`` that the library is built from, as CMake computes it."""
    files = (p for folder in ("arithmetic", "host") for p in (csrc / folder).rglob("*.*"))
    lines = sorted(
        (path.relative_to(csrc).as_posix(), hashlib.sha256(path.read_bytes()).hexdigest())
        for path in files
    )
    text = "".join(f"{each}  {path}\n" for path, each in lines)
    return hashlib.sha256(text.encode()).hexdigest()


def checkout() -> Path | None:
    """The folder of the sources, where this package is imported from them."""
    folder = Path(__file__).parents[3]
    return folder if (folder / "CMakePresets.json").is_file() else None


def paths() -> Iterator[Path]:
    """Where the library may lie: installed beside this module, or built in a checkout.

    An editable installation builds it where the preset ``release`` does.
    """
    yield Path(__file__).with_name(NAME)
    if sources := checkout():
        yield sources / "build" / "release" / NAME


def find() -> Path | None:
    """The library's file, the newest one; None where there is none."""
    if asked := os.environ.get(PATH_VARIABLE):
        return Path(asked)
    return max(filter(Path.is_file, paths()), key=lambda path: path.stat().st_mtime, default=None)


def remedy() -> str:
    """How to build the library for this package."""
    if checkout():
        return (
            "in the checkout: cmake --preset release && "
            "cmake --build --preset release --target native"
        )
    return (
        "in the sources of nnkernels: "
        f"{REQUIRE_VARIABLE}=1 pip install --force-reinstall --no-deps ."
    )


def absence() -> str:
    """Why there is no library, and how to get one."""
    if checkout():
        return f"its C++ library was not built; run {remedy()} (or pip install -e .)"
    return (
        "its C++ library was not built, for want of a C++ compiler that works when nnkernels was "
        f"installed; install one (Debian: apt install g++) and run {remedy()}"
    )


class Library:
    """An opened library.

    Raises:
        BackendUnavailableError: it cannot be opened, is another version's, or has no code for this
            processor.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._library = ctypes.CDLL(str(path))
        except OSError as error:
            raise _refused(path, f"cannot be opened: {error}") from error
        self._shake_hands()
        self.variant = self._chosen()

    def _function(self, name: str, result: Any, *arguments: Any) -> Any:
        try:
            function = getattr(self._library, name)
        except AttributeError as error:
            raise _refused(self.path, f"is no library of nnkernels: it has no {name}") from error
        function.restype, function.argtypes = result, arguments
        return function

    def _shake_hands(self) -> None:
        abi = self._function("nnk_abi", ctypes.c_int64)()
        if abi != ABI:
            raise _refused(self.path, f"has the interface {abi}, this nnkernels has {ABI}")
        if self._function("nnk_sources", ctypes.c_char_p)().decode() != digest(CSRC):
            raise _refused(self.path, "was built from other sources than this nnkernels has")

    @property
    def compiler(self) -> str:
        """What it was built with."""
        text: str = self._function("nnk_compiler", ctypes.c_char_p)().decode()
        return text

    @functools.cached_property
    def variants(self) -> dict[str, bool]:
        """By name, from the best one on: whether this processor has the instructions."""
        ask = self._function(
            "nnk_variant", ctypes.c_char_p, ctypes.c_int64, ctypes.POINTER(ctypes.c_int64)
        )
        found: dict[str, bool] = {}
        runs = ctypes.c_int64()
        while (name := ask(len(found), ctypes.byref(runs))) is not None:
            found[name.decode()] = bool(runs.value)
        return found

    def _chosen(self) -> str:
        """The variant that is asked for, or the best one that runs here."""
        able = [name for name, runs in self.variants.items() if runs]
        if not able:
            raise _refused(self.path, "has no code for this processor")
        asked = os.environ.get(VARIANT_VARIABLE) or able[0]
        if asked not in able:
            raise BackendUnavailableError(
                f"backend 'native' is not available: {VARIANT_VARIABLE}={asked} is no instruction "
                "set that the library has and this processor runs; choose one of: "
                + ", ".join(able)
            )
        return asked

    @functools.cached_property
    def tables(self) -> dict[str, _Kernels]:
        """The kernels of the chosen variant by dtype."""
        ask = self._function("nnk_kernels_of", _Kernels, ctypes.c_char_p, ctypes.c_int64)
        return {dtype: ask(self.variant.encode(), n) for n, dtype in enumerate(DTYPES)}

    @property
    def vector_bits(self) -> int:
        """Width of the registers that products use."""
        return 8 * int(self.tables["float32"].vector_bytes)

    def declarations(self) -> Iterator[Declaration]:
        """All kernels, in the library's order."""
        tables = [self.tables[dtype] for dtype in DTYPES]
        for number in range(tables[0].count):
            both = [table.first[number] for table in tables]
            name, parameters = both[0].op.decode(), tuple(both[0].arguments.decode().split())
            entries = {
                dtype: Entry(f"{name}|{dtype}", functools.partial(_address, kernel.call))
                for dtype, kernel in zip(DTYPES, both, strict=True)
            }
            makes = None if both[0].makes is None else tuple(both[0].makes.decode().split())
            alternative = None if both[0].alternative < 0 else int(both[0].alternative)
            over = None if both[0].over is None else both[0].over.decode()
            code = NativeCode(name, parameters, entries)
            yield Declaration(name, code, over, makes, alternative)

    def loop(self, name: str, arguments: int) -> Entry:
        """One of the loops over tables, a function of so many int64."""
        function = self._function(name, ctypes.c_int64)
        address = ctypes.cast(function, ctypes.c_void_p).value or 0
        return Entry(name, functools.partial(_address, address), arguments)


def _address(address: int, _: Entry) -> int:
    return address


def _refused(path: Path, why: str) -> BackendUnavailableError:
    return BackendUnavailableError(
        f"backend 'native' is not available: {str(path)!r} {why}; build it again, {remedy()}"
    )
