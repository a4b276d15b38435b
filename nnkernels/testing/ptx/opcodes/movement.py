"""Moves, loads, stores, and the conversion of addresses."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from nnkernels.testing.ptx.dtypes import DTYPES, Array
from nnkernels.testing.ptx.faults import Kind
from nnkernels.testing.ptx.lanes import (
    FOR_BLOCK,
    FOR_DEVICE,
    LOCAL_WINDOW,
    SHARED_WINDOW,
    WEAK,
    WINDOW,
    Form,
    Lanes,
    Window,
)
from nnkernels.testing.ptx.parsing import Instruction, Operand, Vector
from nnkernels.testing.ptx.registry import (
    Function,
    Request,
    alike,
    check_modifiers,
    effect,
    elementwise,
    unknown,
)

SPACES = ("global", "shared", "local", "const", "param")
CACHING = ("ca", "cg", "cs", "lu", "cv", "wb", "wt", "L1", "L2", "no_allocate")
EVICTION = ("evict_first", "evict_last", "evict_normal", "evict_unchanged")
ORDERING = ("nc", "volatile", "relaxed", "weak", "cta", "gpu", "sys")
HINTS = frozenset((*SPACES, *CACHING, *EVICTION, *ORDERING, "v2", "v4"))


@elementwise("mov", "", alike(1))
def mov(request: Request) -> Function:
    """A copy."""
    return lambda a, out: np.copyto(out, a)


@elementwise("cvta", "to global shared local const param", alike(1))
def cvta(request: Request) -> Function:
    """Between generic addresses and those of a space; global addresses are generic."""
    windows = {"shared": SHARED_WINDOW, "local": LOCAL_WINDOW}
    start = next((windows[m] for m in request.modifiers if m in windows), 0)
    by = np.array([-start if "to" in request.modifiers else start]).view(np.uint64)
    return lambda a, out: np.add(a, by.astype(a.dtype), out)


def unpack(instruction: Instruction, lanes: Lanes, pc: int) -> Callable[[], None]:
    """``mov.b64 {a, b}, c``: the parts of a register, low first."""
    parts, source = instruction.operands
    assert isinstance(parts, Vector)
    kind = f"b{8 * DTYPES[instruction.type].itemsize // len(parts.parts)}"
    values = lanes.source(source, instruction.type)
    writers = [lanes.writer(part, kind) for part in parts.parts]
    guard, negated = lanes.predicate(instruction.guard)

    def step() -> None:
        index = lanes.active(guard, negated)
        whole = np.broadcast_to(values, lanes.size) if index is None or values.size == 1 else values
        chosen = np.ascontiguousarray(whole if index is None else whole[index])
        pieces = chosen.view(DTYPES[kind]).reshape(-1, len(writers))
        for column, write in enumerate(writers):
            write(pieces[:, column], index)

    return step


def pack(instruction: Instruction, lanes: Lanes, pc: int) -> Callable[[], None]:
    """``mov.b64 c, {a, b}``: a register from its parts, low first."""
    target, parts = instruction.operands
    assert isinstance(parts, Vector)
    kind = f"b{8 * DTYPES[instruction.type].itemsize // len(parts.parts)}"
    values = [lanes.source(part, kind) for part in parts.parts]
    write = lanes.writer(target, f"b{8 * DTYPES[instruction.type].itemsize}")
    guard, negated = lanes.predicate(instruction.guard)

    def step() -> None:
        index = lanes.active(guard, negated)
        pieces = np.empty((lanes.size, len(values)), DTYPES[kind])
        for column, value in enumerate(values):
            pieces[:, column] = value
        whole = pieces.view(f"u{DTYPES[instruction.type].itemsize}")[:, 0]
        write(whole if index is None else whole[index], index)

    return step


# --- loads and stores --------------------------------------------------------------------------


def form_of(instruction: Instruction, value: Operand) -> Form:
    """The form of a load or store of ``value``."""
    check_modifiers(instruction, HINTS)
    modifiers = instruction.modifiers
    space = next((m.split("::")[0] for m in modifiers if m.split("::")[0] in SPACES), "")
    parts = value.parts if isinstance(value, Vector) else (value,)
    if not instruction.type or DTYPES[instruction.type].itemsize * len(parts) > 16:
        raise unknown(instruction)
    size = DTYPES[instruction.type].itemsize * len(parts)
    return Form(space, instruction.type, parts, size, strength(instruction), "nc" in modifiers)


def strength(instruction: Instruction) -> int:
    """For whom an access is atomic or volatile."""
    modifiers = instruction.modifiers
    if not {"volatile", "relaxed"} & {*modifiers} and instruction.opcode in ("ld", "ldu", "st"):
        return WEAK
    return FOR_BLOCK if "cta" in modifiers else FOR_DEVICE


class Port:
    """Reaches the memory that a load, store or atomic instruction names."""

    def __init__(
        self, instruction: Instruction, lanes: Lanes, pc: int, address: Operand, form: Form
    ) -> None:
        self.lanes, self.pc, self.form = lanes, pc, form
        self.addresses = lanes.address(address)
        self.guard, self.negated = lanes.predicate(instruction.guard)

    def begin(self) -> tuple[Array, Array | None]:
        """Addresses and numbers of the active lanes (None: all)."""
        index = self.lanes.active(self.guard, self.negated)
        addresses = self.addresses()
        if addresses.size == 1 and self.lanes.size > 1:
            addresses = np.repeat(addresses, self.lanes.size if index is None else index.size)
        elif index is not None:
            addresses = addresses[index]
        if np.count_nonzero(addresses & np.uint64(self.form.size - 1)):
            raise self._misaligned(addresses, index)
        return addresses, index

    def _misaligned(self, addresses: Array, index: Array | None) -> Exception:
        bad = int(np.argmax(addresses % np.uint64(self.form.size) != 0))
        lane = bad if index is None else int(index[bad])
        text = f"{self.form.size} bytes at {int(addresses[bad]):#x}"
        return self.lanes.fault(Kind.MISALIGNED, text, self.pc, lane)

    def window(self, addresses: Array) -> tuple[str, Window | None, Array]:
        """The space of the addresses, its window (None: global memory) and the addresses in it."""
        space = self.form.space or self._space(addresses)
        start = (
            0 if self.form.space else {"shared": SHARED_WINDOW, "local": LOCAL_WINDOW}.get(space, 0)
        )
        if space == "shared":
            return space, self.lanes.shared, addresses - np.uint64(start)
        if space == "local":
            return space, self.lanes.local, addresses - np.uint64(start)
        return space, None, addresses

    def _space(self, addresses: Array) -> str:
        for name, start in (("shared", SHARED_WINDOW), ("local", LOCAL_WINDOW)):
            inside = np.count_nonzero(addresses - np.uint64(start) < np.uint64(WINDOW))
            if inside == addresses.size:
                return name
            if inside:
                raise unknown(
                    self.lanes.code.instructions[self.pc],
                    "threads reach different memories through generic addresses",
                )
        return "global"

    def load(self, addresses: Array, index: Array | None, *, atomic: bool = False) -> Array:
        """The units at ``addresses``, noted for the search for races."""
        lanes, form = self.lanes, self.form
        space, window, inside = self.window(addresses)
        places = inside if window is None else window.places(inside, index, form.size)
        memory = lanes.memory if window is None else window.segment
        values = None if places is None else memory.load(places, form.size)
        if values is None or places is None:
            raise self.refused(inside, index, window, reads=True)
        if not atomic and space in ("global", "shared"):
            log = lanes.global_log if window is None else lanes.shared_log
            lanes.record(log, self.pc, places, index, form)
        return values

    def store(
        self, addresses: Array, index: Array | None, values: Array, *, atomic: bool = False
    ) -> None:
        """Write units, noted for the search for races."""
        lanes, form = self.lanes, self.form
        space, window, inside = self.window(addresses)
        places = inside if window is None else window.places(inside, index, form.size)
        memory = lanes.memory if window is None else window.segment
        if places is None or not memory.store(places, values, form.size):
            raise self.refused(inside, index, window, reads=False)
        if not atomic and space in ("global", "shared"):
            log = lanes.global_log if window is None else lanes.shared_log
            lanes.record(log, self.pc, places, index, form, writes=True)

    def refused(
        self, addresses: Array, index: Array | None, window: Window | None, *, reads: bool
    ) -> Exception:
        """The fault of the first lane that may not make its access."""
        for at, address in enumerate(addresses.tolist()):
            lane = at if index is None else int(index[at])
            if window is None:
                wrong = self.lanes.memory.wrong(address, self.form.size, reads=reads)
            else:
                start = int(window.starts[lane])
                wrong = window.wrong(address, start, self.form.size, reads=reads)
            if wrong:
                where = (
                    "" if window is None else f" in {self.form.space or 'local or shared'} memory"
                )
                return self.lanes.fault(wrong[0], wrong[1] + where, self.pc, lane)
        raise AssertionError("an access was refused for no reason")


@effect("ld", "ldu")
def ld(instruction: Instruction, lanes: Lanes, pc: int) -> Callable[[], None]:
    """Load one value or a vector."""
    value, address = instruction.operands
    form = form_of(instruction, value)
    port = Port(instruction, lanes, pc, address, form)
    writers = [lanes.writer(part, form.kind) for part in form.parts]
    dtype = DTYPES[form.kind]

    def step() -> None:
        addresses, index = port.begin()
        if not addresses.size:
            return
        values = port.load(addresses, index)
        if len(writers) == 1:
            writers[0](values.view(dtype), index)
            return
        rows = values.view(dtype).reshape(addresses.size, -1)
        for column, write in enumerate(writers):
            write(rows[:, column], index)

    return step


@effect("st")
def st(instruction: Instruction, lanes: Lanes, pc: int) -> Callable[[], None]:
    """Store one value or a vector."""
    address, value = instruction.operands
    form = form_of(instruction, value)
    port = Port(instruction, lanes, pc, address, form)
    values = [lanes.source(part, form.kind) for part in form.parts]
    unit = f"u{min(form.size, 8)}"
    bits = form.dtype

    def step() -> None:
        addresses, index = port.begin()
        if not addresses.size:
            return
        if len(values) == 1:
            source = values[0]
            chosen = source if index is None or source.size == 1 else source[index]
            port.store(addresses, index, chosen.view(bits))
            return
        rows = np.empty((addresses.size, len(values)), bits)
        for column, source in enumerate(values):
            same = index is None or source.size == 1
            rows[:, column] = (source if same else source[index]).view(bits)
        units = rows.view(unit)
        port.store(addresses, index, units if form.size == 16 else units[:, 0])

    return step
