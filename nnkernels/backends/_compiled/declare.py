"""How a compiled kernel is declared: phases of an operator, each a function.

An operator is computed by one phase or several, one after the other. A phase computes *items* of
one dimension, ``over``, independently of each other, so that threads may divide them and a cache
may be used chunk by chunk; a phase without ``over`` computes everything at once. Sums over items
take two phases: one that leaves a number for every item in scratch, one that adds these up. Scratch
is written by the first phase that asks for it; later ones only read it, but for what they name in
``makes``.
"""

from __future__ import annotations

import array
import ctypes
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, Protocol

from nnkernels import signature as sig
from nnkernels.backend import Kernel, KernelTable, Precision
from nnkernels.backends._compiled import record
from nnkernels.backends._compiled.entry import Code, Entry
from nnkernels.program.builder import result_specs
from nnkernels.spec import Array, Op, get_op

MAX_PREPARED = 4096


@dataclass(frozen=True, eq=False)
class Phase:
    """A part of an operator's computation.

    Attributes:
        code: see :mod:`nnkernels.backends._compiled.record`.
        over: label of the dimension that is divided.
        makes: outputs and scratch for whose sake it runs; nothing: it always runs.
        alternative: of the operator's signatures, where it belongs to one of several.
    """

    code: Code
    over: str | None = None
    makes: tuple[str, ...] = ()
    alternative: int | None = None

    def serves(self, call: Call) -> bool:
        """Whether it belongs to the call's alternative and makes something that is wanted."""
        if self.alternative not in (None, call.alternative):
            return False
        return not self.makes or any(name in call.wanted for name in self.makes)

    def steps(self, call: Call) -> list[Step]:
        """Its one step."""
        given = record.operands(call.op, call.signature, call.workspace, call.params)
        layout = record.lay_out(self.code, given, call.floating, self.over)
        accesses = [Access(f.name, call.writes(f.name), f.sliced) for f in layout.arrays]

        def fill(addresses: Mapping[str, int]) -> list[int]:
            return record.fill(layout, addresses, given.params, call.sizes)

        count = record.items(layout, call.sizes)
        return [Step(self.code.entry(layout), count, tuple(accesses), fill)]


@dataclass(frozen=True)
class Call:
    """An operator with everything that decides what is run, but the arrays' addresses.

    Attributes:
        op: the operator.
        signature: the alternative that fits.
        workspace: scratch that its kernel has.
        params: the operator's parameters.
        sizes: of the dimensions, by label.
        floating: ``float32`` or ``float64``.
        wanted: names of the outputs that are wanted, of the scratch and of all inputs.
        precision: of float32 products.
        dims: the same sizes as the signature has them, with the leading dimensions of ``...``.
    """

    op: Op[Any, Any]
    signature: sig.Signature
    workspace: str
    params: Mapping[str, Any]
    sizes: Mapping[str, int]
    floating: str
    wanted: frozenset[str]
    precision: Precision = "fp32"
    dims: Mapping[str, Any] = field(default_factory=dict)

    @property
    def scratch(self) -> set[str]:
        """Names of the scratch arrays."""
        return {a.name for a in sig.parse_arguments(self.workspace)}

    @property
    def alternative(self) -> int:
        """Number of the signature's alternative."""
        return self.op.signatures(self.params).index(self.signature)

    def writes(self, name: str) -> bool:
        """Whether an array is an output, updated or scratch."""
        return name not in self.op.inputs or name in self.op.updates


class Access(NamedTuple):
    """One array that a step touches.

    Attributes:
        name: what the operator calls it.
        written: whether it is written (and perhaps read), or only read.
        sliced: whether a part of the step's items touches the same part of its first dimension.
    """

    name: str
    written: bool
    sliced: bool


@dataclass(frozen=True)
class Step:
    """A part of a call ready to run: what is called with which record, for how many items.

    Attributes:
        entry: the compiled code.
        items: how many; they may be divided at will.
        accesses: the arrays it touches.
        fill: gives the record for arrays at given addresses, by name.
        block: bytes of its result that it computes well at once; 0: any number.
        copies: source and target, of a step that only puts an array into another order.
    """

    entry: Entry
    items: int
    accesses: tuple[Access, ...]
    fill: Callable[[Mapping[str, int]], list[int]]
    block: int = 0
    copies: tuple[str, str] | None = None

    def reading(self, names: Container[str]) -> Step:
        """The same, which only reads the arrays called so."""
        accesses = [a._replace(written=False) if a.name in names else a for a in self.accesses]
        return replace(self, accesses=tuple(accesses))

    def renamed(self, names: Mapping[str, str]) -> Step:
        """The same for arrays that are called otherwise: ``names`` gives the new ones."""
        fill = self.fill
        accesses = tuple(a._replace(name=names[a.name]) for a in self.accesses)

        def refill(addresses: Mapping[str, int]) -> list[int]:
            return fill({old: addresses[new] for old, new in names.items() if new in addresses})

        copies = self.copies and (names[self.copies[0]], names[self.copies[1]])
        return replace(self, accesses=accesses, fill=refill, copies=copies)


class Part(Protocol):
    """What an operator's computation is made of: a :class:`Phase`, or a product."""

    def steps(self, call: Call) -> list[Step]:
        """The steps for ``call``."""


Recipe = Callable[[Call], Sequence[Part]]
"""Chooses the parts that compute a call."""


@dataclass(eq=False)
class CompiledKernel:
    """The compiled kernel of an operator, called like any other: ``kernel(*inputs, out=...)``.

    It takes C-contiguous, aligned arrays. What it does for arrays of some shapes is worked out
    once and kept. ``blas`` says whether for some shapes BLAS takes part.
    """

    op: Op[Any, Any]
    phases: list[Phase] = field(default_factory=list)
    workspace: str = ""
    recipe: Recipe | None = None
    written_in: Callable[..., Any] | None = None
    precision: Precision = "fp32"
    blas: bool = False
    _prepared: dict[Any, _Prepared] = field(default_factory=dict)

    @property
    def __wrapped__(self) -> Callable[..., Any] | None:
        return self.written_in or self.phases[0].code.written_in

    def steps(
        self,
        shapes: Sequence[tuple[int, ...]],
        dtypes: Sequence[str],
        params: Mapping[str, Any],
        outputs: Sequence[bool],
    ) -> list[Step]:
        """What runs for inputs of these shapes and dtypes, and the outputs that are wanted."""
        return self.steps_of(self._call(shapes, dtypes, params, outputs))

    def steps_of(self, call: Call) -> list[Step]:
        """The steps of ``call``."""
        parts = self.phases if self.recipe is None else self.recipe(call)
        steps: list[Step] = []
        made: set[str] = set()
        for part in parts:
            if not isinstance(part, Phase) or part.serves(call):
                again = made - set(part.makes if isinstance(part, Phase) else ())
                steps += [step.reading(again) for step in part.steps(call)]
                made |= {a.name for s in steps for a in s.accesses} & call.scratch
        return steps

    def _call(
        self,
        shapes: Sequence[tuple[int, ...]],
        dtypes: Sequence[str],
        params: Mapping[str, Any],
        outputs: Sequence[bool],
    ) -> Call:
        signature, dims = result_specs(self.op, shapes, dtypes, params)
        kinds = [a.kind for a in signature.inputs]
        floating = next(
            (d for d, kind in zip(dtypes, kinds, strict=True) if kind == "float"),
            str(params.get("dtype", "float32")),
        )
        names = record.output_names(self.op, signature)
        wanted = {n for n, want in zip(names, outputs, strict=True) if want}
        scratch = {a.name for a in sig.parse_arguments(self.workspace)}
        sizes = record.sizes_of({k: v for k, v in dims.items() if not isinstance(v, float)})
        everything = frozenset({*self.op.inputs, *wanted, *scratch})
        return Call(
            self.op,
            signature,
            self.workspace,
            params,
            sizes,
            floating,
            everything,
            self.precision,
            dims,
        )

    def __call__(self, *inputs: Array, out: Any = (), work: Any = (), **params: Any) -> None:
        """Compute all of it, on this thread."""
        outs = out if isinstance(out, tuple) else (out,)
        key = (
            tuple([(a.shape, a.dtype) for a in inputs]),
            tuple([o is None for o in outs]),
            tuple(params.values()),
        )
        found = self._prepared.get(key)
        if found is None:
            found = self._prepare(key, inputs, outs, params)
        found.run([*inputs, *outs, *work])

    def prepare(
        self, *inputs: Array, out: Any = (), work: Any = (), **params: Any
    ) -> Callable[[], None]:
        """The call on these arrays, again and again: their addresses are looked up once."""
        outs = out if isinstance(out, tuple) else (out,)
        return self._prepare(None, inputs, outs, params).bound([*inputs, *outs, *work])

    def _prepare(
        self, key: Any, inputs: Sequence[Array], outs: Sequence[Any], params: Mapping[str, Any]
    ) -> _Prepared:
        steps = self.steps(
            [a.shape for a in inputs],
            [a.dtype.name for a in inputs],
            params,
            [o is not None for o in outs],
        )
        if len(self._prepared) >= MAX_PREPARED:
            self._prepared.clear()
        prepared = _Prepared(self.names(params, inputs), steps)
        if key is not None:
            self._prepared[key] = prepared
        return prepared

    def names(self, params: Mapping[str, Any], inputs: Sequence[Array]) -> list[str]:
        """Names of the arrays in the order of a call: inputs, outputs, scratch."""
        shapes, dtypes = [a.shape for a in inputs], [a.dtype.name for a in inputs]
        signature, _ = result_specs(self.op, shapes, dtypes, params)
        scratch = [a.name for a in sig.parse_arguments(self.workspace)]
        return [*self.op.inputs, *record.output_names(self.op, signature), *scratch]


class _Prepared:
    """The steps of a call with their records, complete but for the arrays' addresses."""

    def __init__(self, names: list[str], steps: list[Step]) -> None:
        self._steps = [
            (step.entry.call, step.items, *_template(step, names)) for step in steps if step.items
        ]

    def run(self, arrays: Sequence[Any]) -> None:
        """Run all steps on ``arrays``."""
        for call, record_, items in self._filled(arrays):
            if call(record_.buffer_info()[0], 0, items):
                raise RuntimeError(FAILED)

    def bound(self, arrays: Sequence[Any]) -> Callable[[], None]:
        """:meth:`run` for these arrays, which it keeps alive."""
        calls = [
            (call, record_.buffer_info()[0], items, record_, arrays)
            for call, record_, items in self._filled(arrays)
        ]

        def run() -> None:
            for call, record_, items, *_ in calls:
                if call(record_, 0, items):
                    raise RuntimeError(FAILED)

        return run

    def _filled(self, arrays: Sequence[Any]) -> Iterator[tuple[Any, array.array[int], int]]:
        addresses = [0 if a is None else address_of(a) for a in arrays]
        for call, items, template, places in self._steps:
            record_ = array.array("q", template)
            for position, cell in places:
                record_[cell] = addresses[position]
            yield call, record_, items


FAILED = "it raised an exception; call the function by itself to see it"
"""The dispatcher and the interpreter say which kernel of which operator it was."""


def address_of(array_: Array) -> int:
    """Where an array begins; a fifth of the time of ``array.ctypes.data`` for most of them."""
    try:
        # An array is a writable buffer, which its annotations do not say.
        return ctypes.addressof(ctypes.c_char.from_buffer(array_))  # type: ignore[arg-type]
    except (TypeError, ValueError):  # read-only, or without elements
        return int(array_.ctypes.data)


def _template(step: Step, names: list[str]) -> tuple[list[int], list[tuple[int, int]]]:
    """The record without addresses, and which array's address belongs into which cell."""
    empty = step.fill(dict.fromkeys(names, 0))
    places = []
    for position, name in enumerate(names):
        marked = step.fill({**dict.fromkeys(names, 0), name: 1})
        places += [(position, c) for c, value in enumerate(marked) if value != empty[c]]
    return empty, places


@dataclass(frozen=True)
class Borrowed(Part):
    """The phases of another operator as a part of this one.

    Attributes:
        kernel: of the other operator.
        names: its arrays' names, and what they are called here.
        sizes: the sizes of its dimensions, by label.
        params: its parameters.
    """

    kernel: CompiledKernel
    names: Mapping[str, str]
    sizes: Mapping[str, int]
    params: Mapping[str, Any] = field(default_factory=dict)

    def steps(self, call: Call) -> list[Step]:
        """The other operator's steps, with the arrays' names of this one."""
        op = self.kernel.op
        other = Call(
            op,
            op.signatures(self.params)[0],
            self.kernel.workspace,
            self.params,
            self.sizes,
            call.floating,
            frozenset(self.names),
            call.precision,
        )
        return [step.renamed(self.names) for step in self.kernel.steps_of(other)]


class Family:
    """The kernels of one module of the catalogue."""

    def __init__(self) -> None:
        self._kernels: dict[str, CompiledKernel] = {}

    def add(
        self,
        op: str,
        code: Code,
        *,
        over: str | None = None,
        makes: tuple[str, ...] | None = None,
        alternative: int | None = None,
    ) -> None:
        """Declare ``code`` as the next phase of ``op``; see :class:`Phase`.

        Without ``makes`` it runs for the outputs among its parameters.
        """
        kernel = self[op]
        made = _outputs_of(code, kernel.op) if makes is None else makes
        kernel.phases.append(Phase(code, over, made, alternative))

    def workspace(self, op: str, arrays: str) -> None:
        """Declare the scratch of ``op``: arguments of the signature language, each with a name."""
        self[op].workspace = arrays

    def recipe(self, op: str) -> Callable[[Recipe], Recipe]:
        """Let the decorated function choose the phases of ``op``."""

        def add(function: Recipe) -> Recipe:
            self[op].recipe = self[op].written_in = function
            return function

        return add

    def __getitem__(self, name: str) -> CompiledKernel:
        """The kernel of an operator, also one whose phases are not declared yet."""
        if name not in self._kernels:
            self._kernels[name] = CompiledKernel(get_op(name))
        return self._kernels[name]

    @property
    def kernels(self) -> KernelTable:
        """The table for a :class:`~nnkernels.backend.Backend`."""
        table = KernelTable()
        for name, kernel in self._kernels.items():
            table[name] = Kernel(kernel, kernel.workspace, blas=kernel.blas)
        return table


def in_precision(kernels: Mapping[str, Kernel], precision: Precision) -> dict[str, Kernel]:
    """The same compiled kernels, whose float32 products are computed in ``precision``."""
    return {
        name: replace(kernel, function=replace(compiled, precision=precision, _prepared={}))
        for name, kernel in kernels.items()
        if isinstance(compiled := kernel.function, CompiledKernel)
    }


def _outputs_of(code: Code, op: Op[Any, Any]) -> tuple[str, ...]:
    """The outputs among a kernel's parameters."""
    signature = op.signatures(op.params)[0]
    outputs = record.output_names(op, signature)
    return tuple(name for name in code.parameters if name in outputs)
