"""Bytes that a training step moves, and the least that it has to.

The floor of a step of fully connected layers with widths ``n0, n1, ...`` and ``b`` rows, of arrays
of ``s`` bytes an element, if whatever a launch reads or writes passes through memory once::

    batch       2 s b n0                          a row is read from the data and written
    products    s (m k + k n + m n) for each of   forward (b, n[i], n[i+1]), the weight's gradient
                                                  (n[i], b, n[i+1]) and, but for the first layer,
                                                  the input's gradient (b, n[i+1], n[i])
    loss        2 s b n[last]                     logits are read, their gradient is written
    update      s p (reads + writes)              of all p weights and biases: 3 + 2 arrays with
                                                  momentum, 4 + 3 with Adam

What a list moves is counted from its arguments: a ``const`` pointer is read, another one is
written, and what an update changes is both. Products are modelled, as above, with what their
epilogues read and write besides. ``test_step_contract`` holds the count against the sectors that
the PTX interpreter saw.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from nnkernels.backends.cupy import sources
from nnkernels.backends.cupy.launching import Launch, Product
from nnkernels.backends.cupy.products import ReluMask

UPDATE_ARRAYS = {"momentum": 3 + 2, "adam": 4 + 3}


def floor(widths: Sequence[int], rows: int, optimizer: str, itemsize: int = 4) -> int:
    """The least bytes of a step; see the module for the formula."""
    layers = list(itertools.pairwise(widths))
    shapes = [(rows, k, n) for k, n in layers]
    shapes += [(k, rows, n) for k, n in layers] + [(rows, n, k) for k, n in layers[1:]]
    products = sum(m * k + k * n + m * n for m, k, n in shapes)
    weights = sum(k * n + n for k, n in layers)
    batch, loss = 2 * rows * widths[0], 2 * rows * widths[-1]
    return itemsize * (batch + products + loss + weights * UPDATE_ARRAYS[optimizer])


def moved(what: Launch | Product) -> int:
    """Bytes that a launch or a product reads and writes."""
    return _by_product(what) if isinstance(what, Product) else _by_launch(what)


def _by_product(product: Product) -> int:
    nbytes = product.a.nbytes + product.b.nbytes + product.out.nbytes
    asked = product.epilogue
    if asked is None:
        return int(nbytes)
    assert asked.kind != "drelu_bias_grad" or isinstance(asked.mask, ReluMask)
    extra = [asked.bias, asked.bias_grad, getattr(asked.mask, "bits", None)]
    return int(nbytes + sum(array.nbytes for array in extra if array is not None))


def _by_launch(launch: Launch) -> int:
    pairs = list(
        zip(
            sources.signatures(launch.module)[launch.kernel].parameters,
            launch.arguments,
            strict=True,
        )
    )
    gathers = launch.kernel.startswith("gather_step")
    return sum(
        _by_argument(launch, parameter.const, array, gathers)
        for parameter, array in pairs
        if parameter.pointer and array is not None
    )


def _by_argument(launch: Launch, const: bool, array: Any, gathers: bool) -> int:
    if gathers and const:
        return _gathered(launch, array)
    both = launch.module == "updates" and not const
    return int(array.nbytes * (2 if both else 1))


def _gathered(launch: Launch, array: Any) -> int:
    """Of what a batch is taken from only its rows are read."""
    rows = launch.arguments[4].shape[0]
    return int(array.nbytes) if array.ndim == 0 else int(array.nbytes // len(array) * rows)
