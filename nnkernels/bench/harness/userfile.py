"""Files with workloads and backends of users: executed once, their mistakes told by line."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import importlib.util
import itertools
import sys
import traceback
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import numpy as np

import nnkernels
import nnkernels.errors

from . import declare
from .poison import legible, poison
from .workload import USER, Agreement, Case, Cost, Preset, Runner, Sweep, rate_of

BackendError = nnkernels.errors.BackendError
InputError = nnkernels.errors.InputError

PUBLIC = "nnkernels.bench.declare"
"""What the files import; in a worker that is this harness, whatever nnkernels it drives."""

OUT = "out"
"""Name of the arrays among a workload's that its results are written to."""


@dataclasses.dataclass(frozen=True)
class UserFile:
    """A file that has been executed.

    Attributes:
        path: absolute.
        workloads: classes with their declarations.
        backends: functions that make backends, with their declarations.
    """

    path: Path
    workloads: tuple[tuple[declare.Workload, Any], ...]
    backends: tuple[tuple[declare.Backend, Any], ...]

    @property
    def names(self) -> list[str]:
        """Names of its workloads."""
        return [declared.name for declared, _ in self.workloads]

    def cases(self, preset: Preset) -> list[Case]:
        """Its workloads at the sizes of ``preset``.

        Raises:
            InputError: a cost cannot be computed.
        """
        return [
            _case(self.path, declared, cls, size)
            for declared, cls in self.workloads
            for size in declared.sizes[preset]
        ]

    def sweeps(self) -> list[Sweep]:
        """Its workloads whose size is one number, from the smallest to the largest declared."""
        found = []
        for declared, cls in self.workloads:
            sizes = {size for preset in declared.sizes.values() for size in preset}
            if len(sizes) > 1 and all(len(size) == 1 for size in sizes):
                make = functools.partial(_case_at, self.path, declared, cls)
                (low,), (high,) = min(sizes), max(sizes)
                tags = (*declared.tags, USER)
                found.append(Sweep(declared.name, "size", low, high, tags, make))
        return found

    def register(self) -> None:
        """Make its backends known.

        Raises:
            InputError: one of them cannot be made, or its name is taken.
        """
        for declared, function in self.backends:
            _register(self.path, declared, function)


def execute(path: Path) -> UserFile:
    """Execute the file at the absolute ``path``.

    Raises:
        InputError: there is no such file, it raises, or it declares nothing.
    """
    if path.suffix != ".py" or not path.is_file():
        raise InputError(f"--workloads {str(path)!r}: no such Python file; give a file NAME.py")
    found = [
        (getattr(value, declare.ATTRIBUTE), value)
        for value in vars(_module(path)).values()
        if declare.ATTRIBUTE in getattr(value, "__dict__", {})
    ]
    if not found:
        raise InputError(
            f"{path} declares no workload and no backend; write @workload(...) above a class"
        )
    return UserFile(
        path,
        tuple(entry for entry in found if isinstance(entry[0], declare.Workload)),
        tuple(entry for entry in found if isinstance(entry[0], declare.Backend)),
    )


def _module(path: Path) -> Any:
    """The file as a module; its folder is searched for what it imports, after all others."""
    sys.modules.setdefault(PUBLIC, declare)
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    name = f"nnkernels_workloads_{zlib.crc32(str(path).encode()):08x}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        with told(path):
            spec.loader.exec_module(module)
    except InputError:
        del sys.modules[name]
        raise
    return module


def _register(path: Path, declared: declare.Backend, function: Callable[[], Any]) -> None:
    register = getattr(nnkernels.plugins, "register", None)
    if register is None:
        raise InputError(
            f"{path}:{declared.line}: nnkernels {nnkernels.__version__} takes no backends from "
            "files; compare a version that does, or install the backend as a plug-in"
        )

    try:
        register(declared.name, _made(path, declared, function), origin=path.name)
    except InputError as error:
        raise InputError(f"{path}:{declared.line}: {error}") from None


def _made(path: Path, declared: declare.Backend, function: Callable[[], Any]) -> Callable[[], Any]:
    """What loads the backend: it is made now, so that a mistake in the file is told at once.

    That it cannot work here is no mistake: whoever asks for it hears why.
    """
    try:
        with told(path, declared.line):
            made = function()
            if not isinstance(made, nnkernels.Backend):
                raise InputError(f"{made!r} is no nnkernels.Backend")
    except BackendError as error:
        return functools.partial(_refuse, error)
    renamed = dataclasses.replace(made, name=declared.name, base=declared.name, swaps={})
    return lambda: renamed


def _refuse(error: BackendError) -> NoReturn:
    raise error


@contextlib.contextmanager
def told(path: Path, line: int | None = None) -> Iterator[None]:
    """Make an InputError with file and line of whatever the user's code raises within.

    ``line`` is told where none of the user's code was being run.

    Raises:
        InputError: something was raised.
        BackendError: a backend cannot do what the code asks for, as it says itself.
    """
    try:
        yield
    except BackendError:
        raise
    except (Exception, SystemExit) as error:
        at = _line(path, error) or line
        where = str(path) if at is None else f"{path}:{at}"
        raise InputError(f"{where}: {_what(error)}") from error


def _line(path: Path, error: BaseException) -> int | None:
    """The line of ``path`` that raised ``error``."""
    if isinstance(error, SyntaxError) and error.filename == str(path):
        return error.lineno
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename == str(path)]
    return frames[-1].lineno if frames else None


def _what(error: BaseException) -> str:
    if isinstance(error, InputError):
        return str(error)
    text = error.msg if isinstance(error, SyntaxError) else str(error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _case_at(path: Path, declared: declare.Workload, cls: type, size: int) -> Case:
    return _case(path, declared, cls, (size,))


def _case(path: Path, declared: declare.Workload, cls: type, size: declare.Size) -> Case:
    with told(path, declared.line):
        workload: Any = cls()
        cost = workload.cost(*size)
        if not isinstance(cost, Cost) or not cost.bytes > 0 or not cost.items > 0:
            raise InputError(
                f"workload {declared.name!r}: cost must return a Cost with bytes and items above "
                f"0, got {cost!r}"
            )
    return Case(
        workload=declared.name,
        size="x".join(map(str, size)),
        params=dict(zip(declare.size_names(cls), size, strict=True)),
        dtype=declared.dtype,
        tags=(USER, *declared.tags),
        cost=Cost(float(cost.flop), float(cost.bytes), int(cost.items)),
        rate=rate_of(cost),
        make=functools.partial(UserProblem, path, declared, workload, size),
        baselines=declared.baselines,
    )


class UserProblem:
    """The inputs of a user's workload at one size."""

    def __init__(
        self, path: Path, declared: declare.Workload, workload: Any, size: declare.Size
    ) -> None:
        self.path, self.declared, self.workload = path, declared, workload
        rng = np.random.default_rng(zlib.crc32(f"{declared.name} {size}".encode()))
        with told(path, declared.line):
            made = workload.make(rng, *size)
            if not isinstance(made, dict) or not all(isinstance(name, str) for name in made):
                raise InputError(f"make must return a dict of arrays by name, got {type(made)}")
            outs = made.pop(OUT, None)
            self.values = {name: self._input(name, value) for name, value in made.items()}
            self.outs = None if outs is None else [self._spec(OUT, out) for out in _several(outs)]
        self.single = not isinstance(outs, (tuple, list))

    def _input(self, name: str, value: Any) -> Any:
        """A value as the runners get it: arrays are random and finite."""
        if value is None or isinstance(value, (bool, int, float, str)):
            return value
        array = self._cast(name, value)
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise InputError(f"make: {name!r} is not finite")
        if array.dtype.kind == "f" and not array.any():
            raise InputError(
                f"make: {name!r} holds nothing but zeros, which some kernels are faster with; "
                "draw it from rng"
            )
        return array

    def _cast(self, name: str, value: Any) -> Any:
        shape, dtype = self._spec(name, value)
        return np.ascontiguousarray(value, dtype).reshape(shape)

    def _spec(self, name: str, value: Any) -> tuple[tuple[int, ...], np.dtype[Any]]:
        """Shape and dtype that an array has here: floating ones have the workload's."""
        array = np.asarray(value)
        if array.dtype.kind not in "biuf":
            raise InputError(f"make: {name!r} must be an array of numbers, got {value!r}")
        return array.shape, np.dtype(
            self.declared.dtype if array.dtype.kind == "f" else array.dtype
        )

    @functools.cached_property
    def reference(self) -> list[Any]:
        """The results in float64.

        Raises:
            InputError: the user's code raises, or its results are not finite numbers.
        """
        wide = {
            name: v.astype(np.float64) if isinstance(v, np.ndarray) and v.dtype.kind == "f" else v
            for name, v in self.values.items()
        }
        with told(self.path, self.declared.line), np.errstate(all="ignore"):
            results = self.workload.reference(SimpleNamespace(**wide))
            found = [np.asarray(r) for r in _several(results)]
            if not all(r.dtype.kind in "biuf" and r.size for r in found):
                raise InputError(f"reference must return arrays of numbers, got {results!r}")
            return found

    def runner(self, backend: Any) -> Runner:
        """The workload on ``backend``."""
        return UserRunner(self, functools.partial(self.workload.run, backend), backend)

    def baseline(self, name: str) -> Runner:
        """One of the workload's own, on NumPy arrays."""
        return UserRunner(self, getattr(self.workload, name), nnkernels.get_backend("numpy"))

    def agreement(self, found: Sequence[Any]) -> Agreement:
        """Compare every result: an element's error relative to the largest of the reference."""
        name, limit = self.declared.name, self.declared.tolerance
        shapes = [list(np.shape(f)) for f in found]
        wanted = [list(r.shape) for r in self.reference]
        if shapes != wanted:
            reason = f"{name}: results of the shapes {shapes}, the reference has {wanted}"
            return Agreement(False, None, limit, reason)
        worst, wrong = 0.0, None
        for number, (got, expected) in enumerate(zip(found, self.reference, strict=True)):
            errors = _errors(got, expected)
            at = np.unravel_index(int(np.argmax(errors)), errors.shape)
            if errors[at] > max(worst, limit):
                wrong = (
                    f"{name}: result {number}{[int(i) for i in at]} is {got[at]}, the reference "
                    f"gives {expected[at]:.9g}; {np.sum(errors > limit)} of {got.size} are off"
                )
            worst = max(worst, float(errors[at]))
        error = worst if np.isfinite(worst) else None
        return Agreement(wrong is None, error, limit, wrong)


def _several(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (tuple, list)) else [value]


def _errors(got: Any, expected: Any) -> Any:
    """Elementwise errors relative to the largest number of the reference; infinite beside NaN."""
    finite = np.abs(expected[np.isfinite(expected)], dtype=np.float64)
    scale = float(finite.max(initial=0.0)) or 1.0
    with np.errstate(all="ignore"):
        errors = np.abs(got.astype(np.float64) - expected.astype(np.float64)) / scale
    same = (got == expected) | (np.isnan(got) & np.isnan(expected))
    return np.where(same, 0.0, np.where(np.isfinite(errors), errors, np.inf))


class UserRunner:
    """A user's function on the arrays of a backend's device."""

    checked = 1
    note: str | None = None

    def __init__(self, problem: UserProblem, function: Callable[[Any], Any], backend: Any) -> None:
        self._problem, self._function, self._backend = problem, function, backend
        placed = {
            name: backend.asarray(v.copy()) if isinstance(v, np.ndarray) else v
            for name, v in problem.values.items()
        }
        self._s = SimpleNamespace(**placed)
        self._outs: list[Any] | None = None
        if problem.outs is not None:
            self._outs = [backend.device.empty(*spec) for spec in problem.outs]
            self._s.out = self._outs[0] if problem.single else tuple(self._outs)
        self._result: Any = None

    def reset(self) -> None:
        """Put back the inputs, which the user's code may update, and poison the outputs."""
        self._result = None
        for name, value in self._problem.values.items():
            if isinstance(value, np.ndarray):
                getattr(self._s, name)[...] = self._backend.asarray(value)
        for out in self._outs or ():
            out[...] = self._backend.asarray(poison(out.shape, np.dtype(out.dtype)))

    def run(self, loops: int) -> None:
        """Call the user's function ``loops`` times."""
        function, s, result = self._function, self._s, None
        with told(self._problem.path), np.errstate(all="ignore"):
            for _ in itertools.repeat(None, loops):
                result = function(s)
            self._backend.device.synchronize()
        if loops:
            self._result = result

    def outputs(self) -> list[Any]:
        """``out`` where the workload has one, else what the last call returned."""
        results = self._outs if self._outs is not None else _several(self._result)
        if any(r is None for r in results):
            name = self._problem.declared.name
            raise InputError(f"workload {name!r}: run returned None, and make gives no 'out'")
        return [legible(self._host(r)) for r in results]

    def _host(self, result: Any) -> Any:
        plain = isinstance(result, (bool, int, float, np.generic, np.ndarray))
        return result if plain else self._backend.to_numpy(result)
