"""Which pieces of a step become one launch or product.

Everything is found by what the pieces do and who else uses their results; whether pieces may come
together is decided by the memory that they touch (:mod:`.partition`). A dropout that reads the
step's number after the loss, for example, keeps the tick out of the loss's launch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from nnkernels.backends.cupy.kernels import linear, step
from nnkernels.backends.cupy.steps.groups import (
    EPILOGUES,
    Gather,
    Group,
    Guard,
    Head,
    Layer,
    Move,
    Single,
    Slope,
    WeightGradient,
)
from nnkernels.backends.cupy.steps.partition import Partition
from nnkernels.backends.cupy.steps.pieces import GUARD, PUT, TAKE, Piece, Pieces
from nnkernels.program.format import ARENA, CONSTANT, INPUT

RELU_BACKWARD = "relu_backward"
LOSS, LOSS_BACKWARD = "softmax_cross_entropy", "softmax_cross_entropy_backward"

_DERIVATIVES = frozenset(f"{activation}_backward" for activation in linear.WITH_SUMS)


def fuse(pieces: Pieces, *, epilogues: bool) -> list[Group]:
    """The groups of a step, in an order in which they may run.

    Args:
        pieces: the step.
        epilogues: whether products add biases, take relus and sum gradients on the way.
    """
    web = _Web(pieces)
    found = [*_heads(web, epilogues), *_gathers(web), *_layers(web, epilogues)]
    masked = {g.result for g in found if isinstance(g, Layer) and g.masked}
    found += _slopes(web, masked)
    if epilogues:
        found += _weight_gradients(web)
    by_piece = {piece: group for group in found for piece in group.pieces}
    return [
        by_piece.get(pieces.pieces[numbers[0]]) or _single(pieces.pieces[numbers[0]])
        for numbers in web.partition.ordered()
    ]


def _single(piece: Piece) -> Group:
    kind = {GUARD: Guard, TAKE: Move, PUT: Move}.get(piece.op, Single)
    return kind((piece,))


class _Web:
    """Pieces with who writes and who reads a slot, and the groups so far."""

    def __init__(self, pieces: Pieces) -> None:
        self.step, self.pieces = pieces, pieces.pieces
        self.slots = pieces.program.slots
        self.partition = Partition(self.pieces)
        self.guarded = pieces.program.guard is not None
        self._numbers = {piece: number for number, piece in enumerate(self.pieces)}
        self._wanted = {*pieces.program.outputs.values(), pieces.program.guard}
        self._readers: dict[int, list[Piece]] = {}
        self._writers: dict[int, list[Piece]] = {}
        for piece in self.pieces:
            for slot in dict.fromkeys(piece.inputs):
                self._readers.setdefault(slot, []).append(piece)
            for output in piece.outputs:
                if output is not None:
                    self._writers.setdefault(output, []).append(piece)

    def of(self, op: str) -> Iterator[Piece]:
        """The pieces of an operator that are in no group yet."""
        return (p for p in self.pieces if p.op == op and self.free(p))

    def free(self, piece: Piece) -> bool:
        """Whether a piece is in no group yet."""
        return self.partition.alone(self._numbers[piece])

    def join(self, *pieces: Piece) -> bool:
        """Put pieces together, if their memory allows that."""
        return self.partition.merge(self._numbers[piece] for piece in pieces)

    def readers(self, slot: int | None, op: str = "") -> list[Piece]:
        """The pieces that read a slot, all or those of one operator."""
        found = [] if slot is None else self._readers.get(slot, [])
        return [piece for piece in found if op in ("", piece.op)]

    def writer(self, slot: int) -> Piece | None:
        """The free piece that alone writes a slot."""
        writers = self._writers.get(slot, [])
        return writers[0] if len(writers) == 1 and self.free(writers[0]) else None

    def source(self, slot: int, op: str) -> Piece | None:
        """The free piece of an operator that alone writes a slot."""
        writer = self.writer(slot)
        return writer if writer is not None and writer.op == op else None

    def own(self, slot: int | None, group: Iterable[Piece]) -> bool:
        """Whether nobody but a group uses a slot of scratch."""
        if slot is None or slot in self._wanted or self.slots[slot].buffer != ARENA:
            return False
        users = {*self._readers.get(slot, ()), *self._writers.get(slot, ())}
        return users <= set(group)

    def hidden(self, group: Iterable[Piece], *results: int | None) -> frozenset[int]:
        """The slots of scratch that nobody but a group uses, except for what it must write."""
        pieces = list(group)
        own = {slot for piece in pieces for slot in piece.slots if self.own(slot, pieces)}
        return frozenset(own - set(results))


# --- the batch -----------------------------------------------------------------------------------


def _gathers(web: _Web) -> Iterator[Gather]:
    """Rows of the data and of the targets by one order, then windows of both."""
    for x in list(web.of("gather_rows")):
        take = web.source(x.inputs[1], TAKE)
        for targets in web.readers(x.inputs[1], "gather_rows"):
            if take is not None and _is_batch(web, x, targets):
                pieces = (take, x, targets)
                if web.own(x.inputs[1], pieces) and web.join(*pieces):
                    yield _gather(web, pieces, x, targets, take.inputs[0])
                    break
    windows = list(web.of(TAKE))
    for x, targets in ((x, targets) for x in windows for targets in windows):
        free = web.free(x) and web.free(targets)
        if free and _is_batch(web, x, targets) and web.join(x, targets):
            yield _gather(web, (x, targets), x, targets, None)


def _is_batch(web: _Web, x: Piece, targets: Piece) -> bool:
    """Whether two pieces fetch rows of two inputs: numbers, and numbers or labels for them."""
    first, second = (web.slots[piece.inputs[0]] for piece in (x, targets))
    if first == second or not first.buffer == second.buffer == INPUT:
        return False
    dtype = web.step.program.dtype
    numbers = [len(slot.shape) == 2 and slot.dtype == dtype for slot in (first, second)]
    labels = len(second.shape) == 1 and second.dtype == "int64"
    return numbers[0] and (numbers[1] or labels)


def _gather(
    web: _Web, pieces: tuple[Piece, ...], x: Piece, targets: Piece, order: int | None
) -> Gather:
    out = x.result, targets.result
    data = x.inputs[0], targets.inputs[0]
    return Gather(pieces, *data, order, web.step.row, out, hidden=web.hidden(pieces, *out))


# --- layers --------------------------------------------------------------------------------------


def _layers(web: _Web, epilogues: bool) -> Iterator[Layer]:
    for bias in list(web.of("bias_add")):
        product = web.source(bias.inputs[0], "matmul")
        if product is None or not web.own(bias.inputs[0], (product, bias)):
            continue
        activation = _activation(web, product, bias)
        if activation is not None or web.join(product, bias):
            yield _layer(web, product, bias, activation, epilogues)


def _activation(web: _Web, product: Piece, bias: Piece) -> Piece | None:
    """The activation that joins a product and its bias."""
    for reader in web.readers(bias.outputs[0]):
        fits = reader.inputs == bias.outputs and reader.op in linear.WITH_BIAS
        if fits and web.free(reader) and web.join(product, bias, reader):
            return reader
    return None


def _layer(
    web: _Web, product: Piece, bias: Piece, activation: Piece | None, epilogues: bool
) -> Layer:
    pieces = (product, bias) if activation is None else (product, bias, activation)
    hidden = web.hidden(pieces, pieces[-1].result)
    kind = EPILOGUES.get("identity" if activation is None else activation.op)
    whole = epilogues and kind is not None and {bias.result} <= {*hidden, pieces[-1].result}
    derivatives = web.readers(pieces[-1].result, RELU_BACKWARD) if kind == "bias_relu" else []
    return Layer(
        pieces,
        product,
        bias,
        activation,
        epilogue=kind if whole else None,
        masked=whole and any(_around(web, each) for each in derivatives),
        hidden=hidden,
    )


def _around(web: _Web, derivative: Piece) -> tuple[Piece, Piece] | None:
    """The product before a derivative and the column sums behind it, where these are its own."""
    grad = derivative.inputs[0]
    product = web.source(grad, "matmul")
    sums = web.readers(derivative.outputs[0], "bias_grad")
    if not sums or product is None or not web.own(grad, (product, derivative)):
        return None
    return product, sums[0]


def _slopes(web: _Web, masked: set[int]) -> Iterator[Slope]:
    """Derivatives with column sums; ``masked`` are the relus' outputs that have bit masks."""
    for sums in list(web.of("bias_grad")):
        derivative = web.writer(sums.inputs[0])
        if derivative is None or derivative.op not in _DERIVATIVES:
            continue
        around = _around(web, derivative)
        if around is not None and web.join(around[0], derivative, sums):
            pieces = (around[0], derivative, sums)
            hidden = web.hidden(pieces, derivative.result)
            by_mask = derivative.op == RELU_BACKWARD and derivative.inputs[1] in masked
            yield Slope(pieces, around[0], derivative, sums, by_mask, hidden=hidden)
        elif web.join(derivative, sums):
            yield Slope((derivative, sums), None, derivative, sums)


def _weight_gradients(web: _Web) -> Iterator[WeightGradient]:
    for sums in list(web.of("bias_grad")):
        for product in web.readers(sums.inputs[0], "matmul"):
            summed = product.inputs[1] == sums.inputs[0]
            plain = not product.instruction.params["transpose_b"]
            if summed and plain and web.free(product) and web.join(product, sums):
                yield WeightGradient((product, sums), product, sums)
                break


# --- the head ------------------------------------------------------------------------------------


def _heads(web: _Web, epilogues: bool) -> Iterator[Head]:
    for loss in list(web.of(LOSS)):
        if loss.outputs[0] is not None:
            yield _head(web, loss, epilogues)


def _head(web: _Web, loss: Piece, epilogues: bool) -> Head:
    others: dict[str, Piece] = {}

    def add(piece: Piece | None, *further: Piece) -> bool:
        """Let the head do a piece, too, and those that only this one needs."""
        if piece is None or piece.op in others or not all(map(web.free, (piece, *further))):
            return False
        if not web.join(loss, *others.values(), piece, *further):
            return False
        others.update({each.op: each for each in (*further, piece)})
        return True

    if not epilogues:
        add(web.source(loss.inputs[0], "bias_add"))
    if add(_derivative(web, loss)):
        add(_sums_of(web, others[LOSS_BACKWARD]))
    if add(next(iter(web.readers(loss.outputs[0], GUARD)), None)) or not web.guarded:
        for entry in _bookkeeping(web, loss):
            add(*entry)
    pieces = (loss, *others.values())
    written = [piece.outputs[0] for piece in pieces if piece.op in (LOSS, LOSS_BACKWARD)]
    return Head(pieces, loss, others, hidden=web.hidden(pieces, *written))


def _derivative(web: _Web, loss: Piece) -> Piece | None:
    """The loss's derivative, of the gradient 1."""
    for piece in web.readers(loss.outputs[1], LOSS_BACKWARD):
        grad = web.slots[piece.inputs[0]]
        one = grad.buffer == CONSTANT and grad.value == 1
        same = piece.instruction.params == loss.instruction.params
        if one and same and piece.inputs[2] == loss.inputs[1]:
            return piece
    return None


def _sums_of(web: _Web, derivative: Piece) -> Piece | None:
    """The bias gradient, where the head is a good place for it."""
    if not step.sums_bias_grad(*web.slots[derivative.result].shape):
        return None
    return next(iter(web.readers(derivative.result, "bias_grad")), None)


def _bookkeeping(web: _Web, loss: Piece) -> Iterator[tuple[Piece, ...]]:
    """What the State keeps of a step, each with the pieces that only it needs."""
    for total in list(web.of("accumulate")):
        if total.inputs[1] == loss.outputs[0]:
            yield (total,)
    for total in list(web.of("count")):
        hits = web.source(total.inputs[1], "count_correct")
        if hits is not None and _are_hits(web, loss, hits):
            yield total, hits
    for op in ("tick", "advance"):
        yield from ((piece,) for piece in list(web.of(op)))


def _are_hits(web: _Web, loss: Piece, piece: Piece) -> bool:
    """Whether a piece counts the rows that the head counts: by the largest of several columns."""
    several = web.slots[loss.inputs[0]].shape[1] > 1 or len(web.slots[loss.inputs[1]].shape) == 1
    counted = web.own(piece.outputs[0], (piece, *web.readers(piece.outputs[0], "count")))
    return piece.op == "count_correct" and piece.inputs == loss.inputs and several and counted
