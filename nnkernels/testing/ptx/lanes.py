"""The threads that run together: their registers, their memories, and which of them are active.

A :class:`Lanes` holds the threads of some blocks, each block padded to whole warps, as the lanes
of NumPy arrays. Every register is one array; a register that is the same in all threads of a
launch has one element. Which lanes are active is set by :meth:`Lanes.activate`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from nnkernels.testing.ptx.analysis import CARRY, Analysis
from nnkernels.testing.ptx.dtypes import DTYPES, Array, DType, narrowed
from nnkernels.testing.ptx.faults import Fault, Kind
from nnkernels.testing.ptx.memory import ALLOCATED, Memory, Segment, explain_states
from nnkernels.testing.ptx.parsing import (
    Address,
    Immediate,
    Kernel,
    Operand,
    Register,
    Symbol,
    literal,
)
from nnkernels.testing.ptx.registry import Approximation

WARP = 32
SHARED_WINDOW = 0x7E00_0000_0000
LOCAL_WINDOW = 0x7D00_0000_0000
WINDOW = 1 << 40
"""Generic addresses of shared and local memory start at these addresses."""

Triple = tuple[int, int, int]


WEAK, FOR_BLOCK, FOR_DEVICE = 0, 1, 2


class Form(NamedTuple):
    """What a load or store moves: its space (empty: generic), how many values of what type."""

    space: str
    kind: str
    parts: tuple[Operand, ...]
    size: int
    strength: int
    read_only: bool

    @property
    def dtype(self) -> np.dtype[np.generic]:
        """The unsigned type of one value."""
        return np.dtype(f"u{DTYPES[self.kind].itemsize}")


class Access(NamedTuple):
    """One access of one instruction by many threads, for the search for races.

    ``addresses`` and ``lanes`` are parallel; ``lanes`` None means all. ``strength``
    says for whom it is atomic or volatile (WEAK: for nobody). ``time`` is that of the first lane,
    the others follow one by one. ``epochs`` counts the barriers by block,
    ``warp_epochs`` those of warps by lane.
    """

    pc: int
    addresses: Array
    lanes: Array | None
    size: int
    writes: bool
    strength: int
    read_only: bool
    time: int
    first_lane: int
    epochs: Array
    warp_epochs: Array


class Synchronisation(NamedTuple):
    """Atomic accesses that may order others: when each thread last passed a fence (-1: never)."""

    addresses: Array
    lanes: Array
    time: int
    first_lane: int
    epochs: Array
    fence_times: Array
    fence_epochs: Array


class Window:
    """Shared or local memory: one stretch of ``size`` bytes for each block or thread."""

    def __init__(self, size: int, owners: Array) -> None:
        self.size = size
        self.stride = -(-size // 16) * 16
        count = int(owners[-1]) + 1
        self.segment = Segment(0, max(count * self.stride, 16))
        self.starts = (owners * self.stride).astype(np.uint64)

    def reset(self) -> None:
        """Forget what was written."""
        self.segment.state.fill(ALLOCATED)

    def places(self, addresses: Array, lanes: Array | None, size: int) -> Array | None:
        """Offsets in the segment; None if an address leaves its stretch."""
        if np.count_nonzero(addresses > np.uint64(max(self.size - size, 0))) or self.size < size:
            return None
        return addresses + (self.starts if lanes is None else self.starts[lanes])

    def wrong(self, address: int, start: int, size: int, *, reads: bool) -> tuple[Kind, str] | None:
        """What is wrong with an access, if anything is."""
        if address + size > self.size:
            return Kind.OUT_OF_BOUNDS, f"bytes {address} to {address + size} of {self.size}"
        states = self.segment.states_of(start + address, size)
        found = explain_states(states, reads=reads)
        return (found[0], f"bytes {address} to {address + size}") if found else None


class Group:
    """A set of lanes that stand at the same instruction."""

    __slots__ = ("_bits", "_index", "alone", "count", "mask", "warps")

    def __init__(self, mask: Array, alone: bool) -> None:
        self.mask = mask
        self.count = int(np.count_nonzero(mask))
        self.alone = alone
        self._bits: Array | None = None
        self._index: Array | None = None
        self.warps = int(np.count_nonzero(self.bits))

    @property
    def bits(self) -> Array:
        """The active lanes of each warp as the bits of a number."""
        if self._bits is None:
            self._bits = warp_bits(self.mask)
        return self._bits

    @property
    def index(self) -> Array | None:
        """Numbers of the active lanes; None if all are."""
        if self.count == self.mask.size:
            return None
        if self._index is None:
            self._index = np.flatnonzero(self.mask)
        return self._index


def warp_bits(mask: Array) -> Array:
    """One 32-bit number for each warp, bit by lane."""
    return np.packbits(mask, bitorder="little").view(np.uint32)


class Lanes:
    """The threads of up to ``capacity`` blocks, ready to execute one kernel."""

    def __init__(self, kernel: Kernel, analysis: Analysis, capacity: int, block: Triple) -> None:
        self.kernel, self.code, self.analysis = kernel, kernel.code, analysis
        self.capacity, self.block = capacity, block
        self.threads = int(np.prod(block))
        self.width = -(-self.threads // WARP) * WARP
        self.size = capacity * self.width
        number = np.arange(self.size)
        self.block_of = number // self.width
        self.thread_of = number % self.width
        self.existing = self.thread_of < self.threads
        self.lane_of = (number % WARP).astype(np.uint32)
        self.approximation = Approximation()
        self.global_log: list[Access] = []
        self.shared_log: list[Access] = []
        self.synchronisations: list[Synchronisation] = []
        self.memory = Memory()
        self._views: dict[tuple[str, DType], Array] = {}
        self._registers: dict[str, Array] = {}
        self._specials = self._special_registers()
        size = max((p.offset + p.size for p in kernel.params), default=1)
        self.parameters = np.zeros(-(-size // 16) * 16, np.uint8)
        self.symbols = {name: np.zeros(1, np.uint64) for name in kernel.module.variables}
        self.defined = {n: np.zeros(self.size, np.bool_) for n in analysis.doubtful}
        self.local = Window(self.code.local_size, number)
        self.shared = Window(self.code.shared_size, self.block_of)
        self.begin(1, 0)

    def end_launch(self) -> None:
        """Let go of what belongs to the launch."""
        self.memory = Memory()
        self.global_log, self.shared_log, self.synchronisations = [], [], []

    def begin(self, blocks: int, first_block: int) -> None:
        """Start afresh with the first ``blocks`` blocks; ``first_block`` were run before."""
        self.present = self.existing & (self.block_of < blocks)
        self.alive = self.present.copy()
        self.alive_count = blocks * self.threads
        self.blocks = blocks
        self.first_lane = first_block * self.width
        self.epochs = np.zeros(self.capacity, np.int64)
        self.warp_epochs = np.zeros(self.size, np.int64)
        self.fence_times = np.full(self.size, -1, np.int64)
        self.fence_epochs = np.full(self.size, -1, np.int64)
        self.shared.reset()
        if self.local.size:
            self.local.reset()
        for mask in self.defined.values():
            mask.fill(False)
        self.where: Array | None = None

    def start_launch(self, memory: Memory, grid: Triple, shared_bytes: int) -> None:
        """Take the memory and the extents of a launch."""
        self.memory = memory
        self.time = 0
        for axis, count in zip("xyz", grid, strict=True):
            self._specials[f"%nctaid.{axis}"][0] = count
        size = self.code.shared_size + shared_bytes
        self._specials["%dynamic_smem_size"][0] = shared_bytes
        self._specials["%total_smem_size"][0] = size
        if size != self.shared.size:
            self.shared = Window(size, self.block_of)

    def place_blocks(self, numbers: Array, grid: Triple) -> None:
        """Number the blocks that run next."""
        linear = np.resize(numbers, self.capacity)
        for axis, divisor, count in (
            ("x", 1, grid[0]),
            ("y", grid[0], grid[1]),
            ("z", grid[0] * grid[1], grid[2]),
        ):
            self._specials[f"%ctaid.{axis}"][:] = (linear // divisor % count)[self.block_of]

    def _special_registers(self) -> dict[str, Array]:
        x, y, _ = self.block
        thread = self.thread_of
        lane = self.lane_of.astype(np.uint64)
        one = np.uint64(1)
        below = (one << lane) - one
        every = {
            "%tid.x": thread % x,
            "%tid.y": thread // x % y,
            "%tid.z": thread // (x * y),
            "%laneid": lane,
            "%warpid": thread // WARP,
            "%lanemask_eq": one << lane,
            "%lanemask_lt": below,
            "%lanemask_le": below | (one << lane),
            "%lanemask_gt": ~(below | (one << lane)) & np.uint64(0xFFFF_FFFF),
            "%lanemask_ge": ~below & np.uint64(0xFFFF_FFFF),
            **{f"%ctaid.{axis}": np.zeros(self.size) for axis in "xyz"},
        }
        uniform = {f"%ntid.{axis}": count for axis, count in zip("xyz", self.block, strict=True)}
        uniform |= {f"%nctaid.{axis}": 1 for axis in "xyz"}
        uniform |= {"%nwarpid": self.width // WARP, "WARP_SZ": WARP}
        uniform |= {"%dynamic_smem_size": 0, "%total_smem_size": 0}
        specials = {name: values.astype(np.uint32) for name, values in every.items()}
        return specials | {n: np.array([v], np.uint32) for n, v in uniform.items()}

    # --- which lanes are active ------------------------------------------------------------

    def activate(self, group: Group) -> None:
        """Let the lanes of a group execute what follows."""
        self.group = group
        self.where = None if group.alone else group.mask

    def guarded(self, guard: Array | None, negated: bool) -> Array | None:
        """Mask of the lanes that write: None if it does not matter that others do too."""
        if guard is None:
            return self.where
        chosen = ~guard if negated else guard
        return chosen if self.where is None else chosen & self.where

    def executing(self, guard: Array | None, negated: bool) -> Array:
        """Mask of the lanes that execute an instruction."""
        if guard is None:
            return self.group.mask
        return self.group.mask & (~guard if negated else guard)

    def active(self, guard: Array | None, negated: bool) -> Array | None:
        """Numbers of the lanes that execute an instruction; None if all lanes do."""
        if guard is None:
            return self.group.index
        index = np.flatnonzero(self.executing(guard, negated))
        return None if index.size == self.size else index

    def place(self, lane: int) -> str:
        """Block and thread of a lane, for messages."""
        block = tuple(int(self._specials[f"%ctaid.{a}"][lane]) for a in "xyz")
        thread = tuple(int(self._specials[f"%tid.{a}"][lane]) for a in "xyz")
        return f" block {short(block)} thread {short(thread)}"

    def fault(self, kind: Kind, message: str, pc: int, lane: int | None = None) -> Fault:
        """A fault of the instruction at ``pc``."""
        text = self.code.instructions[pc].text
        place = "" if lane is None else self.place(lane)
        return Fault(kind, message, kernel=self.kernel.name, pc=pc, instruction=text, place=place)

    def full(self, values: Array) -> Array:
        """``values`` for all lanes."""
        return values if values.size == self.size else np.broadcast_to(values, self.size)

    @contextlib.contextmanager
    def blaming(self, pc: int) -> Iterator[None]:
        """Lets faults that do not know their instruction name the one at ``pc``."""
        try:
            yield
        except Fault as fault:
            if fault.pc is not None:
                raise
            raise self.fault(fault.kind, fault.message, pc) from fault

    # --- registers and operands ------------------------------------------------------------

    def register(self, name: str) -> Array:
        """The array of a register, unsigned (or Boolean)."""
        if name not in self._registers:
            size = 1 if name in self.analysis.constant_registers else self.size
            kind = "pred" if name == CARRY else self.code.registers[name]
            dtype = np.dtype(f"u{DTYPES[kind].itemsize}") if kind != "pred" else DTYPES["pred"]
            self._registers[name] = np.zeros(size, dtype)
        return self._registers[name]

    def predicate(self, register: Register | None) -> tuple[Array | None, bool]:
        """Array and negation of a guard."""
        if register is None:
            return None, False
        return self.register(register.name), register.negated

    def source(self, operand: Operand, kind: str) -> Array:
        """The values of an operand as a PTX type: an array of all lanes, or of one element."""
        dtype = DTYPES[kind]
        if isinstance(operand, Register):
            return self._view(operand.name, dtype)
        if isinstance(operand, Immediate):
            return literal(operand.text, dtype)
        if isinstance(operand, Symbol):
            return narrowed(self._symbol(operand.name), dtype)
        if isinstance(operand, Address) and isinstance(operand.base, Symbol):
            return self._parameter(operand.base.name, operand.offset, dtype)
        raise Fault(Kind.MALFORMED, f"operand {operand} of type {kind}")

    def _view(self, name: str, dtype: DType) -> Array:
        key = name, dtype
        if key not in self._views:
            values = self.register(name)
            if values.dtype.itemsize < dtype.itemsize:
                raise Fault(Kind.MALFORMED, f"{name} is narrower than {dtype}")
            self._views[key] = narrowed(values, dtype)
        return self._views[key]

    def _symbol(self, name: str) -> Array:
        for offsets in (self.code.shared, self.code.local):
            if name in offsets:
                return np.array([offsets[name]], np.uint64)
        if name in self.symbols:
            return self.symbols[name]
        if name in self._specials:
            return self._specials[name]
        raise Fault(Kind.UNKNOWN_OPCODE, f"the symbol {name} is not known")

    def _parameter(self, name: str, offset: int, dtype: DType) -> Array:
        for parameter in self.kernel.params:
            if parameter.name == name:
                start = parameter.offset + offset
                return self.parameters[start : start + dtype.itemsize].view(dtype)
        raise Fault(Kind.MALFORMED, f"there is no parameter {name}")

    def address(self, operand: Operand) -> Callable[[], Array]:
        """A function that gives the unsigned 64-bit addresses of an operand, all lanes or one."""
        if not isinstance(operand, Address):
            raise Fault(Kind.MALFORMED, f"{operand} is no address")
        base, offset = operand.base, np.array([operand.offset]).view(np.uint64)
        if isinstance(base, Immediate):
            fixed = literal(base.text, np.dtype(np.uint64)) + offset
            return lambda: fixed
        values = self.register(base.name) if isinstance(base, Register) else self._symbol(base.name)
        return lambda: values + offset

    def writer(self, operand: Operand, kind: str) -> Callable[[Array, Array | None], None]:
        """``write(values, lanes)`` into a register, extended where it is wider than the type."""
        if operand is None:
            return lambda values, lanes: None
        if not isinstance(operand, Register):
            raise Fault(Kind.MALFORMED, f"{operand} is no register")
        target = self.target(operand.name, DTYPES[kind])
        defined = self.defined.get(operand.name)

        def write(values: Array, lanes: Array | None) -> None:
            at = slice(None) if lanes is None else lanes
            target[at] = values
            if defined is not None:
                defined[at] = True

        return write

    def target(self, name: str, dtype: DType) -> Array:
        """A register as the type of its width that ``dtype`` extends to."""
        register = self.register(name)
        if register.dtype.itemsize == dtype.itemsize or dtype.kind in "bf":
            return self._view(name, dtype)
        return register.view(f"{dtype.kind}{register.dtype.itemsize}")

    # --- the record of accesses ------------------------------------------------------------

    def tick(self, count: int) -> int:
        """The time now; ``count`` units pass."""
        now = self.time
        self.time = now + count
        return now

    def record(
        self,
        log: list[Access],
        pc: int,
        addresses: Array,
        lanes: Array | None,
        form: Form,
        *,
        writes: bool = False,
    ) -> None:
        """Note an access for the search for races."""
        time = self.tick(addresses.size)
        log.append(
            Access(
                pc,
                addresses,
                lanes,
                form.size,
                writes,
                form.strength,
                form.read_only,
                time,
                self.first_lane,
                self.epochs,
                self.warp_epochs,
            )
        )


def short(triple: tuple[int, ...]) -> str:
    """``(3)`` for ``(3, 0, 0)``."""
    values = list(triple)
    while len(values) > 1 and values[-1] == 0:
        values.pop()
    return f"({', '.join(map(str, values))})"
