"""Launches: arguments, chunks of blocks, the search for races, statistics."""

from __future__ import annotations

import itertools
import operator
from collections import Counter, OrderedDict
from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from nnkernels.testing.ptx import races, traffic
from nnkernels.testing.ptx.analysis import Analysis, Block, analyse
from nnkernels.testing.ptx.dtypes import DTYPES, Array, is_float
from nnkernels.testing.ptx.faults import Fault, Kind
from nnkernels.testing.ptx.lanes import WARP, Access, Lanes, Triple, short
from nnkernels.testing.ptx.memory import Memory
from nnkernels.testing.ptx.parsing import Code, Kernel, Parameter
from nnkernels.testing.ptx.registry import ELEMENTWISE
from nnkernels.testing.ptx.scheduling import BUDGET, Scheduler
from nnkernels.testing.ptx.statistics import Statistics
from nnkernels.testing.ptx.steps import Steps

CHUNK = 8192
"""About how many lanes run together: enough to hide NumPy's overhead, few enough for caches."""

MAX_THREADS = 1024
MAX_GRID = (2**31 - 1, 65535, 65535)
MAX_SHARED = 227 * 1024
KEPT_BYTES = 256 << 20
"""Registers of prepared kernels that are kept for the next launch."""


def run(
    kernel: Kernel,
    memory: Memory,
    grid: Sequence[int] | int,
    block: Sequence[int] | int,
    arguments: Sequence[Any],
    *,
    shared_bytes: int = 0,
    order: int | None = None,
    noise: np.random.Generator | None = None,
    statistics: Statistics | None = None,
    budget: int = BUDGET,
) -> Statistics:
    """Run ``kernel`` on ``memory`` and return what it did.

    ``grid`` and ``block`` are extents (x[, y[, z]]); ``arguments`` are numbers by the types of
    the parameters, pointers as integers from ``memory``. ``shared_bytes`` is the size of dynamic
    shared memory. ``order`` is the seed of the order of the blocks (None: ascending). ``noise``
    moves the results of approximate instructions by up to 2 units in the last place. ``budget``
    bounds the instructions that a chunk of blocks executes. Traffic (sectors, bank conflicts) is
    counted only into ``statistics`` that the caller passes; they are added to and returned.

    Raises :class:`Fault` at the first thing that a kernel may not do.
    """
    seen = statistics if statistics is not None else Statistics()
    with np.errstate(all="ignore"):
        try:
            launch = Launch(kernel, memory, _triple(grid), _triple(block), shared_bytes)
            launch.prepare(arguments, noise)
            seen.add(launch.run(order, budget, statistics))
        except Fault as fault:
            if fault.kernel:
                raise
            raise Fault(fault.kind, fault.message, kernel=kernel.name) from fault
    return seen


def _triple(extents: Sequence[int] | int) -> Triple:
    values = [extents] if isinstance(extents, (int, np.integer)) else list(extents)
    if not 1 <= len(values) <= 3:
        raise Fault(Kind.LAUNCH, f"{values} is not one to three extents")
    x, y, z = (int(v) for v in (*values, 1, 1)[:3])
    return x, y, z


# --- arguments ---------------------------------------------------------------------------------


def _packed(parameter: Parameter, value: Any) -> bytes:
    """The bytes of one argument."""
    dtype = DTYPES[parameter.type]
    if parameter.size != dtype.itemsize:
        data = bytes(value)
        if len(data) != parameter.size:
            raise Fault(
                Kind.ARGUMENTS, f"{parameter.name} takes {parameter.size} bytes, not {len(data)}"
            )
        return data
    if is_float(parameter.type):
        if not isinstance(value, (int, float, np.number)):
            raise _wrong_type(parameter, value)
        return np.array([value]).astype(dtype).tobytes()
    try:
        number = operator.index(value)
    except TypeError as error:
        raise _wrong_type(parameter, value) from error
    bits = 8 * dtype.itemsize
    if not -(1 << (bits - 1)) <= number < 1 << bits:
        raise Fault(Kind.ARGUMENTS, f"{parameter.name}: {number} does not fit {parameter.type}")
    return (number & ((1 << bits) - 1)).to_bytes(dtype.itemsize, "little")


def _wrong_type(parameter: Parameter, value: Any) -> Fault:
    return Fault(
        Kind.ARGUMENTS,
        f"{parameter.name} is {parameter.type}, not {type(value).__name__} ({value!r})",
    )


# --- prepared kernels --------------------------------------------------------------------------


_analyses: WeakKeyDictionary[Kernel, Analysis] = WeakKeyDictionary()


def _analysis(kernel: Kernel) -> Analysis:
    if kernel not in _analyses:
        _analyses[kernel] = analyse(kernel, frozenset(ELEMENTWISE))
    return _analyses[kernel]


class Prepared:
    """A kernel made ready for some number of threads."""

    def __init__(self, kernel: Kernel, capacity: int, block: Triple) -> None:
        self.lanes = Lanes(kernel, _analysis(kernel), capacity, block)
        self.steps = Steps(self.lanes)
        self.scheduler = Scheduler(self.lanes, self.steps)
        self.profiles = [_profile(kernel.code, block) for block in self.scheduler.blocks]
        self.nbytes = 16 * len(kernel.code.registers) * self.lanes.size


def _profile(code: Code, block: Block) -> dict[str, int]:
    """What a warp that executes a block adds to the statistics."""
    instructions = code.instructions[block.start : block.stop + (block.end is not None)]
    counts = Counter(name for i in instructions if (name := _counter(i.opcode, i.modifiers)))
    return {"warp_instructions": len(instructions), **counts}


def _counter(opcode: str, modifiers: tuple[str, ...]) -> str:
    """Under which name a kind of instruction is counted."""
    if opcode == "shfl":
        return "shuffles"
    if opcode in ("atom", "red"):
        return "atomics"
    moves = opcode in ("ld", "st", "mov", "selp")
    return "f64_instructions" if "f64" in modifiers and not moves else ""


_prepared: OrderedDict[tuple[Kernel, int, Triple], Prepared] = OrderedDict()


def _prepare(kernel: Kernel, capacity: int, block: Triple) -> Prepared:
    key = kernel, capacity, block
    if key not in _prepared:
        _prepared[key] = Prepared(kernel, capacity, block)
        total = sum(p.nbytes for p in _prepared.values())
        while total > KEPT_BYTES and len(_prepared) > 1:
            total -= _prepared.popitem(last=False)[1].nbytes
    _prepared.move_to_end(key)
    return _prepared[key]


# --- launches ----------------------------------------------------------------------------------


class Launch:
    """One launch of a kernel."""

    def __init__(
        self, kernel: Kernel, memory: Memory, grid: Triple, block: Triple, shared_bytes: int
    ) -> None:
        self.kernel, self.memory = kernel, memory
        self.grid, self.block, self.shared_bytes = grid, block, shared_bytes
        self._check_extents()
        self.count = int(np.prod(grid, dtype=np.int64))
        width = -(-int(np.prod(block)) // WARP) * WARP
        most = max(1, CHUNK // width)
        capacity = most if self.count >= most else 1 << (self.count - 1).bit_length()
        self.prepared = _prepare(kernel, capacity, block)
        self.lanes, self.scheduler = self.prepared.lanes, self.prepared.scheduler

    def _check_extents(self) -> None:
        threads = int(np.prod(self.block))
        limit = min(self.kernel.maxntid, MAX_THREADS)
        if min(*self.grid, *self.block) < 1 or threads > limit:
            raise self._fault(
                Kind.LAUNCH,
                f"a grid of {self.grid} blocks of {self.block} threads; a block has 1 to {limit}",
            )
        if any(n > most for n, most in zip(self.grid, MAX_GRID, strict=True)):
            raise self._fault(Kind.LAUNCH, f"a grid of {self.grid} blocks exceeds {MAX_GRID}")
        shared = self.kernel.shared_size + self.shared_bytes
        if shared > MAX_SHARED or self.shared_bytes < 0:
            raise self._fault(Kind.LAUNCH, f"{shared} bytes of shared memory exceed {MAX_SHARED}")

    def _fault(self, kind: Kind, message: str) -> Fault:
        return Fault(kind, message, kernel=self.kernel.name)

    def prepare(self, arguments: Sequence[Any], noise: np.random.Generator | None) -> None:
        """Set parameters, variables and everything that depends on the launch only."""
        parameters = self.kernel.params
        if len(arguments) != len(parameters):
            raise self._fault(
                Kind.ARGUMENTS, f"takes {len(parameters)} arguments, not {len(arguments)}"
            )
        lanes = self.lanes
        lanes.start_launch(self.memory, self.grid, self.shared_bytes)
        lanes.approximation.generator = noise
        packed = bytearray(lanes.parameters.size)
        for parameter, value in zip(parameters, arguments, strict=True):
            start = parameter.offset
            packed[start : start + parameter.size] = _packed(parameter, value)
        lanes.parameters[:] = np.frombuffer(packed, np.uint8)
        self._place_variables()
        for step in self.prepared.steps.prologue:
            step()

    def _place_variables(self) -> None:
        module = self.kernel.module
        for name, variable in module.variables.items():
            if variable.space not in ("global", "const"):
                continue
            key = module, name
            if key not in self.memory.symbols:
                address = self.memory.allocate(variable.size)
                self.memory.write(address, variable.initial or bytes(variable.size))
                self.memory.symbols[key] = address
            self.lanes.symbols[name][0] = self.memory.symbols[key]

    def run(self, order: int | None, budget: int, counted: Statistics | None) -> Statistics:
        """Run all blocks and search for races."""
        try:
            return self._run(order, budget, counted)
        finally:
            self.lanes.end_launch()

    def _run(self, order: int | None, budget: int, counted: Statistics | None) -> Statistics:
        seen = Statistics(counted is not None and counted.detailed, launches=1)
        self.numbers = np.arange(self.count)
        if order is not None:
            np.random.default_rng(order).shuffle(self.numbers)
        executed = np.zeros(len(self.scheduler.blocks), np.int64)
        for first in range(0, self.count, self.lanes.capacity):
            chunk = self.numbers[first : first + self.lanes.capacity]
            start = len(self.lanes.global_log)
            self.lanes.begin(chunk.size, first)
            self.lanes.place_blocks(chunk, self.grid)
            self.scheduler.run(budget, lambda: self._shared_epoch(counted, seen))
            self._shared_epoch(counted, seen)
            if counted is not None:
                self._count_global(self.lanes.global_log[start:], seen)
            executed += self.scheduler.executed
            seen.barriers += self.scheduler.passed
        self._search(self.lanes.global_log, self.memory.bases, Kind.GLOBAL_RACE)
        self._count_instructions(executed, seen)
        return seen

    # --- races -----------------------------------------------------------------------------

    def _shared_epoch(self, counted: Statistics | None, seen: Statistics) -> None:
        """Search and count the accesses of shared memory so far, and forget them."""
        log = self.lanes.shared_log
        if log:
            self._search(log, None, Kind.SHARED_RACE)
            if counted is not None:
                for accesses in _grouped(log, lambda a: a.size):
                    seen.shared += traffic.of_shared(accesses)
            self.lanes.shared_log = []

    def _search(self, log: list[Access], extents: Array | None, kind: Kind) -> None:
        synchronisations = self.lanes.synchronisations if kind is Kind.GLOBAL_RACE else []
        race = races.find(log, synchronisations, self.lanes.width, extents)
        if race is not None:
            raise self._race(race, kind)

    def _race(self, race: races.Race, kind: Kind) -> Fault:
        instructions = self.kernel.code.instructions
        first, second = instructions[race.first.pc], instructions[race.second.pc]
        where = (
            self.memory.describe(race.address, 1)
            if kind is Kind.GLOBAL_RACE
            else (f"byte {race.address % max(self.lanes.shared.stride, 1)} of shared memory")
        )
        text = (
            f"{self._thread(race.second_lane)} at pc {race.second.pc} `{second.text}` and "
            f"{self._thread(race.first_lane)} at pc {race.first.pc} `{first.text}` touch "
            f"{where} with nothing to order them"
        )
        chosen = Kind.READ_ONLY if race.read_only else kind
        return Fault(
            chosen, text, kernel=self.kernel.name, pc=race.second.pc, instruction=second.text
        )

    def _thread(self, lane: int) -> str:
        block = int(self.numbers[lane // self.lanes.width])
        thread = lane % self.lanes.width
        return f"block {_coordinates(block, self.grid)} thread {_coordinates(thread, self.block)}"

    # --- statistics ------------------------------------------------------------------------

    def _count_global(self, log: list[Access], seen: Statistics) -> None:
        atomics = {"atom", "red"}
        instructions = self.kernel.code.instructions
        plain = [a for a in log if instructions[a.pc].opcode not in atomics]
        for accesses in _grouped(plain, lambda a: (a.pc, a.size, a.writes)):
            found = traffic.of_global(accesses)
            seen.count_global(self.kernel.name, accesses[0].pc, not accesses[0].writes, found)

    def _count_instructions(self, executed: Array, seen: Statistics) -> None:
        for block, profile, warps in zip(
            self.scheduler.blocks, self.prepared.profiles, executed.tolist(), strict=True
        ):
            for name, count in profile.items() if warps else ():
                setattr(seen, name, getattr(seen, name) + count * warps)
            if seen.detailed and warps:
                pcs = range(block.start, block.stop + (block.end is not None))
                seen.executed.update({(self.kernel.name, pc): warps for pc in pcs})


def _coordinates(number: int, extents: Triple) -> str:
    x, y, _ = extents
    return short((number % x, number // x % y, number // (x * y)))


def _grouped(log: list[Access], key: Any) -> list[list[Access]]:
    return [list(group) for _, group in itertools.groupby(sorted(log, key=key), key)]
