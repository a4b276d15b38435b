"""Where the time of a training step goes: every instruction's time, rate and traffic.

Data are random and the learning rate is 0, so that the weights stay what they are and no step
differs from another. Everything runs on one thread.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import msgspec
import numpy as np

from nnkernels import plugins
from nnkernels.backend import Backend
from nnkernels.backends._blas import blas_threads
from nnkernels.bench.harness.networks import NETWORKS, Network
from nnkernels.errors import BackendUnavailableError, InputError, unknown
from nnkernels.nn import MLP, Model, Trainer
from nnkernels.nn.lowering import Step, train_program
from nnkernels.nn.optimizers import as_optimizer
from nnkernels.program import Program, State
from nnkernels.program.builder import solved_dims
from nnkernels.program.format import Instruction
from nnkernels.spec import Array, get_op

FORMAT = 1
ROUNDS = 5
ROUND_S = 0.3
"""Seconds that a round is meant to take."""

MAX_STEPS = 2000
"""Steps of a round, unless more are asked for."""

DATA_BYTES = 32 << 20
"""Features of the random data set that shuffled batches are gathered from."""

MAX_ROWS = 60_000
"""Rows of that data set, unless a batch has more."""

PEAK_SIZE = 192
"""Rows and columns of the product that the peak is measured with: it lies in the second cache."""


class Row(msgspec.Struct, frozen=True):
    """One line of a profile; times are seconds a step.

    Attributes:
        label: the layer or purpose.
        op: the operator.
        part: which part of it, where its parts were measured by themselves.
        seconds: the shortest of all rounds.
        flop: additions and multiplications by the model cost.
        bytes: compulsory traffic: what is read and what is written, each once.
    """

    label: str
    op: str
    part: str
    seconds: float
    flop: float
    bytes: int


class Peak(msgspec.Struct, frozen=True):
    """The fastest product: its rate in flop/s, and what computed it."""

    rate: float
    by: str


class Profile(msgspec.Struct, frozen=True):
    """A profiled training step.

    Attributes:
        format: version of this layout.
        model: what was asked for.
        backend, dtype, batch: of the step.
        execution: whether it was compiled as a whole.
        steps, rounds: how often it ran.
        rows: its instructions, in order.
        seconds: of a step in which no clock is read, the shortest of all rounds.
        clocked: the same with clocks.
        peak: single-thread peak of matrix products.
    """

    format: int
    model: str
    backend: str
    dtype: str
    batch: int
    execution: str
    steps: int
    rounds: int
    rows: list[Row]
    seconds: float
    clocked: float
    peak: Peak

    @property
    def total(self) -> float:
        """Seconds of all instructions."""
        return sum(row.seconds for row in self.rows)

    @property
    def flop(self) -> float:
        """Model flops of the step."""
        return sum(row.flop for row in self.rows)


class Subject(NamedTuple):
    """A training step to be profiled.

    Attributes:
        name: what people call it.
        model: the network, with its parameters.
        step: what its step does; its ``gather`` is filled in.
        batch: rows of a step.
        shuffle: whether they are gathered by a shuffled order.
    """

    name: str
    model: Model
    step: Step
    batch: int
    shuffle: bool


def subject_of(name: str, trainer: Trainer, batch: int, *, shuffle: bool) -> Subject:
    """The training step of a Trainer."""
    labels = trainer.model.loss.takes_labels
    step = Step(
        trainer.optimizer,
        trainer.metrics,
        labels,
        clip_value=trainer.clip_value,
        clip_norm=trainer.clip_norm,
    )
    return Subject(name, trainer.model, step, batch, shuffle)


def workload(name: str) -> Subject:
    """The training step of a workload of ``nnkernels bench``: W1 to W4."""
    networks = {network.name: network for network in NETWORKS["default"]}
    if name not in networks:
        raise unknown("workload", name, networks)
    network: Network = networks[name]
    model = MLP(
        list(network.layers),
        activation=network.activation,
        output_activation=network.output_activation,
        loss=network.loss,
    )
    step = Step(as_optimizer(network.optimizer), labels=network.takes_labels)
    return Subject(f"{name} ({network.size})", model, step, network.batch, False)


def single(backend: Backend) -> Backend:
    """``backend`` on one thread.

    Raises:
        InputError: another number was asked for.
    """
    if backend.threads not in (None, 1):
        raise InputError(
            f"profile: {backend.name}: instructions are timed on one thread; drop "
            f"threads={backend.threads}"
        )
    return backend if backend.limit is None else backend.configure(threads=1)


def profile(
    subject: Subject,
    backend: Backend,
    *,
    steps: int | None = None,
    rounds: int = ROUNDS,
    progress: Callable[[int, int, str], None] = lambda done, total, what: None,
) -> Profile:
    """Run and time a training step.

    Args:
        subject: the step.
        backend: what runs it, on one thread: see :func:`single`.
        steps: of a round; by default as many as take about 0.3 s.
        rounds: how many; of every time the shortest counts.
        progress: told how much is done, of how much, and what comes.

    Raises:
        InputError: the model's loss is not finite on random data.
    """
    progress(0, rounds + 2, "compiling")
    bench = _Bench(subject, backend)
    count = steps or bench.calibrated()
    times: list[list[float]] = []
    plain, clocked = [], []
    for number in range(rounds):
        progress(number + 1, rounds + 2, "timing")
        plain.append(bench.run(count))
        seconds, whole = bench.profile(count)
        times.append(seconds)
        clocked.append(whole)
    progress(rounds + 1, rounds + 2, "peak")
    dtype = bench.program.dtype
    return Profile(
        FORMAT,
        subject.name,
        backend.name,
        dtype,
        subject.batch,
        bench.execution,
        count,
        rounds,
        bench.rows([min(found) for found in zip(*times, strict=True)]),
        min(plain),
        min(clocked),
        peak(dtype),
    )


class _Bench:
    """A step bound to a State, with random data."""

    def __init__(self, subject: Subject, backend: Backend) -> None:
        self._backend, self._name = backend, subject.name
        model, rows = subject.model, _data_rows(subject)
        step = replace(subject.step, gather=rows if subject.shuffle else None)
        program = train_program(model, subject.batch, step)
        self._state = State(program.layout, backend.device)
        for name, array in {**model.parameters, **model.statistics}.items():
            self._state.set(name, array)
        self._start = self._state.snapshot()
        self._executable = backend.bind(program, self._state)
        self.program: Program = self._executable.program
        self._parts = _parts(self._executable)
        self._instructions: list[Instruction] = []
        data = _random_data(model, rows, labels=subject.step.labels)
        if subject.shuffle:
            data["order"] = np.random.default_rng(2).permutation(rows)
        self._executable.feed(**{name: backend.asarray(array) for name, array in data.items()})
        self._epoch = rows // subject.batch

    @property
    def execution(self) -> str:
        """How it runs, in words."""
        return "interpreter" if self._parts is None else "compiled epoch"

    def calibrated(self) -> int:
        """Steps of a round, by the time of the second step: the first one warms up."""
        self.run(1)
        return max(1, min(int(ROUND_S / max(self.run(1), 1e-9)), MAX_STEPS))

    def run(self, steps: int) -> float:
        """Seconds a step, without clocks."""
        return self._timed(steps, self._executable.run)[1]

    def profile(self, steps: int) -> tuple[list[float], float]:
        """Seconds a step of every instruction or part, and of all with their clocks."""
        found, whole = self._timed(steps, self._executable.profile)
        self._instructions = [instruction for instruction, _ in found[0]]
        columns = zip(*([seconds for _, seconds in times] for times in found), strict=True)
        return [sum(column) / steps for column in columns], whole

    def _timed(self, steps: int, run: Callable[[int], Any]) -> tuple[list[Any], float]:
        """What ``run`` gave for each epoch of the data, and the seconds of a step."""
        self._state.restore(self._start)
        self._backend.device.synchronize()
        began, found, left = time.perf_counter(), [], steps
        while left:
            self._state.set("row", 0)
            found.append(run(min(left, self._epoch)))
            left -= min(left, self._epoch)
        self._backend.device.synchronize()
        seconds = (time.perf_counter() - began) / steps
        if self._state.number("step") != steps:
            raise InputError(f"profile: the loss of {self._name} is not finite on random data")
        return found, seconds

    def rows(self, seconds: Sequence[float]) -> list[Row]:
        """The lines: one for every instruction, or for each of its named parts."""
        position = {id(i): number for number, i in enumerate(self.program.instructions)}
        parts = self._parts or [("", None, None)] * len(seconds)
        found: dict[tuple[int, str], Row] = {}
        for instruction, spent, (part, flop, nbytes) in zip(
            self._instructions, seconds, parts, strict=True
        ):
            key = position[id(instruction)], part
            row = self._row(instruction, part, flop, nbytes)
            before = found.get(key)
            if before is not None:  # a further part of the same name: an update of each parameter
                more = (0.0, 0) if flop is None else (before.flop, before.bytes)
                row = _plus(row, before.seconds, *more)
            found[key] = _plus(row, spent)
        return [found[key] for key in sorted(found, key=lambda k: k[0])]

    def _row(
        self, instruction: Instruction, part: str, flop: float | None, nbytes: int | None
    ) -> Row:
        if flop is None or nbytes is None:
            flop, nbytes = _cost(self.program, instruction)
        return Row(instruction.label, instruction.op, part, 0.0, flop, nbytes)


def _plus(row: Row, seconds: float, flop: float = 0.0, nbytes: int = 0) -> Row:
    """``row`` with more time and work."""
    return msgspec.structs.replace(
        row, seconds=row.seconds + seconds, flop=row.flop + flop, bytes=row.bytes + nbytes
    )


def _parts(executable: Any) -> list[tuple[str, float | None, int | None]] | None:
    """Name and work of every time that ``profile`` gives; None where these are instructions'."""
    plan = getattr(executable, "plan", None)
    if plan is None:
        return None
    from nnkernels.backends.numba.notes import parts

    return [(part.name, part.flop, part.nbytes) for part in parts(plan)]


def _cost(program: Program, instruction: Instruction) -> tuple[float, int]:
    """Model flops and compulsory bytes."""
    op = get_op(instruction.op)
    inputs = [program.slots[i] for i in instruction.inputs]
    outputs = [program.slots[o] for o in instruction.outputs if o is not None]
    updated = [inputs[op.inputs.index(name)] for name in op.updates]
    written = [*outputs, *updated]
    size = written[0].elements if written else 0
    dims = solved_dims(program, instruction)
    flop = op.flops(dims, size)
    if instruction.op == "linear_backward" and instruction.outputs[0] is None:
        flop -= 2.0 * dims["b"] * dims["n"] * dims["k"]  # the first layer: no gradient of the data
    if instruction.op == "gather_rows":  # of its first input it reads the rows that it writes
        inputs = [*outputs, *inputs[1:]]
    return flop, sum(slot.nbytes for slot in (*inputs, *written))


# --- data ----------------------------------------------------------------------------------------


def _data_rows(subject: Subject) -> int:
    """Rows of the data: so many that shuffled batches do not all come from a cache."""
    width = subject.model.inputs * np.dtype(subject.model.dtype).itemsize
    return max(subject.batch, min(DATA_BYTES // width, MAX_ROWS))


def _random_data(model: Model, rows: int, *, labels: bool) -> dict[str, Array]:
    """Features uniform in [0, 1), and random classes as labels or as rows of 0 and 1."""
    rng = np.random.default_rng(1)
    x = rng.random((rows, model.inputs), np.float32).astype(model.dtype)
    classes = rng.integers(0, max(model.outputs, 2), rows)
    if labels:
        return {"x": x, "y": classes % max(model.outputs, 1)}
    columns = np.arange(model.outputs) if model.outputs > 1 else np.ones(1, np.int64)
    return {"x": x, "y": (classes[:, None] == columns).astype(model.dtype)}


# --- the peak ------------------------------------------------------------------------------------


def peak(dtype: str) -> Peak:
    """The rate of a product in the second cache on one thread: our own, else NumPy's."""
    try:
        compiled = bool(plugins.load("numba").notes)
    except BackendUnavailableError:
        compiled = False
    if compiled:
        from nnkernels.backends.numba.products import tuning

        if tuning.has_tiles():
            seconds = tuning.own_seconds(PEAK_SIZE, PEAK_SIZE, PEAK_SIZE, dtype)
            return Peak(2.0 * PEAK_SIZE**3 / seconds, f"our own product of {_square(dtype)}")
    return Peak(2.0 * PEAK_SIZE**3 / _numpy_seconds(dtype), f"NumPy's product of {_square(dtype)}")


def _square(dtype: str) -> str:
    return f"two {PEAK_SIZE}x{PEAK_SIZE} matrices of {dtype}"


def _numpy_seconds(dtype: str) -> float:
    a = np.ones((PEAK_SIZE, PEAK_SIZE), dtype)
    out = np.empty_like(a)
    best = float("inf")
    with blas_threads(1):
        for _ in range(200):
            began = time.perf_counter()
            np.matmul(a, a, out=out)
            best = min(best, time.perf_counter() - began)
    return best
