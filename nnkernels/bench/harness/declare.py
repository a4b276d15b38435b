"""How users declare workloads and backends of their own, in a file for ``--workloads``.

from nnkernels.bench.declare import Cost, backend, workload

@workload("gram", sizes={"quick": [(64, 32)], "default": [(4096, 256)]}, tolerance=1e-5)
class Gram:
    def make(self, rng, rows, columns):
        return {"a": rng.standard_normal((rows, columns)), "out": np.empty((columns, columns))}

    def run(self, be, s):
        be.matmul(s.a, s.a, transpose_a=True, out=s.out)

    def reference(self, s):
        return s.a.T @ s.a

    def cost(self, rows, columns):
        return Cost(2 * rows * columns**2, 4 * (rows * columns + columns**2), columns**2)
"""

from __future__ import annotations

import inspect
import math
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import nnkernels.errors

from .workload import PRESETS, Cost

InputError = nnkernels.errors.InputError

__all__ = ["Cost", "backend", "workload"]

ATTRIBUTE = "__nnkernels_declaration__"
METHODS = ("make", "run", "reference", "cost")

Size = tuple[int, ...]
Sizes = Mapping[str, Sequence[int | Size]] | Sequence[int | Size]
T = TypeVar("T", bound=type)
F = TypeVar("F", bound=Callable[[], Any])

_NAME = re.compile(r"[A-Za-z_][\w.-]*")


@dataclass(frozen=True, slots=True)
class Workload:
    """What :func:`workload` was told; ``line`` is where."""

    name: str
    sizes: Mapping[str, tuple[Size, ...]]
    tolerance: float
    dtype: str
    tags: tuple[str, ...]
    baselines: tuple[str, ...]
    line: int


@dataclass(frozen=True, slots=True)
class Backend:
    """What :func:`backend` was told; ``line`` is where."""

    name: str
    line: int


def workload(
    name: str,
    *,
    sizes: Sizes,
    tolerance: float,
    dtype: Literal["float32", "float64"] = "float32",
    tags: Sequence[str] = (),
    baselines: Sequence[str] = (),
) -> Callable[[T], T]:
    """Declare a class as a workload. It has four methods:

    ``make(rng, *size)``
        The inputs by name: NumPy arrays, drawn from the NumPy generator ``rng`` (never only zeros),
        and plain numbers. Floating arrays are cast to ``dtype``. ``out``, an array or a tuple of
        arrays, is what ``run`` writes to; it is filled with NaN before every check.
    ``run(be, s)``
        One call on the backend ``be``, whose arrays are the attributes of ``s``. Its results are
        ``s.out``; where ``make`` gives none, what it returns: an array, or a tuple.
    ``reference(s)``
        The right results, from NumPy arrays in float64.
    ``cost(*size)``
        The :class:`Cost` of one call: flops, bytes read and written, items.

    Args:
        name: of the workload; none of nnkernels' own.
        sizes: by preset (``quick``, ``default``, ``thorough``), or for all presets; each is a whole
            number or a tuple of them. A preset that is not there has the sizes of ``default``.
        tolerance: the largest error of an element, relative to the largest of the reference.
        dtype: of the floating arrays.
        tags: words that ``-k`` finds it by.
        baselines: methods ``f(s)`` on NumPy arrays, with results as ``run`` has them, that are
            measured beside the backends: the code that was there before, for example.

    Raises:
        InputError: something of this is missing or cannot be used.
    """
    _check_name("workload", name)
    if not _is_number(tolerance) or not 0 < tolerance < math.inf:
        raise InputError(f"workload {name!r}: tolerance must be above 0, got {tolerance!r}")
    if dtype not in ("float32", "float64"):
        raise InputError(f"workload {name!r}: dtype must be float32 or float64, got {dtype!r}")
    for what, words in (("tags", tags), ("baselines", baselines)):
        if isinstance(words, str) or not all(isinstance(word, str) for word in words):
            raise InputError(f"workload {name!r}: {what} must be a tuple of texts, got {words!r}")
    by_preset = _sizes(name, sizes)
    line = sys._getframe(1).f_lineno
    declared = Workload(name, by_preset, tolerance, dtype, tuple(tags), tuple(baselines), line)

    def declare(cls: T) -> T:
        _check_class(declared, cls)
        setattr(cls, ATTRIBUTE, declared)
        return cls

    return declare


def backend(name: str) -> Callable[[F], F]:
    """Declare a function without arguments as the source of the backend ``name``.

    It returns an :class:`nnkernels.Backend`, for example one with kernels of your own:
    ``nnkernels.get_backend("numpy").replace(relu=mine)``.

    Raises:
        InputError: the name cannot be used.
    """
    _check_name("backend", name)
    declared = Backend(name, sys._getframe(1).f_lineno)

    def declare(function: F) -> F:
        setattr(function, ATTRIBUTE, declared)
        return function

    return declare


def size_names(cls: type) -> list[str]:
    """Names of the numbers that make up a size: the arguments of ``make`` after ``rng``."""
    return list(inspect.signature(cls.make).parameters)[2:]  # type: ignore[attr-defined]


def _check_name(what: str, name: Any) -> None:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise InputError(f"{what}: the name must be a word such as 'my_{what}', got {name!r}")


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _sizes(name: str, sizes: Any) -> dict[str, tuple[Size, ...]]:
    """The sizes of every preset."""
    given = sizes if isinstance(sizes, Mapping) else {"default": sizes}
    for preset in given:
        if preset not in PRESETS:
            known = ", ".join(PRESETS)
            raise InputError(f"workload {name!r}: the presets of sizes are {known}, not {preset!r}")
    if "default" not in given:
        raise InputError(f"workload {name!r}: sizes lack the preset 'default'")
    found = {preset: _preset_sizes(name, of) for preset, of in given.items()}
    return {preset: found.get(preset, found["default"]) for preset in PRESETS}


def _preset_sizes(name: str, sizes: Any) -> tuple[Size, ...]:
    entries = list(sizes) if isinstance(sizes, Sequence) and not isinstance(sizes, str) else []
    tuples = [size if isinstance(size, tuple) else (size,) for size in entries]
    whole = all(type(n) is int and n > 0 for size in tuples for n in size)
    if not tuples or not whole or len(set(tuples)) < len(tuples):
        raise InputError(
            f"workload {name!r}: sizes must be a list of different tuples of whole numbers above "
            f"0, such as [(64, 32)], got {sizes!r}"
        )
    return tuple(tuples)


def _check_class(declared: Workload, cls: Any) -> None:
    name = declared.name
    if not isinstance(cls, type):
        raise InputError(f"workload {name!r}: a class is declared, got {cls!r}")
    for method in (*METHODS, *declared.baselines):
        if not callable(getattr(cls, method, None)):
            raise InputError(f"workload {name!r}: the class {cls.__name__} has no method {method}")
    for size in {size for sizes in declared.sizes.values() for size in sizes}:
        for method, before in (("make", 2), ("cost", 1)):
            try:
                inspect.signature(getattr(cls, method)).bind(*[None] * before, *size)
            except TypeError as error:
                raise InputError(
                    f"workload {name!r}: {method} cannot be called for the size {size}: {error}"
                ) from None
