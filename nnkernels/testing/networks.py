"""Random small networks: whole training steps on a backend against its interpreter and the oracle.

They are built from what the catalogue holds: its activations, normalisations, losses and
optimizers are found by their signatures.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any

import numpy as np

from nnkernels import signature as sig
from nnkernels.backend import Backend
from nnkernels.program import Builder, Interpreter, Program, State, differentiate
from nnkernels.program.format import ARENA
from nnkernels.spec import OPERATORS, REQUIRED, Array, Op, get_op
from nnkernels.testing.noise import DRAWS, FRACTION, Perturbed
from nnkernels.testing.precision import oracle_backend, precision_of
from nnkernels.testing.samples import activations, generator
from nnkernels.testing.subject import CaseFailed, require

NETWORKS = "random networks"
COUNT, QUICK_COUNT = 20, 4
STEPS = 3
ROWS, BATCHES = 8, 2
TOLERANCES: Mapping[str, float] = {"float32": 2e-5, "float64": 1e-7}
"""Accepted difference, relative to the largest element of each array (at least ``FLOOR``).

A whole float32 trajectory may leave the float64 one for good (a unit at its kink, an optimizer
that divides noise by noise), so float32 is compared after one step, on loss and gradients. Of
these, some are zero, such as that of a bias before batch normalisation: what is computed is what
rounding left of the terms, and has no size of its own. It is compared with :func:`noise`.
"""

ROUNDED_TOLERANCES: Mapping[str, float] = {"bf16": 2**-8}
"""The same for float32 on a backend whose precision rounds what it multiplies: next to a tie the
least difference decides which of two values it becomes, and so far apart these are."""

FLOOR = 1e-2


@dataclass(frozen=True)
class Network:
    """A training step with its data and first parameters.

    Attributes:
        seed: what it was made from.
        description: layers, loss and optimizer.
        program: the step.
        data: input arrays by name, ``BATCHES`` batches of them.
        parameters: initial values by name.
    """

    seed: int
    description: str
    program: Program
    data: Mapping[str, Array]
    parameters: Mapping[str, Array]


# --- what the catalogue offers -------------------------------------------------------------------


def _required(op: Op[Any, Any]) -> bool:
    return REQUIRED in op.params.values()


def normalisations() -> list[str]:
    """Differentiable operators of (x, gamma, beta)."""
    return [
        op.name
        for op in OPERATORS.values()
        if op.inputs == ("x", "gamma", "beta") and op.derivative is not None
    ]


def losses() -> list[tuple[str, sig.Signature]]:
    """Differentiable operators of a prediction and a target giving one number, by alternative."""
    return [
        (op.name, signature)
        for op in OPERATORS.values()
        if op.derivative is not None and op.inputs[1:] == ("target",)
        for signature in op.signatures(op.params)
        if signature.outputs[0].dims == () and len(signature.inputs[0].dims) == 2
    ]


def optimizers() -> list[str]:
    """Operators that update ``param`` by ``grad``."""
    return [
        op.name
        for op in OPERATORS.values()
        if op.updates[:1] == ("param",) and op.inputs[:2] == ("param", "grad") and not _required(op)
    ]


# --- building ------------------------------------------------------------------------------------


def random_network(seed: int, dtype: str) -> Network:
    """The ``seed``-th random network: two to four layers of up to 12 units."""
    rng = generator("network", seed)
    builder = Builder(ROWS, dtype, schedule=STEPS)
    widths = [int(w) for w in rng.integers(2, 13, rng.integers(3, 6))]
    name, signature = _pick(rng, losses())
    x = builder.input("x", (ROWS, widths[0]))
    notes, y = [], x
    for layer, width in enumerate(widths[1:], 1):
        with builder.label(f"layer{layer}"):
            y, note = _layer(rng, builder, layer, y, width, last=layer == len(widths) - 1)
        notes.append(note)
    target_shape = (ROWS, widths[-1])[: len(signature.inputs[1].dims)]
    prediction, note = _into_domain(builder, signature.inputs[0], y)
    classes = signature.inputs[1].kind == "int"
    target = builder.input(
        "target",
        target_shape,
        "int64" if classes else dtype,
        interval=(0, widths[-1]) if classes else None,
    )
    result = builder.call(name, prediction, target)
    loss = result[0] if isinstance(result, tuple) else result
    differentiate(builder, loss)
    optimizer = _pick(rng, optimizers())
    _update(builder, optimizer, loss)
    program = builder.program(guard=loss, loss=loss)
    description = f"#{seed} {widths} {' '.join(notes)} {note}{name} {optimizer}"
    data = _data(rng, program, signature, widths[-1])
    return Network(seed, description, program, data, _initial(rng, program))


def _pick(rng: np.random.Generator, choices: Any) -> Any:
    return choices[int(rng.integers(len(choices)))]


def _layer(
    rng: np.random.Generator, builder: Builder, layer: int, x: int, width: int, *, last: bool
) -> tuple[int, str]:
    inputs = builder.slots[x].shape[1]
    w = builder.parameter(f"layer{layer}.w", (inputs, width))
    b = builder.parameter(f"layer{layer}.b", (width,))
    y = builder.call("linear", x, w, b)
    if last:
        return y, "linear"
    notes = []
    if normalisations() and rng.random() < 0.4:
        norm = _pick(rng, normalisations())
        gamma = builder.parameter(f"layer{layer}.gamma", (width,))
        beta = builder.parameter(f"layer{layer}.beta", (width,))
        y = _first(builder.call(norm, y, gamma, beta))
        notes.append(norm)
    activation = _pick(rng, activations(by_rows=True))
    y = builder.call(activation, y)
    notes.append(activation)
    if inputs == width and rng.random() < 0.8:
        y = builder.call("add", y, x)
        notes.append("skip")
    if "dropout" in OPERATORS and rng.random() < 0.4:
        seed, step = builder.entry("seed"), builder.entry("step")
        y = _first(builder.call("dropout", y, seed, step, p=0.25, layer=layer))
        notes.append("dropout")
    return y, "+".join(notes)


def _first(result: Any) -> int:
    slot: int = result[0] if isinstance(result, tuple) else result
    return slot


def _into_domain(builder: Builder, argument: sig.Argument, y: int) -> tuple[int, str]:
    """The last layer's output brought into the loss's domain: probabilities, or their logs."""
    if argument.interval is None:
        return y, ""
    high = argument.interval.bounds({})[1]
    name = {1.0: "softmax", 0.0: "log_softmax"}.get(high)
    return (y, "") if name is None else (builder.call(name, y), f"{name} ")


def _update(builder: Builder, optimizer: str, loss: int) -> None:
    places = {"lr": "learning_rate", "step": "step"}
    op = get_op(optimizer)
    buffers = {"param": "parameters", "grad": "gradients"}
    with builder.update_phase():
        counters = ("step", "epoch_step", "learning_rate")
        builder.call("tick", *(builder.entry(c) for c in counters), builder.flat("schedule"))
        slots = [
            builder.entry(places[n]) if n in places else builder.flat(buffers.get(n, n))
            for n in op.inputs
        ]
        builder.call(optimizer, *slots)
        builder.call("accumulate", builder.entry("loss_sum"), loss, weight=1.0)


def _data(
    rng: np.random.Generator, program: Program, signature: sig.Signature, classes: int
) -> dict[str, Array]:
    shapes = {name: (BATCHES * ROWS, *slot.shape[1:]) for name, slot in program.inputs.items()}
    data: dict[str, Array] = {"x": rng.normal(size=shapes["x"]).astype(program.dtype)}
    if signature.inputs[1].kind == "int":
        data["target"] = rng.integers(0, classes, shapes["target"])
    elif signature.inputs[1].interval is not None:
        rows = rng.random(shapes["target"]) + 0.1
        data["target"] = (rows / rows.sum(1, keepdims=True)).astype(program.dtype)
    else:
        data["target"] = rng.normal(size=shapes["target"]).astype(program.dtype)
    return data


def _initial(rng: np.random.Generator, program: Program) -> dict[str, Array]:
    return {
        e.name: rng.normal(size=e.shape) * 0.7
        for e in program.layout.entries
        if e.buffer == "parameters"
    }


# --- running -------------------------------------------------------------------------------------

Bind = Callable[[Backend, Program, State], Any]


def run_network(
    network: Network, backend: Backend, steps: int, bind: Bind | None = None
) -> tuple[dict[str, Array], Any]:
    """State buffers after ``steps`` steps, one to an epoch's row, and the executable.

    ``bind`` makes the executable; by default the backend's own.
    """
    state, executable = _ready(network, backend, bind)
    for step in range(steps):
        _take(step, state, executable)
    return state.snapshot(), executable


def _ready(network: Network, backend: Backend, bind: Bind | None = None) -> tuple[State, Any]:
    """The State before the first step, and an executable that was fed."""
    state = State(network.program.layout, backend.device)
    for name, values in network.parameters.items():
        state.set(name, values)
    state.set("seed", 7)
    state.buffers["schedule"][...] = backend.asarray(np.linspace(0.05, 0.02, STEPS))
    executable = (
        bind(backend, network.program, state) if bind else backend.bind(network.program, state)
    )
    executable.feed(**{name: backend.asarray(a) for name, a in network.data.items()})
    return state, executable


def _take(step: int, state: State, executable: Any) -> None:
    """Take one step, on its batch."""
    state.set("row", ROWS * (step % BATCHES))
    require(executable.run(1) == 1, f"step {step} did not complete")
    state.device.synchronize()


def network_cases(
    backend: Backend, *, quick: bool
) -> Iterator[tuple[str, tuple[str, Callable[[], None]]]]:
    """Cases by dtype: the executor against the interpreter, and against the oracle."""
    for seed in range(QUICK_COUNT if quick else COUNT):
        for dtype in TOLERANCES:
            network = random_network(seed, dtype)
            for what, check in (("interpreter", _against_interpreter), ("oracle", _against_oracle)):
                description = f"{what}, {network.description}"
                yield dtype, (description, partial(check, network, backend))


def _against_interpreter(network: Network, backend: Backend) -> None:
    got, executable = run_network(network, backend, STEPS)
    want, interpreter = run_network(network, backend, STEPS, Interpreter)
    ran = getattr(executable, "program", None)
    if ran is None or ran.instructions != interpreter.program.instructions:
        _require_near(network, got, want)
    elif getattr(executable, "same_bits", True):
        for name, values in want.items():
            same = got[name].tobytes() == values.tobytes()
            require(same, f"buffer {name!r} differs in bits from the interpreter's")
    elif network.program.dtype == "float64":
        _require_near(network, got, want)
    else:
        _step_by_step(network, backend)


def _step_by_step(network: Network, backend: Backend) -> None:
    """The first step's loss and gradients; every step's update, from the executor's gradients.

    Gradients that are noise differ, and Adam divides them by their size: what it makes of them can
    only be compared where both were given the same.
    """
    state, executable = _ready(network, backend)
    first, _ = run_network(network, backend, 1, Interpreter)
    again, updates = _ready(
        replace(network, program=_updates(network.program)), backend, Interpreter
    )
    for step in range(STEPS):
        before = state.snapshot()
        _take(step, state, executable)
        after = state.snapshot()
        if step == 0:
            both = {name: 2 * value for name, value in noise(network.seed).items()}
            _require_near(network, _named(network, after), _named(network, first), noise=both)
        again.restore({**before, "gradients": after["gradients"]})
        again.set("loss_sum", state.get("loss_sum"))
        _take(step, again, updates)
        _require_near(network, after, again.snapshot())


def _updates(program: Program) -> Program:
    """The update phase by itself, without what reads a step's results: the sum of the losses."""
    kept = [
        instruction
        for instruction in program.instructions
        if instruction.phase == "update"
        and all(program.slots[number].buffer != ARENA for number in instruction.inputs)
    ]
    return replace(program, instructions=tuple(kept), outputs={}, guard=None)


def _against_oracle(network: Network, backend: Backend) -> None:
    steps = STEPS if network.program.dtype == "float64" else 1
    got, _ = run_network(network, backend, steps)
    exact = _exact(network)
    precision = precision_of(backend, network.program.dtype)
    want, _ = run_network(exact, oracle_backend(precision), steps)
    allowed = ROUNDED_TOLERANCES.get(precision)
    if network.program.dtype == "float64":
        _require_near(network, got, want, allowed)
    else:
        got, want = _named(network, got), _named(exact, want)
        _require_near(network, got, want, allowed, noise(network.seed))


def _exact(network: Network) -> Network:
    """The same network in float64, on the values that ``network`` starts from."""
    wide = random_network(network.seed, "float64")
    dtype = network.program.dtype
    parameters = {n: a.astype(dtype) for n, a in network.parameters.items()}
    return Network(network.seed, wide.description, wide.program, _widened(network.data), parameters)


def _widened(data: Mapping[str, Array]) -> dict[str, Array]:
    return {n: a.astype(np.float64) if a.dtype.kind == "f" else a for n, a in data.items()}


def _named(network: Network, buffers: Mapping[str, Array]) -> dict[str, Array]:
    """Loss and gradients by name: float32 buffers have other offsets than float64 ones."""
    named = {}
    for entry in network.program.layout.entries:
        if entry.buffer == "gradients" or entry.name == "loss_sum":
            flat = buffers[entry.buffer]
            first = entry.offset // flat.dtype.itemsize
            named[entry.name] = flat[first : first + int(np.prod(entry.shape))]
    return named


@cache
def noise(seed: int) -> Mapping[str, float]:
    """What rounding alone may move the elements of a float32 network's loss and gradients by.

    See :mod:`nnkernels.testing.noise`; by name.
    """
    network = _exact(random_network(seed, "float32"))
    reference = oracle_backend("fp32")

    def first_step(bind: Bind) -> dict[str, Array]:
        return _named(network, run_network(network, reference, 1, bind)[0])

    exact, largest = first_step(Interpreter), dict[str, float]()
    for number in range(DRAWS):
        draw = generator("noise", seed, number)
        for name, moved in first_step(partial(Perturbed, "float32", draw)).items():
            change = float(np.abs(moved - exact[name]).max(initial=0)) / FRACTION
            largest[name] = max(largest.get(name, 0.0), change)
    return largest


def _require_near(
    network: Network,
    got: Mapping[str, Array],
    want: Mapping[str, Array],
    tolerance: float | None = None,
    noise: Mapping[str, float] | None = None,
) -> None:
    """Refuse what differs by more than is accepted; what is less than its noise, by that."""
    tolerance = tolerance or TOLERANCES[network.program.dtype]
    for name, values in want.items():
        size, least = float(np.abs(values).max(initial=0)), (noise or {}).get(name, 0.0)
        allowed = tolerance * max(size, FLOOR)
        if size < least:
            allowed = max(allowed, least)
        error = float(np.abs(got[name].astype(np.float64) - values).max(initial=0))
        if not error <= allowed:
            raise CaseFailed(
                f"{name!r} differs by {error:.3g}, allowed {allowed:.3g}", error, allowed
            )
