"""PTX text to modules, kernels and instructions.

A module is cut into functions and variables at once; a kernel's body is read when it is first
asked for. Calls of functions are replaced by the body of the function with registers, labels and
parameters of its own, so that what is executed is one list of instructions without calls.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from nnkernels.testing.ptx.dtypes import DTYPES, DType
from nnkernels.testing.ptx.faults import Fault, Kind

COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/|^\s*\.(?:loc|file)\b[^\n]*", re.S | re.M)
BRACE = re.compile(r"[{}]")
FUNCTION = re.compile(r"\.(entry|func)\b")
STATEMENT = re.compile(r"\s*(?:([$\w]+):|([{}])|([^\s;{}][^;]*);)")
GUARD = re.compile(r"@(!?)\s*([%$\w]+)\s+(.*)", re.S)
OPERAND = re.compile(r"\{[^}]*\}|\[[^\]]*\]|\([^)]*\)|[^,\s][^,]*")
PARAMETER = re.compile(
    r"\.param\s+(?:\.align\s+(\d+)\s+)?\.(\w+)\s+(?:\.ptr[^,\[]*?)?([$\w]+)(?:\[(\d+)\])?"
)
REGISTERS = re.compile(r"\.reg\s+\.(\w+)\s+(.*)", re.S)
VARIABLE = re.compile(
    r"\.(global|const|shared|local|param)\s+(?:\.attribute\([^)]*\)\s*)?(?:\.align\s+(\d+)\s+)?"
    r"\.(\w+)\s+([$%\w]+)\s*((?:\[\d*\])*)\s*(?:=\s*(.*))?$",
    re.S,
)


@dataclass(frozen=True, slots=True)
class Register:
    """A register; ``negated`` for ``!%p``."""

    name: str
    negated: bool = False


@dataclass(frozen=True, slots=True)
class Immediate:
    """A literal: ``12``, ``0x1F``, ``0f3F800000`` (float32 bits), ``0d...`` (float64 bits)."""

    text: str


@dataclass(frozen=True, slots=True)
class Symbol:
    """A variable, a label, a kernel parameter or a special register."""

    name: str


@dataclass(frozen=True, slots=True)
class Address:
    """``[base+offset]``."""

    base: Register | Symbol | Immediate
    offset: int


@dataclass(frozen=True, slots=True)
class Vector:
    """``{a, b}``, and ``a|b`` of instructions with two results; None is the sink ``_``."""

    parts: tuple[Register | Immediate | Symbol | None, ...]


Operand = Register | Immediate | Symbol | Address | Vector | None


@dataclass(frozen=True, slots=True)
class Instruction:
    """One instruction; ``modifiers`` are the parts of the opcode after the first, in order."""

    text: str
    opcode: str
    modifiers: tuple[str, ...]
    operands: tuple[Operand, ...]
    guard: Register | None = None

    @property
    def type(self) -> str:
        """The last type in the opcode, which is that of the sources; empty without one."""
        return next((m for m in reversed(self.modifiers) if m in DTYPES), "")


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter of a kernel: PTX type, offset and bytes in the parameter space."""

    name: str
    type: str
    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class Variable:
    """A variable of a module or a function; ``initial`` is None where nothing is written."""

    name: str
    space: str
    align: int
    size: int
    initial: bytes | None


def _initial(text: str, dtype: DType, size: int) -> bytes:
    items = [item.strip() for item in text.strip().strip("{}").split(",") if item.strip()]
    return np.concatenate([literal(item, dtype) for item in items]).tobytes().ljust(size, b"\0")


def _variable(text: str) -> Variable | None:
    match = VARIABLE.search(text)
    if not match:
        return None
    space, align, kind, name, dimensions, initial = match.groups()
    dtype = DTYPES[kind]
    count = int(np.prod([int(d or 0) for d in re.findall(r"\[(\d*)\]", dimensions)], dtype=int))
    size = count * dtype.itemsize
    value = _initial(initial, dtype, size) if initial else None
    if value is None and space in ("global", "const"):
        value = bytes(size)
    return Variable(name, space, int(align or dtype.itemsize), size, value)


def literal(text: str, dtype: DType) -> np.ndarray[tuple[int], DType]:
    """A PTX literal as an array of one ``dtype``; integers wrap, ``0f`` and ``0d`` give bits."""
    prefix, digits = text[:2].lower(), text.rstrip("U")
    try:
        if prefix in ("0f", "0d"):
            return _bits(int(text[2:], 16), np.dtype("f4" if prefix == "0f" else "f8"), dtype)
        if dtype.kind == "f" and not re.fullmatch(r"[-+]?(0[xX][0-9a-fA-F]+|\d+)", digits):
            return np.array([float(digits)], dtype)
        number = int(digits, 8 if re.fullmatch(r"[-+]?0[0-7]+", digits) else 0)
    except ValueError as error:
        raise Fault(Kind.MALFORMED, f"{text!r} is no number") from error
    if dtype.kind in "bf":
        return np.array([number]).astype(dtype)
    return np.array([number & ((1 << 8 * dtype.itemsize) - 1)], f"u{dtype.itemsize}").view(dtype)


def _bits(bits: int, written: DType, dtype: DType) -> np.ndarray[tuple[int], DType]:
    """A floating-point number written as its bits, for a register of any type."""
    value = np.array([bits], f"u{written.itemsize}")
    if dtype.kind == "f" and dtype != written:
        return value.view(written).astype(dtype)
    return value.astype(f"u{dtype.itemsize}").view(dtype)


@dataclass
class Function:
    """Header and body of a function or kernel, not yet read."""

    name: str
    returns: tuple[str, ...]
    parameters: str
    attributes: str
    body: str

    @property
    def formals(self) -> tuple[str, ...]:
        """Names of the parameters."""
        return tuple(m.group(3) for m in PARAMETER.finditer(self.parameters))


@dataclass
class Code:
    """The instructions of a kernel with all calls expanded."""

    instructions: list[Instruction] = field(default_factory=list)
    labels: dict[str, int] = field(default_factory=dict)
    tables: dict[str, tuple[str, ...]] = field(default_factory=dict)
    registers: dict[str, str] = field(default_factory=dict)
    shared: dict[str, int] = field(default_factory=dict)
    local: dict[str, int] = field(default_factory=dict)
    shared_size: int = 0
    local_size: int = 0

    def place(self, variable: Variable, name: str) -> None:
        """Give a shared or local variable its offset."""
        offsets = self.shared if variable.space == "shared" else self.local
        end = self.shared_size if variable.space == "shared" else self.local_size
        offsets[name] = -(-end // variable.align) * variable.align
        if variable.space == "shared":
            self.shared_size = offsets[name] + variable.size
        else:
            self.local_size = offsets[name] + variable.size


class Kernel:
    """One ``.entry``: its parameters and limits, and (on demand) its code."""

    def __init__(self, module: Module, function: Function) -> None:
        self.module = module
        self.name = function.name
        self._function = function
        self.params = _parameters(function.parameters)
        limit = re.search(r"\.maxntid\s+([\d,\s]+)", function.attributes)
        self.maxntid = int(np.prod([int(n) for n in limit.group(1).split(",")])) if limit else 1024

    def __repr__(self) -> str:
        return f"<kernel {self.name} ({', '.join(p.type for p in self.params)})>"

    @functools.cached_property
    def code(self) -> Code:
        """The instructions; parsed at the first use."""
        code = Code()
        for variable in self.module.variables.values():
            used = variable.space == "shared" and variable.name in self._function.body
            if used and variable.size:
                code.place(variable, variable.name)
        _Body(self.module, code, self._function, "", {}, ()).read()
        for variable in self.module.variables.values():
            if variable.space == "shared" and not variable.size:
                code.place(variable, variable.name)
        return code

    @property
    def shared_size(self) -> int:
        """Bytes of statically declared shared memory."""
        return self.code.shared_size


def _parameters(text: str) -> tuple[Parameter, ...]:
    parameters, end = [], 0
    for match in PARAMETER.finditer(text):
        align, kind, name, count = match.groups()
        size = DTYPES[kind].itemsize * int(count or 1)
        alignment = int(align or DTYPES[kind].itemsize)
        end = -(-end // alignment) * alignment
        parameters.append(Parameter(name, kind, end, size))
        end += size
    return tuple(parameters)


class Module:
    """A PTX text: a mapping of kernel names to kernels.

    Raises :class:`Fault` for text that cannot be read. Kernels are parsed when first used.
    """

    def __init__(self, text: str) -> None:
        self.functions: dict[str, Function] = {}
        self.variables: dict[str, Variable] = {}
        self._kernels: dict[str, Kernel] = {}
        for head, body in _items(COMMENT.sub("", text)):
            self._take(head, body)

    def _take(self, head: str, body: str | None) -> None:
        kind = FUNCTION.search(head)
        if kind is None:
            variable = _variable(head)
            if variable is not None:
                self.variables[variable.name] = variable
        elif body is not None:
            function = _function(head[kind.end() :], body)
            if kind.group(1) == "entry":
                self._kernels[function.name] = Kernel(self, function)
            else:
                self.functions[function.name] = function

    @property
    def kernels(self) -> tuple[str, ...]:
        """Names of the kernels, in the order of the text."""
        return tuple(self._kernels)

    def __getitem__(self, name: str) -> Kernel:
        if name not in self._kernels:
            raise KeyError(f"no kernel {name!r} in this module; it has {', '.join(self._kernels)}")
        return self._kernels[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._kernels)

    def __len__(self) -> int:
        return len(self._kernels)


def _items(text: str) -> Iterator[tuple[str, str | None]]:
    """Top-level declarations: the head, and the body of functions."""
    depth, start, opened = 0, 0, 0
    for match in BRACE.finditer(text):
        if match.group() == "{":
            opened = match.start() if depth == 0 else opened
            depth += 1
        else:
            depth -= 1
        if depth < 0:
            break
        heads = text[start:opened].split(";")
        if depth or not FUNCTION.search(heads[-1]):
            continue
        yield from ((head, None) for head in heads[:-1])
        yield heads[-1], text[opened + 1 : match.start()]
        start = match.end()
    if depth:
        raise Fault(Kind.MALFORMED, "the braces of the PTX text do not match")
    yield from ((head, None) for head in text[start:].split(";"))


def _function(head: str, body: str) -> Function:
    match = re.match(r"\s*(\([^)]*\))?\s*([$\w]+)\s*(?:\(([^)]*)\))?(.*)", head, re.S)
    if match is None:
        raise Fault(Kind.MALFORMED, f"function header {head.strip()!r}")
    returns, name, parameters, attributes = match.groups()
    names = tuple(m.group(3) for m in PARAMETER.finditer(returns or ""))
    return Function(name, names, parameters or "", attributes, body)


class _Body:
    """Reads the body of one function into ``code``.

    ``prefix`` keeps the names of an expanded call apart, ``bound`` maps the parameters of a
    called function to the caller's, ``callers`` are the functions being expanded.
    """

    def __init__(
        self,
        module: Module,
        code: Code,
        function: Function,
        prefix: str,
        bound: Mapping[str, str],
        callers: tuple[str, ...],
    ) -> None:
        self.module, self.code, self.function = module, code, function
        self.prefix, self.bound, self.callers = prefix, bound, callers
        self.scopes: list[dict[str, str]] = [{}]
        self.families: list[dict[str, str]] = [{}]
        self.opened = 0
        self.pending_label = ""

    def read(self) -> None:
        """Append all instructions to the code."""
        end = 0
        body = self.function.body
        for match in STATEMENT.finditer(body):
            if body[end : match.start()].strip():
                break
            end = match.end()
            label, brace, statement = match.groups()
            if label:
                self.pending_label = self.prefix + label
                self.code.labels[self.pending_label] = len(self.code.instructions)
            elif brace:
                self._scope(brace)
            else:
                self._statement(" ".join(statement.split()))
        if body[end:].strip():
            raise self._malformed(body[end:].strip().split("\n")[0])

    def _malformed(self, text: str) -> Fault:
        return Fault(Kind.MALFORMED, f"{self.function.name}: cannot read {text!r}")

    def _scope(self, brace: str) -> None:
        if brace == "{":
            self.scopes.append({})
            self.opened += 1
        else:
            self.scopes.pop()

    def _statement(self, text: str) -> None:
        if text.startswith(".reg"):
            self._declare_registers(text)
        elif text.startswith(".branchtargets"):
            targets = text.removeprefix(".branchtargets").split(",")
            self.code.tables[self.pending_label] = tuple(self.prefix + t.strip() for t in targets)
        elif text.startswith("."):
            self._declare_variable(text)
        else:
            self._instruction(text)

    def _declare_registers(self, text: str) -> None:
        match = REGISTERS.match(text)
        if match is None:
            raise self._malformed(text)
        kind, names = match.groups()
        for name in re.split(r"\s*,\s*", names):
            family = re.fullmatch(r"(.*)<(\d+)>", name)
            if family:
                for number in range(int(family.group(2))):
                    self._declare(f"{family.group(1)}{number}", kind)
            else:
                self._declare(name, kind)

    def _declare(self, name: str, kind: str) -> None:
        depth = f"{self.opened}:" if len(self.scopes) > 1 else ""
        unique = f"{self.prefix}{depth}{name}"
        self.scopes[-1][name] = unique
        self.code.registers[unique] = kind

    def _declare_variable(self, text: str) -> None:
        if text.startswith((".pragma", ".callprototype", ".calltargets", ".noreturn")):
            return
        variable = _variable(text)
        if variable is None:
            raise self._malformed(text)
        unique = f"{self.prefix}{self.opened}:{variable.name}"
        self.scopes[-1][variable.name] = unique
        if variable.space in ("shared", "local"):
            self.code.place(variable, unique)

    def _resolve(self, name: str) -> str:
        for scope in reversed(self.scopes):
            if name in scope:
                return scope[name]
        return self.bound.get(name, name)

    # --- instructions ----------------------------------------------------------------------

    def _instruction(self, text: str) -> None:
        match = GUARD.match(text)
        guard, rest = None, text
        if match:
            negated, name, rest = match.groups()
            guard = Register(self._resolve(name), bool(negated))
        opcode, _, arguments = rest.partition(" ")
        name, *modifiers = opcode.split(".")
        if name == "call":
            self._call(arguments, guard, text)
        elif name == "ret" and self.callers:
            target = Symbol(self.prefix + "return")
            self._append(Instruction(text, "bra", ("uni",), (target,), guard))
        else:
            operands = tuple(self._operand(o.strip()) for o in OPERAND.findall(arguments))
            self._append(Instruction(text, name, tuple(modifiers), operands, guard))

    def _append(self, instruction: Instruction) -> None:
        if "param" in instruction.modifiers and self._is_call_parameter(instruction):
            self.code.instructions.extend(self._moves(instruction))
        elif instruction.opcode in ("bra", "brx"):
            names = [o.name if isinstance(o, Symbol) else "" for o in instruction.operands]
            local = {n: n if n.startswith(self.prefix) else self.prefix + n for n in names}
            operands = tuple(
                Symbol(local[o.name]) if isinstance(o, Symbol) else o for o in instruction.operands
            )
            self.code.instructions.append(
                Instruction(
                    instruction.text,
                    instruction.opcode,
                    instruction.modifiers,
                    operands,
                    instruction.guard,
                )
            )
        else:
            self.code.instructions.append(instruction)

    def _operand(self, text: str) -> Operand:
        if text.startswith("["):
            return self._address(text[1:-1].strip())
        if text.startswith("{"):
            parts = [self._simple(p.strip()) for p in text[1:-1].split(",")]
            return Vector(tuple(parts))
        if "|" in text:
            return Vector(tuple(self._simple(p.strip()) for p in text.split("|")))
        return self._simple(text)

    def _simple(self, text: str) -> Register | Immediate | Symbol | None:
        if text == "_":
            return None
        if text[0] == "!":
            return Register(self._resolve(text[1:].strip()), negated=True)
        if text[0].isdigit() or text[0] in "+-":
            return Immediate(text.replace(" ", ""))
        name = self._resolve(text)
        return Register(name) if name in self.code.registers else Symbol(name)

    def _address(self, text: str) -> Address:
        match = re.fullmatch(r"([^+\s]+?)\s*(?:\+\s*(-?\w+))?", text)
        base = self._simple(match.group(1)) if match else None
        if match is None or base is None:
            raise self._malformed(f"[{text}]")
        return Address(base, int(match.group(2) or "0", 0))

    # --- calls -----------------------------------------------------------------------------

    def _call(self, arguments: str, guard: Register | None, text: str) -> None:
        if guard is not None:
            raise self._malformed(text)
        parts = [p.strip() for p in OPERAND.findall(arguments)]
        returns = parts.pop(0) if parts[0].startswith("(") else "()"
        name = parts[0]
        given = parts[1] if len(parts) > 1 else "()"
        function = self.module.functions.get(name)
        if function is None:
            raise Fault(
                Kind.UNKNOWN_OPCODE,
                f"`{text}`: no function of that name has a body in the text",
            )
        if name in self.callers or name == self.function.name:
            raise Fault(Kind.UNKNOWN_OPCODE, f"`{text}` is a recursive call")
        formals = (*function.returns, *function.formals)
        actuals = [
            self._resolve(n.strip())
            for g in (returns, given)
            for n in g.strip("()").split(",")
            if n.strip()
        ]
        if len(formals) != len(actuals):
            raise self._malformed(text)
        prefix = f"{self.prefix}{name}#{len(self.code.instructions)}:"
        bound = dict(zip(formals, actuals, strict=True))
        callers = (*self.callers, self.function.name)
        _Body(self.module, self.code, function, prefix, bound, callers).read()
        self.code.labels[prefix + "return"] = len(self.code.instructions)

    def _is_call_parameter(self, instruction: Instruction) -> bool:
        """Whether a parameter is one of a call, not of the kernel."""
        address = next(o for o in instruction.operands if isinstance(o, Address))
        base = address.base.name if isinstance(address.base, Symbol) else ""
        return bool(self.callers) or base not in self.function.formals

    def _moves(self, instruction: Instruction) -> list[Instruction]:
        """Parameters of calls are registers, one for each offset that is written."""
        store = instruction.opcode == "st"
        address, value = instruction.operands if store else instruction.operands[::-1]
        if not isinstance(address, Address) or not isinstance(address.base, Symbol):
            raise self._malformed(instruction.text)
        parts = value.parts if isinstance(value, Vector) else (value,)
        kind = instruction.type
        moves = []
        for at, part in enumerate(parts):
            name = f"{address.base.name}+{address.offset + at * DTYPES[kind].itemsize}"
            self.code.registers.setdefault(name, kind)
            slot = Register(name)
            operands = (slot, part) if store else (part, slot)
            moves.append(Instruction(instruction.text, "mov", (kind,), operands, instruction.guard))
        return moves


def registers_in(operands: Sequence[Operand]) -> Iterator[str]:
    """Names of the registers in operands, those of addresses and vectors too."""
    for operand in operands:
        if isinstance(operand, Register):
            yield operand.name
        elif isinstance(operand, Address) and isinstance(operand.base, Register):
            yield operand.base.name
        elif isinstance(operand, Vector):
            yield from (part.name for part in operand.parts if isinstance(part, Register))
