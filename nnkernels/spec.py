"""How an operator is declared: its reference function plus what tests, checks and docs need.

The plain NumPy reference *is* the declaration. It is a pure function: it returns the outputs of
the signature, then the new values of the arguments named in ``updates``, and never writes to what
it was given; ``out`` stands in its signature because that is the public one, and is filled by the
dispatcher. Everything else (argument checks, allocation, conformance cases, docs) is derived.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, NamedTuple, ParamSpec, Protocol, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from nnkernels import signature as sig
from nnkernels.errors import InputError, unknown

Array: TypeAlias = npt.NDArray[Any]
Params: TypeAlias = Mapping[str, Any]
REQUIRED = inspect.Parameter.empty
"""In place of the default of a parameter that has none."""

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Error:
    """Bound ``|got - ref| <= c * eps(dtype) * scale + tiny(dtype)``; ``c = 0`` means equal bits.

    ``scale(outputs, *inputs, **params)`` returns one array an output; by default ``|ref|``.
    """

    c: float
    scale: Callable[..., tuple[Any, ...]] | None = None

    def bound(
        self,
        outputs: tuple[Array, ...],
        inputs: tuple[Any, ...],
        params: Params,
        dtype: np.dtype[Any],
    ) -> tuple[Array, ...]:
        """Largest allowed absolute error of every output (float64 arrays)."""
        if self.c == 0:
            return tuple(np.zeros(np.shape(y)) for y in outputs)
        if self.scale is None:
            scales: tuple[Any, ...] = tuple(np.abs(y) for y in outputs)
        else:
            scales = self.scale(outputs, *inputs, **params)
        info = np.finfo(dtype)
        return tuple(self.c * float(info.eps) * np.asarray(s) + float(info.tiny) for s in scales)


@dataclass(frozen=True, slots=True)
class Cost:
    """Model cost: floating-point additions and multiplications, and compulsory traffic.

    ``flops`` is a number for each element of the first output (or of the first updated argument),
    or a function of the signature's sizes. Transcendental functions are never counted as flops.
    """

    flops: float | Callable[[Mapping[str, Any]], float] = 0


class ParameterType(NamedTuple):
    """What a parameter of some annotation accepts, and the Python type it is handed on as."""

    python: type
    accepts: tuple[type, ...]
    words: str

    def convert(self, what: str, value: Any) -> Any:
        """``value`` in the Python type; one of another type is refused."""
        if not isinstance(value, self.accepts) or (
            isinstance(value, bool) and self.python is not bool
        ):
            raise InputError(f"{what} must be {self.words}, got {value!r}")
        try:
            # A NumPy scalar handed on to a kernel would promote float32 arrays to float64.
            return self.python(value)
        except OverflowError:
            raise InputError(f"{what} is beyond the range of float64") from None


PARAMETER_TYPES: Mapping[Any, ParameterType] = {
    "bool": ParameterType(bool, (bool, np.bool_), "True or False"),
    "int": ParameterType(int, (int, np.integer), "a whole number"),
    "float": ParameterType(float, (int, float, np.integer, np.floating), "a number"),
    "str": ParameterType(str, (str,), "a text"),
}
"""By annotation; a parameter of any other annotation is handed on as it came."""


class Runtime(Protocol):
    """What stands above the operators and is filled in by :mod:`nnkernels.dispatch`."""

    def call(
        self, op: Op[Any, Any], backend: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Check, allocate and run ``op`` on ``backend`` (None: the current one)."""

    def get_backend(self, name: str) -> Any:
        """The backend called ``name``."""


class _Unfilled:
    def call(
        self, op: Op[Any, Any], backend: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        raise InputError(f"{op.name}: import nnkernels before calling operators")

    def get_backend(self, name: str) -> Any:
        raise InputError(f"import nnkernels before asking for backend {name!r}")


class _Slot:
    runtime: Runtime = _Unfilled()


slot = _Slot()

OPERATORS: dict[str, Op[Any, Any]] = {}


@dataclass(eq=False)
class Op(Generic[P, R]):
    """A declared operator; calling it dispatches to the current backend.

    Attributes:
        reference: pure NumPy function, the oracle when evaluated in float64.
        signature: see :mod:`nnkernels.signature`; a function of the parameters where they decide.
        error: bound that every backend's kernel must keep.
        cost: model flops; bytes follow from the signature.
        saves: inputs or outputs that the derivative needs, in its order after ``grad``.
        special: pairs ``(x, y)`` that hold exactly (NaN equal to NaN) for one-input operators.
        kinks: inputs where the derivative jumps; gradient checks stay away from them.
        updates: arguments that are updated in place.
        limits: allowed parameter values: an interval (``"[0,1)"``) or a tuple of choices.
        covers: operators that a fused kernel replaces; ``"$name"`` is the value of a parameter.
    """

    reference: Callable[P, R]
    signature: str | Callable[[Params], str]
    error: Error
    cost: Cost = Cost()
    saves: tuple[str, ...] = ()
    special: tuple[tuple[float, float], ...] = ()
    kinks: tuple[float, ...] = ()
    updates: tuple[str, ...] = ()
    limits: Mapping[str, str | tuple[str, ...]] = field(default_factory=dict)
    covers: tuple[str, ...] = ()
    derivative: Op[Any, Any] | None = field(default=None, init=False)
    differentiable: tuple[str, ...] = field(default=(), init=False)
    composition: Callable[..., Any] | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        # inspect.signature would say the same in a tenth of NumPy's import time for all operators.
        code, defaults = self.reference.__code__, self.reference.__kwdefaults__ or {}
        last = code.co_argcount + code.co_kwonlyargcount
        keywords = code.co_varnames[code.co_argcount : last]
        self.name = self.reference.__name__
        self.__doc__ = self.reference.__doc__
        self.__module__ = self.reference.__module__
        self.__wrapped__ = self.reference
        self.inputs = code.co_varnames[: code.co_argcount]
        self.params = {n: defaults.get(n, REQUIRED) for n in keywords if n != "out"}
        for signature in self.signatures(self.params):
            if len(signature.inputs) != len(self.inputs):
                raise InputError(
                    f"operator {self.name!r}: its signature has {len(signature.inputs)} inputs, "
                    f"its function takes {self.inputs}"
                )
        if self.name in OPERATORS:
            raise InputError(f"operator {self.name!r} is declared twice; rename one of them")
        OPERATORS[self.name] = self

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run on the current backend: see :func:`nnkernels.use`."""
        result: R = slot.runtime.call(self, None, args, kwargs)
        return result

    def __repr__(self) -> str:
        return f"<operator {self.name}>"

    def on(self, backend: Any, *args: Any, **kwargs: Any) -> Any:
        """Run on ``backend``."""
        return slot.runtime.call(self, backend, args, kwargs)

    def signatures(self, params: Params) -> tuple[sig.Signature, ...]:
        """Alternative signatures under ``params``."""
        text = self.signature if isinstance(self.signature, str) else self.signature(params)
        return sig.parse(text)

    def full_params(self, given: Params) -> dict[str, Any]:
        """Defaults overlaid by ``given``; unknown, missing or out-of-range ones are refused."""
        for name in given:
            if name not in self.params:
                raise unknown(
                    f"parameter of {self.name}", name, [*self.params, *self.inputs, "out"]
                )
        return {name: self._checked(name, v) for name, v in {**self.params, **given}.items()}

    def _checked(self, name: str, value: Any) -> Any:
        """``value`` as a plain Python value of the parameter's annotated type, within its limit."""
        if value is REQUIRED:
            raise InputError(f"{self.name}: parameter {name!r} is required")
        annotation = self.reference.__annotations__.get(name)
        expected = PARAMETER_TYPES.get(getattr(annotation, "__name__", annotation))
        if expected is not None:
            value = expected.convert(f"{self.name}: {name}", value)
        limit = self.limits.get(name)
        if isinstance(limit, tuple):
            if value not in limit:
                raise unknown(f"{self.name} {name}", str(value), limit)
        elif limit is not None and not sig.parse_interval(limit).contains(value, value, {}):
            raise InputError(f"{self.name}: {name} must lie in {limit}, got {value!r}")
        return value

    @property
    def wrt(self) -> tuple[str, ...]:
        """Inputs whose gradients the derivative returns, in its order."""
        if self.derivative is None or self.differentiable:
            return self.differentiable
        derivative = self.derivative
        return self.inputs[: len(derivative.signatures(derivative.params)[0].outputs)]

    def result_names(self, signature: sig.Signature) -> tuple[str, ...]:
        """Names of the outputs, then of the updated arguments."""
        outputs = signature.outputs
        default = ("y",) if len(outputs) == 1 else tuple(f"y{i}" for i in range(len(outputs)))
        return (*(a.name or d for a, d in zip(outputs, default, strict=True)), *self.updates)

    def evaluate(self, *inputs: Any, **params: Any) -> tuple[Array, ...]:
        """The reference's results as a tuple of arrays: outputs, then updated arguments."""
        results = self.reference(*inputs, **params)
        return tuple(np.asarray(r) for r in (results if isinstance(results, tuple) else (results,)))

    def covered(self, params: Params) -> tuple[str, ...]:
        """Names of the operators that a kernel of this one replaces."""
        return tuple(params[c[1:]] if c.startswith("$") else c for c in self.covers)

    def flops(self, dims: Mapping[str, Any], size: int) -> float:
        """Model flops for solved ``dims``; ``size`` is the element count of the first result."""
        return self.cost.flops(dims) if callable(self.cost.flops) else self.cost.flops * size

    def backward(
        self,
        *,
        error: Error,
        signature: str | Callable[[Params], str] | None = None,
        cost: Cost = Cost(),
        wrt: Iterable[str] | None = None,
        limits: Mapping[str, str | tuple[str, ...]] | None = None,
        covers: tuple[str, ...] = (),
    ) -> Callable[[Callable[P2, R2]], Op[P2, R2]]:
        """Declare the derivative ``<op>_backward(grad, *saves, **params)``.

        ``wrt`` names the inputs whose gradients it returns, by default the first ones, as many as
        it has outputs; ``signature`` may be left out for elementwise operators.
        """

        def declare(reference: Callable[P2, R2]) -> Op[P2, R2]:
            text = signature or ",".join(["(...)"] * (1 + len(self.saves))) + "->(...)"
            op = Op(
                reference,
                text,
                error,
                cost,
                limits=self.limits if limits is None else limits,
                covers=covers,
            )
            expected = (f"{self.name}_backward", ("grad", *self.saves))
            if (op.name, op.inputs) != expected:
                raise InputError(f"derivative of {self.name}: expected {expected[0]}{expected[1]}")
            self.derivative, self.differentiable = op, tuple(wrt or ())
            return op

        return declare

    def composed(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Declare the default in terms of other operators.

        ``function(call, *inputs, **params)`` builds the outputs through ``call(name, *arguments,
        **params)``, eagerly on arrays or symbolically on the slots of a Program.
        """
        self.composition = function
        return function


P2 = ParamSpec("P2")
R2 = TypeVar("R2")


def op(
    signature: str | Callable[[Params], str],
    *,
    error: Error,
    cost: Cost = Cost(),
    saves: tuple[str, ...] = (),
    special: tuple[tuple[float, float], ...] = (),
    kinks: tuple[float, ...] = (),
    updates: tuple[str, ...] = (),
    limits: Mapping[str, str | tuple[str, ...]] | None = None,
    covers: tuple[str, ...] = (),
) -> Callable[[Callable[P, R]], Op[P, R]]:
    """Declare an operator on its NumPy reference; see :class:`Op` for the arguments."""

    def declare(reference: Callable[P, R]) -> Op[P, R]:
        return Op(
            reference, signature, error, cost, saves, special, kinks, updates, limits or {}, covers
        )

    return declare


def get_op(name: str) -> Op[Any, Any]:
    """The operator called ``name``; an unknown one raises with the nearest match."""
    if not isinstance(name, str):
        raise InputError(f"get_op: name must be a text, got {name!r}")
    try:
        return OPERATORS[name]
    except KeyError:
        raise unknown("operator", name, OPERATORS) from None
