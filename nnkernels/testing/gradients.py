"""Gradients by finite differences, and checks of derivatives against them.

Source: Nocedal and Wright, Numerical Optimization, section 8.1 (steps of the square and the cube
root of the machine epsilon balance truncation and rounding errors).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import numpy as np

from nnkernels.backend import Backend
from nnkernels.dispatch import get_backend
from nnkernels.errors import InputError, ProgramError, VerificationError
from nnkernels.program import Instruction, Interpreter, Program, Slot, State
from nnkernels.spec import Array, Op, get_op
from nnkernels.testing.samples import (
    Sample,
    draw,
    fitting,
    generator,
    is_distribution,
    parameter_sets,
    saved_values,
    size_plans,
)

Method = Literal["central", "forward"]
EPS = float(np.finfo(np.float64).eps)
FLOOR = 1e-3
"""Gradients below this are compared absolutely: finite differences resolve no less."""


@dataclass(frozen=True, slots=True)
class GradientReport:
    """Outcome of :func:`check_gradients`.

    Attributes:
        worst: largest difference, relative to the largest element of its gradient (at least 1e-3).
        where: the array and the index of that difference.
        tolerance: largest accepted ``worst``.
        errors: the largest relative difference of every array, by name.
    """

    worst: float
    where: str
    tolerance: float
    errors: Mapping[str, float]

    @property
    def ok(self) -> bool:
        """Whether every difference is within the tolerance (NaN never is)."""
        return self.worst <= self.tolerance

    def __str__(self) -> str:
        return (
            f"worst relative gradient error {self.worst:.3g} at {self.where} "
            f"(tolerance {self.tolerance:g})"
        )

    def check(self) -> None:
        """Raise :class:`VerificationError` unless :attr:`ok`."""
        if not self.ok:
            raise VerificationError(f"gradients disagree with finite differences: {self}")


def numerical_gradient(
    f: Callable[[Array], Any],
    x: Any,
    *,
    method: Method = "central",
    step: float | None = None,
) -> Array:
    """Gradient of the number ``f(x)`` by finite differences, in float64.

    Args:
        f: maps a float64 array shaped like ``x`` to one number; must not keep or change it.
        x: the point; any shape.
        method: ``"central"``, ``(f(x + h) - f(x - h)) / 2h``, or ``"forward"``, ``(f(x + h) -
            f(x)) / h``.
        step: ``h``; by default the cube (central) or square root (forward) of the machine epsilon,
            times ``max(1, |x|)`` of the element.

    Returns:
        A float64 array shaped like ``x``.

    Raises:
        InputError: ``method`` or ``step`` is not valid, or ``f`` does not give one number.
    """
    point = np.array(x, dtype=np.float64)
    steps = _steps(point, method, step)
    gradient = np.empty_like(point)
    here = _number(f, point) if method == "forward" else 0.0
    for index in np.ndindex(point.shape):
        centre, h = point[index], steps[index]
        point[index] = centre + h
        above, right = _number(f, point), point[index]
        if method == "forward":
            below, left = here, centre
        else:
            point[index] = centre - h
            below, left = _number(f, point), point[index]
        point[index] = centre
        gradient[index] = (above - below) / (right - left)
    return gradient


def _steps(point: Array, method: str, step: float | None) -> Array:
    if method not in ("central", "forward"):
        raise InputError(
            f"numerical_gradient: method must be 'central' or 'forward', got {method!r}"
        )
    if step is None:
        root = EPS ** (1 / 3 if method == "central" else 1 / 2)
        return np.asarray(root * np.maximum(1, np.abs(point)))
    if not (np.isfinite(step) and step > 0):
        raise InputError(f"numerical_gradient: step must be a finite number above 0, got {step!r}")
    return np.full(point.shape, float(step))


def _number(f: Callable[[Array], Any], point: Array) -> float:
    value = np.asarray(f(point.copy()))
    if value.size != 1 or value.dtype.kind not in "fiu":
        raise InputError(
            f"numerical_gradient: f must give one real number, got {value.dtype} of shape "
            f"{value.shape}; sum it first"
        )
    return float(value.reshape(()))


# --- checking ----------------------------------------------------------------------------------


def check_gradients(
    subject: str | Op[Any, Any] | Program | Callable[[Array], Any],
    *arguments: Any,
    method: Method = "central",
    step: float | None = None,
    tolerance: float | None = None,
    **options: Any,
) -> GradientReport:
    """Compare a derivative with finite differences.

    ``subject`` and ``arguments`` are one of

    * an operator (or its name) and its input arrays; ``options`` are its parameters. The float64
      reference is checked, for the sum of its first output weighted with random numbers;
    * a function, its gradient function, and a point: ``check_gradients(f, df, x)``;
    * a float64 Program and its State: ``check_gradients(program, state, inputs={...})``. The
      gradients of all parameters of the loss slot ``outputs["loss"]`` are checked, of each at most
      ``limit=20`` elements, on ``backend="numpy"``. The State is left as it was.

    Args:
        method: ``"central"`` or ``"forward"`` differences.
        step: see :func:`numerical_gradient`.
        tolerance: accepted relative error; by default 1e-6 (central) or 1e-4 (forward).

    Returns:
        A report with ``ok``, the worst error, and ``check()``, which raises.

    Raises:
        InputError: the arguments do not fit the subject.
    """
    accepted = (1e-6 if method == "central" else 1e-4) if tolerance is None else tolerance
    numeric = partial(numerical_gradient, method=method, step=step)
    if isinstance(subject, Program):
        pairs = _program_pairs(numeric, subject, *arguments, **options)
    elif isinstance(subject, (str, Op)):
        op = get_op(subject) if isinstance(subject, str) else subject
        pairs = _operator_pairs(numeric, op, arguments, options)
    else:
        pairs = _function_pairs(numeric, subject, arguments, options)
    return _report(pairs, accepted)


Numeric = Callable[[Callable[[Array], Any], Any], Array]
Pairs = Mapping[str, tuple[Array, Array]]


def _report(pairs: Pairs, tolerance: float) -> GradientReport:
    errors, places = {}, {}
    for name, (analytic, numeric) in pairs.items():
        difference = np.abs(analytic - numeric)
        scale = max(np.abs(analytic).max(initial=FLOOR), np.abs(numeric).max(initial=FLOOR))
        at = np.unravel_index(int(np.argmax(difference)), difference.shape)
        errors[name] = float(difference[at] / scale)
        places[name] = f"{name}{[int(i) for i in at]}"
    worst = max(errors, key=lambda name: np.inf if np.isnan(errors[name]) else errors[name])
    return GradientReport(errors[worst], places[worst], tolerance, errors)


def _function_pairs(
    numeric: Numeric,
    f: Callable[[Array], Any],
    arguments: Sequence[Any],
    options: Mapping[str, Any],
) -> Pairs:
    if len(arguments) != 2 or not callable(arguments[0]) or options:
        raise InputError(
            "check_gradients: a function needs its gradient function and a point: (f, df, x)"
        )
    gradient, x = arguments
    point = np.array(x, dtype=np.float64)
    analytic = np.asarray(gradient(point.copy()), dtype=np.float64)
    if analytic.shape != point.shape:
        raise InputError(
            f"check_gradients: the gradient has shape {analytic.shape}, the point {point.shape}"
        )
    return {"x": (analytic, numeric(f, point))}


def _operator_pairs(
    numeric: Numeric, op: Op[Any, Any], arrays: Sequence[Any], params: Mapping[str, Any]
) -> Pairs:
    if op.derivative is None:
        raise InputError(f"check_gradients: operator {op.name} has no derivative")
    full = op.full_params(params)
    inputs = tuple(np.array(a, None if _whole(a) else np.float64) for a in arrays)
    sample = Sample(op, fitting(op, inputs, full), full, inputs, np.dtype("float64"))
    named = saved_values(sample)
    shape = sample.result_specs()[0][0]
    weights = generator(op.name, "weights").normal(size=shape)
    derived = {k: v for k, v in full.items() if k in op.derivative.params}
    saved = [named[name] for name in op.saves]
    analytic = op.derivative.evaluate(weights, *saved, **derived)
    pairs = {}
    for name, gradient in zip(op.wrt, analytic, strict=True):
        at = op.inputs.index(name)
        total = partial(_weighted, op, full, inputs, at, weights)
        pairs[name] = (gradient, numeric(total, inputs[at]))
    return pairs


def _whole(array: Any) -> bool:
    return np.asarray(array).dtype.kind in "iub"


def _weighted(
    op: Op[Any, Any],
    params: Mapping[str, Any],
    inputs: Sequence[Array],
    at: int,
    weights: Array,
    x: Array,
) -> float:
    """The operator's first output at ``inputs`` with one of them replaced, as one number."""
    outputs = op.evaluate(*inputs[:at], x, *inputs[at + 1 :], **params)
    return float((weights * outputs[0]).sum())


# --- Programs ----------------------------------------------------------------------------------


def _program_pairs(
    numeric: Numeric,
    program: Program,
    state: State,
    *,
    inputs: Mapping[str, Any],
    backend: str | Backend = "numpy",
    limit: int = 20,
) -> Pairs:
    if program.dtype != "float64" or "loss" not in program.outputs:
        raise ProgramError(
            "check_gradients: the program must be float64 and name its loss: "
            "Builder(rows, 'float64'), builder.program(loss=slot)"
        )
    chosen = get_backend(backend)
    before = state.snapshot()
    try:
        step = _LossStep(chosen, program, state, inputs)
        step.loss()
        gradients = {name: state.get(f"{name}.gradient") for name in state.names("parameters")}
        return {
            name: _parameter_pair(numeric, step, name, gradients[name], limit) for name in gradients
        }
    finally:
        state.restore(before)


class _LossStep:
    """The compute phase of a Program, with its loss added to the State's ``loss_sum``."""

    def __init__(
        self, backend: Backend, program: Program, state: State, inputs: Mapping[str, Any]
    ) -> None:
        self.state = state
        self.executable = Interpreter(backend, _reading_loss(program), state)
        self.executable.feed(**{name: backend.asarray(a) for name, a in inputs.items()})

    def loss(self) -> float:
        """The loss at the State's parameters; leaves the gradients in the State."""
        self.state.set("loss_sum", 0.0)
        self.executable.run(1)
        return float(self.state.number("loss_sum"))

    def loss_with(self, name: str, places: Array, values: Array) -> float:
        """The loss with some elements of a parameter replaced."""
        original = self.state.get(name)
        changed = original.copy()
        changed.flat[places] = values
        self.state.set(name, changed)
        loss = self.loss()
        self.state.set(name, original)
        return loss


def _reading_loss(program: Program) -> Program:
    slots = list(program.slots)
    number = next((i for i, s in enumerate(slots) if s.name == "loss_sum"), len(slots))
    if number == len(slots):
        entry = next(e for e in program.layout.entries if e.name == "loss_sum")
        slots.append(Slot(entry.name, entry.shape, entry.dtype, entry.buffer, entry.offset))
    read = Instruction("accumulate", (number, program.outputs["loss"]), (), {"weight": 1.0})
    compute = [i for i in program.instructions if i.phase == "compute"]
    return replace(program, slots=tuple(slots), instructions=(*compute, read), guard=None)


def _parameter_pair(
    numeric: Numeric, step: _LossStep, name: str, gradient: Array, limit: int
) -> tuple[Array, Array]:
    count = min(limit, gradient.size)
    places = np.sort(generator(name).choice(gradient.size, count, replace=False))
    values = step.state.get(name).flat[places]
    return gradient.flat[places], numeric(partial(step.loss_with, name, places), values)


# --- the catalogue's own proof -----------------------------------------------------------------

KINK_DISTANCE = 1e-2


def gradient_cases(op: Op[Any, Any]) -> Iterator[tuple[str, Callable[[], None]]]:
    """The proof of ``op``'s declared derivative, for all parameters and signature alternatives."""
    for params in parameter_sets(op, np.dtype("float64")):
        for signature in op.signatures(params):
            dims = size_plans(signature, params)[0]
            small = {k: v if k in params else _small(v) for k, v in dims.items()}
            inputs = [_smooth(op, a, small, at) for at, a in enumerate(signature.inputs)]
            description = ",".join(str(a) for a in signature.inputs)
            yield f"{description} {params}", partial(_prove, op, inputs, params)


def _prove(op: Op[Any, Any], inputs: Sequence[Array], params: Mapping[str, Any]) -> None:
    check_gradients(op, *inputs, **params).check()


def _small(size: Any) -> Any:
    return (3, 4) if isinstance(size, tuple) else min(size, 4)


def _smooth(op: Op[Any, Any], argument: Any, dims: Mapping[str, Any], at: int) -> Array:
    """Moderate values inside the interval, away from kinks."""
    rng = generator(op.name, at)
    values = draw(rng, argument, dict(dims))
    if argument.kind != "float" or is_distribution(argument):
        return values
    bounds = argument.interval.bounds(dims) if argument.interval else (-2.0, 2.0)
    low, high = max(bounds[0], -2.0), min(bounds[1], 2.0)
    values = low + (high - low) * rng.uniform(0.05, 0.95, values.shape)
    for kink in op.kinks:
        near = np.abs(values - kink) < KINK_DISTANCE
        values = np.where(near, kink + KINK_DISTANCE, values)
    return np.asarray(values)
