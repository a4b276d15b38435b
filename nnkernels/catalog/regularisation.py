"""Dropout and penalties on weights."""

from __future__ import annotations

import math

import numpy as np

from nnkernels.catalog import philox
from nnkernels.spec import Array, Cost, Error, op

__all__ = [
    "dropout",
    "dropout_backward",
    "l1_penalty",
    "l1_penalty_backward",
    "l2_penalty",
    "l2_penalty_backward",
]

PROBABILITY = {"p": "[0,1)"}
STRENGTH = {"strength": "[0,inf)"}


def drop_threshold(p: float) -> int:
    """``ceil(p 2**32)``: words below it drop their element; the product is exact."""
    return math.ceil(math.ldexp(p, 32))


def first_element(shape: tuple[int, ...], first_row: int) -> int:
    """Global row-major index of the first element of a part that begins at ``first_row``."""
    return first_row * math.prod(shape[1:])


@op(
    "(...),()counter,()counter->y(...),mask(...)mask",
    error=Error(2),
    cost=Cost(2),
    saves=("mask",),
    limits={**PROBABILITY, "layer": f"[0,{philox.SHUFFLE})", "first_row": "[0,inf)"},
)
def dropout(
    x: Array,
    seed: Array,
    step: Array,
    *,
    p: float = 0.5,
    layer: int = 0,
    first_row: int = 0,
    out: tuple[Array | None, Array | None] | None = None,
) -> tuple[Array, Array]:
    """Drop elements with probability ``p``, scale the others: ``y = x mask / (1 - p)``.

    Shapes: ``x`` of any shape; ``seed`` and ``step`` integers; results ``y`` and ``mask`` (bool,
    True where kept), both like ``x``. NaN and infinity become NaN where dropped.

    The mask is a function of seed, step, layer and place alone, with these bits: let ``e =
    first_row * (elements of a row of x) + (row-major index in x)``, a row being what one index of
    the first dimension selects. Philox4x32-10 with key ``(lo32(seed), hi32(seed))`` and counter
    ``(lo32(e // 4), hi32(e // 4), layer, lo32(step))`` gives four words; element ``e`` is kept
    where word ``e % 4 >= ceil(p * 2**32)``. lo32 and hi32 are the halves of the 64-bit two's
    complement. ``first_row`` is the global row at which a rank's part of the batch begins.

    Source: ``torch.nn.functional.dropout`` (whose masks have other bits); Srivastava et al.
    (2014); :mod:`nnkernels.catalog.philox`.
    """
    start = first_element(x.shape, first_row)
    words = philox.words(start, x.size, layer, int(step), int(seed))
    mask = (words >= drop_threshold(p)).reshape(x.shape)
    return x * mask * (1 / (1 - p)), mask


@dropout.backward(
    signature="(...),(...)mask->(...)", error=Error(2), cost=Cost(2), limits=PROBABILITY
)
def dropout_backward(
    grad: Array, mask: Array, *, p: float = 0.5, out: Array | None = None
) -> Array:
    """``grad mask / (1 - p)``.

    Shapes: ``grad`` and ``mask`` (bool) alike; result like ``grad``.
    """
    return grad * mask * (1 / (1 - p))


@op("(...)->()", error=Error(4), cost=Cost(1), saves=("w",), kinks=(0.0,), limits=STRENGTH)
def l1_penalty(w: Array, *, strength: float = 0.01, out: Array | None = None) -> Array:
    """``strength`` times the sum of ``|w|``: the lasso.

    Shapes: ``w`` of any shape; result (). PyTorch has no such function.

    Source: Goodfellow, Bengio and Courville, Deep Learning, section 7.1.2; the default strength
    is that of ``keras.regularizers.L1``.
    """
    return np.asarray(strength * np.abs(w).sum())


@l1_penalty.backward(signature="(),(...)->(...)", error=Error(2), cost=Cost(2))
def l1_penalty_backward(
    grad: Array, w: Array, *, strength: float = 0.01, out: Array | None = None
) -> Array:
    """``grad strength sign(w)``, 0 at 0.

    Shapes: ``grad`` (), ``w`` of any shape; result like ``w``.
    """
    return grad * strength * np.sign(w)


@op("(...)->()", error=Error(4), cost=Cost(1), saves=("w",), limits=STRENGTH)
def l2_penalty(w: Array, *, strength: float = 0.01, out: Array | None = None) -> Array:
    """``strength`` times the sum of ``w²``, without a factor 1/2: ridge, or Tikhonov.

    Shapes: ``w`` of any shape; result (). PyTorch has no such function; its ``weight_decay = d``
    acts on plain gradient descent like a strength of ``d / 2``.

    Source: Goodfellow, Bengio and Courville, Deep Learning, section 7.1.1; the default strength
    is that of ``keras.regularizers.L2``.
    """
    return np.asarray(strength * np.square(w).sum())


@l2_penalty.backward(signature="(),(...)->(...)", error=Error(2), cost=Cost(1))
def l2_penalty_backward(
    grad: Array, w: Array, *, strength: float = 0.01, out: Array | None = None
) -> Array:
    """``2 grad strength w``.

    Shapes: ``grad`` (), ``w`` of any shape; result like ``w``.
    """
    return 2 * grad * strength * w
