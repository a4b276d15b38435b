"""Building Programs by symbolic calls of catalogue operators."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from nnkernels import signature as sig
from nnkernels.errors import InputError, ProgramError, ShapeError, unknown
from nnkernels.program.format import (
    CONSTANT,
    COUNTERS,
    INPUT,
    SCALARS,
    Entry,
    Instruction,
    Layout,
    Phase,
    Program,
    Slot,
    aligned,
)
from nnkernels.spec import Op, get_op


def result_specs(
    op: Op[Any, Any],
    shapes: Sequence[tuple[int, ...]],
    dtypes: Sequence[str],
    params: Mapping[str, Any],
) -> tuple[sig.Signature, sig.Dims]:
    """The signature alternative that fits slots of these shapes and dtypes, with its sizes."""
    failure: sig.Mismatch | None = None
    for signature in op.signatures(params):
        if len(signature.inputs) != len(shapes):
            failure = sig.Mismatch(0, f"{len(signature.inputs)} inputs")
        elif all(_kind_fits(a.kind, d) for a, d in zip(signature.inputs, dtypes, strict=True)):
            try:
                return signature, signature.solve(shapes, params)
            except sig.Mismatch as error:
                failure = error
    expected = failure.expected if failure else op.signature
    raise ShapeError(f"{op.name}: expected {expected}, got shapes {list(shapes)} {list(dtypes)}")


def solved_dims(program: Program, instruction: Instruction) -> sig.Dims:
    """Sizes of the labels of an instruction's operator, whose slots are checked."""
    op = get_op(instruction.op)
    slots = [program.slots[i] for i in instruction.inputs]
    shapes, dtypes = [s.shape for s in slots], [s.dtype for s in slots]
    signature, dims = result_specs(op, shapes, dtypes, instruction.params)
    for argument, slot in zip(signature.inputs, slots, strict=True):
        if argument.kind == "float" and slot.dtype != program.dtype:
            raise ProgramError(
                f"program: {op.name} reads {slot.name!r} of {slot.dtype}, not {program.dtype}"
            )
    _check_outputs(program, instruction, signature, dims)
    for name in op.updates:
        slot = slots[op.inputs.index(name)]
        if slot.buffer in (INPUT, CONSTANT):
            raise ProgramError(f"program: {op.name} would update {slot.name!r}, a {slot.buffer}")
    return dims


def _check_outputs(
    program: Program, instruction: Instruction, signature: sig.Signature, dims: sig.Dims
) -> None:
    wanted = [
        (sig.shape_of(a, dims), a.dtype(np.dtype(program.dtype)).name) for a in signature.outputs
    ]
    slots = [None if o is None else program.slots[o] for o in instruction.outputs]
    fits = len(slots) == len(wanted) and all(
        slot is None or (slot.shape, slot.dtype) == want
        for slot, want in zip(slots, wanted, strict=True)
    )
    if not fits:
        given = [slot and (slot.shape, slot.dtype) for slot in slots]
        raise ProgramError(
            f"program: {instruction.op} gives {wanted}, its output slots are {given}"
        )


def _kind_fits(kind: sig.Kind, dtype: str) -> bool:
    if kind == "float":
        return np.dtype(dtype) in sig.FLOAT_DTYPES
    return np.dtype(dtype) == sig.KIND_DTYPES[kind]


def check_floating(what: str, dtype: Any) -> str:
    """NumPy's name of a floating dtype that operators accept."""
    for known in sig.FLOAT_DTYPES:
        if dtype is not None and dtype in (known.name, known, known.type):  # NumPy: None is float64
            return known.name
    names = " or ".join(known.name for known in sig.FLOAT_DTYPES)
    raise InputError(f"{what}: dtype must be {names}, got {dtype!r}")


class Builder:
    """Builds one Program; slots are plain numbers.

    Args:
        rows: samples of one step.
        dtype: ``"float32"`` or ``"float64"``.
        schedule: learning rates that the State holds, one for each step of an epoch.
    """

    def __init__(self, rows: int, dtype: str = "float32", *, schedule: int = 1) -> None:
        if rows < 1:
            raise InputError(f"program: rows must be 1 or more, got {rows}")
        self.rows, self.dtype = rows, check_floating("program", dtype)
        self.slots: list[Slot] = []
        self.instructions: list[Instruction] = []
        self._deferred: list[Instruction] = []
        self._phase: Phase = "compute"
        self._label = ""
        self._names: dict[str, int] = {}
        self._entries: dict[str, Entry] = {}
        self._sizes = {"parameters": 0, "gradients": 0, "statistics": 0}
        self._extra: dict[str, tuple[str, int]] = {
            "scalars": ("float64", len(SCALARS)),
            "counters": ("int64", len(COUNTERS)),
            "schedule": ("float64", schedule),
        }
        self._entries["schedule"] = Entry("schedule", "schedule", 0, (schedule,), "float64")
        for buffer, names, dtype_name in (
            ("scalars", SCALARS, "float64"),
            ("counters", COUNTERS, "int64"),
        ):
            for index, name in enumerate(names):
                self._entries[name] = Entry(name, buffer, 8 * index, (), dtype_name)

    def add(self, slot: Slot) -> int:
        """Append ``slot``; its name must be new."""
        if slot.name in self._names:
            raise ProgramError(f"program: slot name {slot.name!r} is used twice")
        self._names[slot.name] = len(self.slots)
        self.slots.append(slot)
        return len(self.slots) - 1

    def fresh(self, stem: str) -> str:
        """A slot name that is not taken yet, made from ``stem`` and the current label."""
        stem = f"{self._label}.{stem}" if self._label else stem
        name, count = stem, 1
        while name in self._names or name in self._entries:
            count += 1
            name = f"{stem}#{count}"
        return name

    # --- declaring slots -------------------------------------------------------------------

    def input(
        self,
        name: str,
        shape: tuple[int, ...],
        dtype: str | None = None,
        *,
        window: bool = True,
        interval: tuple[int, int] | None = None,
    ) -> int:
        """An array fed at run time; with ``window`` a moving window of ``shape[0]`` rows of it."""
        self._check_free(name)
        slot = Slot(name, shape, dtype or self.dtype, INPUT, window=window, interval=interval)
        return self.add(slot)

    def parameter(self, name: str, shape: tuple[int, ...]) -> int:
        """A trained array, living in the State with its gradient; the same slot if it exists."""
        if name in self._names:
            return self._declared(name, "parameters", shape)
        slot = self._state_array(name, "parameters", shape)
        self._sizes["gradients"] = self._sizes["parameters"]
        gradient = self._entries[name]
        self._entries[f"{name}.gradient"] = replace(
            gradient, name=f"{name}.gradient", buffer="gradients"
        )
        return slot

    def statistic(self, name: str, shape: tuple[int, ...]) -> int:
        """An array that is kept in the State but not trained (running mean, ...)."""
        if name in self._names:
            return self._declared(name, "statistics", shape)
        return self._state_array(name, "statistics", shape)

    def _declared(self, name: str, buffer: str, shape: tuple[int, ...]) -> int:
        slot = self.slots[self._names[name]]
        if (slot.buffer, slot.shape) != (buffer, shape):
            raise ProgramError(
                f"program: {name!r} is already {slot.buffer} {slot.shape}, not {buffer} {shape}"
            )
        return self._names[name]

    def _check_free(self, name: str) -> None:
        if name in self._entries:
            raise ProgramError(f"program: {name!r} is a name of the State; choose another")

    def _state_array(self, name: str, buffer: str, shape: tuple[int, ...]) -> int:
        self._check_free(name)
        entry = Entry(name, buffer, self._sizes[buffer], shape, self.dtype)
        slot = Slot(name, shape, self.dtype, buffer, entry.offset)
        self._sizes[buffer] += aligned(slot.nbytes)
        self._entries[name] = entry
        return self.add(slot)

    def entry(self, name: str) -> int:
        """The slot of a scalar, a counter or another named array of the State."""
        if name not in self._names:
            if name not in self._entries:
                raise unknown("array of the state", name, self._entries)
            e = self._entries[name]
            return self.add(Slot(e.name, e.shape, e.dtype, e.buffer, e.offset))
        return self._names[name]

    def flat(self, buffer: str) -> int:
        """The whole of ``parameters``, ``gradients`` or another flat buffer as one vector.

        Buffers other than the known ones are made on first use, shaped like ``parameters``:
        that is how optimizers get their moments. Declare all parameters before.
        """
        name = f"{buffer}[:]"
        if name in self._names:
            return self._names[name]
        if buffer in self._extra:
            dtype, count = self._extra[buffer]
            return self.add(Slot(name, (count,), dtype, buffer))
        size = self._sizes.setdefault(buffer, self._sizes["parameters"])
        if buffer not in ("parameters", "gradients", "statistics"):
            self._add_moment_entries(buffer)
        count = size // np.dtype(self.dtype).itemsize
        return self.add(Slot(name, (count,), self.dtype, buffer))

    def _add_moment_entries(self, buffer: str) -> None:
        for entry in list(self._entries.values()):
            if entry.buffer == "parameters":
                name = f"{entry.name}.{buffer}"
                self._entries[name] = replace(entry, name=name, buffer=buffer)

    def constant(self, value: float, shape: tuple[int, ...] = ()) -> int:
        """An array of one repeated value."""
        name = f"constant {value} {shape}"
        if name in self._names:
            return self._names[name]
        return self.add(Slot(name, shape, self.dtype, CONSTANT, value=value))

    # --- instructions ----------------------------------------------------------------------

    @contextlib.contextmanager
    def label(self, label: str) -> Iterator[None]:
        """Name the layer or purpose of the instructions emitted inside."""
        before, self._label = self._label, label
        try:
            yield
        finally:
            self._label = before

    @contextlib.contextmanager
    def update_phase(self) -> Iterator[None]:
        """Emit instructions that run only when the step's loss is finite."""
        self._phase = "update"
        self.instructions.extend(self._deferred)
        self._deferred.clear()
        try:
            yield
        finally:
            self._phase = "compute"

    def after_update(self, name: str, inputs: Sequence[int], params: Mapping[str, Any]) -> None:
        """Keep an instruction without outputs for the update phase (running statistics)."""
        full = get_op(name).full_params(params)
        instruction = Instruction(name, tuple(inputs), (), full, "update", self._label)
        self._deferred.append(instruction)

    def call(self, name: str, *inputs: int, **params: Any) -> Any:
        """Append operator ``name``; returns its output slot, a tuple of several, or None."""
        op = get_op(name)
        full = op.full_params(params)
        chosen = [self.slots[i] for i in inputs]
        signature, dims = result_specs(
            op, [s.shape for s in chosen], [s.dtype for s in chosen], full
        )
        outputs = tuple(
            self._output(op, result, argument, dims)
            for result, argument in zip(op.result_names(signature), signature.outputs, strict=False)
        )
        self.emit(name, inputs, outputs, full)
        if len(outputs) == 1:
            return outputs[0]
        return outputs or None

    def _output(self, op: Op[Any, Any], result: str, argument: sig.Argument, dims: sig.Dims) -> int:
        shape = sig.shape_of(argument, dims)
        dtype = argument.dtype(np.dtype(self.dtype)).name
        stem = op.name if result == "y" else f"{op.name}.{result}"
        return self.add(Slot(self.fresh(stem), shape, dtype))

    def emit(
        self,
        name: str,
        inputs: Sequence[int],
        outputs: Sequence[int | None],
        params: Mapping[str, Any],
    ) -> None:
        """Append an instruction on given slots."""
        instruction = Instruction(
            name, tuple(inputs), tuple(outputs), dict(params), self._phase, self._label
        )
        self.instructions.append(instruction)

    # --- the result ------------------------------------------------------------------------

    @property
    def layout(self) -> Layout:
        """What the State must hold for the slots declared so far."""
        itemsize = np.dtype(self.dtype).itemsize
        flat = {name: (self.dtype, size // itemsize) for name, size in self._sizes.items()}
        return Layout({**flat, **self._extra}, tuple(self._entries.values()))

    def program(self, *, guard: int | None = None, **outputs: int) -> Program:
        """The finished, validated Program; ``outputs`` names slots by role."""
        program = Program(
            tuple(self.slots),
            tuple(self.instructions),
            self.rows,
            self.dtype,
            self.layout,
            outputs,
            guard,
        )
        program.validate()
        return program
