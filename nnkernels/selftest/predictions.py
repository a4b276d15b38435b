"""How long a training step should take on a GPU: a model, not a measurement.

A step of a network of fully connected layers is 3 products a layer (2 for the first), a softmax
cross-entropy and one Adam update. Each launch takes the longer of computing and moving its bytes,
plus the latency between dependent kernels::

    seconds = max(flops / (rate * EFFICIENCY * use), nbytes / (bandwidth * 0.85)) + latency

``use`` is the part of the GPU's processors that a product's 64 x 64 tiles (split along the inner
dimension by up to 8) occupy. Where everything a step touches fits in 70 % of the second-level
cache, that cache's bandwidth counts. The host adds 8 us for a call of CuPy's own and 4 us for an
eager launch of ours; a graph saves 40 % of the latency. Rates are data-sheet rates, dense.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

TILE, SPLITS, SPLIT_LENGTH = 64, 8, 128
BANDWIDTH_SHARE = 0.85
CACHE_SHARE = 0.7
NAIVE_CALL_S, EAGER_LAUNCH_S = 8e-6, 4e-6
GRAPH_LATENCY_SAVED = 0.4
ADAM_BYTES = 28
"""Bytes a parameter that Adam moves: parameter, gradient and two moments read, three written."""

EFFICIENCY: Mapping[str, float] = {"fp32": 0.75, "tf32": 0.6, "bf16": 0.6, "fp16": 0.6}


class DataSheet(NamedTuple):
    """A GPU's rates in flop/s, bytes/s, bytes and seconds."""

    name: str
    bandwidth: float
    rates: Mapping[str, float]
    cache_bytes: float
    cache_bandwidth: float
    latency_s: float
    processors: int


H100 = DataSheet(
    "H100 SXM",
    3.35e12,
    {"fp32": 67e12, "tf32": 495e12, "bf16": 989e12, "fp16": 989e12},
    50e6,
    5.5e12,
    2.2e-6,
    132,
)
T4 = DataSheet("T4", 320e9, {"fp32": 8.1e12, "fp16": 65e12}, 4e6, 0.9e12, 3.0e-6, 40)
DATA_SHEETS = (H100, T4)

NETWORKS: tuple[tuple[tuple[int, ...], int], ...] = (
    ((784, 512, 512, 10), 128),
    ((784, 512, 512, 10), 1024),
    ((4096, 4096, 4096, 4096), 1024),
)
"""Layer widths and batch of the networks that ``docs/gpu.md`` predicts."""


class Prediction(NamedTuple):
    """Seconds of one training step.

    Attributes:
        floor: of arithmetic and memory alone.
        naive: with one CuPy call an operation.
        eager: with our fused kernels, launched one by one.
        graph: the same as one CUDA graph.
    """

    floor: float
    naive: float
    eager: float
    graph: float


class Work(NamedTuple):
    """One launch of the model: a product of (m, k) by (k, n), or bytes to move where m is 0."""

    m: int
    n: int
    k: int
    nbytes: float = 0.0

    @property
    def flops(self) -> float:
        """Multiplications and additions."""
        return 2.0 * self.m * self.n * self.k

    @property
    def moved(self) -> float:
        """Bytes: arrays are float32 in every precision."""
        return self.nbytes + 4.0 * (self.m * self.k + self.k * self.n + self.m * self.n)


def predict(sheet: DataSheet, layers: Sequence[int], batch: int, precision: str) -> Prediction:
    """The time of a training step on a GPU; see the module for the formula."""
    work, parameters = _step(layers, batch)
    touched = parameters * 16 + batch * sum(layers) * 8
    fast = touched < CACHE_SHARE * sheet.cache_bytes
    bandwidth = sheet.cache_bandwidth if fast else sheet.bandwidth
    device = sum(_seconds(sheet, w, precision, bandwidth) for w in work)
    flops, moved = sum(w.flops for w in work), sum(w.moved for w in work)
    naive = naive_calls(layers)
    extra = (batch * sum(layers[1:-1]) * 4 * 9 + parameters * 160) / sheet.bandwidth
    unfused = device + (naive - len(work)) * sheet.latency_s + extra
    saved = len(work) * sheet.latency_s * GRAPH_LATENCY_SAVED
    return Prediction(
        max(flops / sheet.rates[precision], moved / bandwidth),
        max(naive * NAIVE_CALL_S, unfused),
        max(len(work) * EAGER_LAUNCH_S, device),
        max(5e-6, device - saved),
    )


def naive_calls(layers: Sequence[int]) -> int:
    """Calls of a step written with one CuPy operation after the other."""
    count = len(layers) - 1
    forward, loss, backward, update = 3 * count - 1, 8 + 3, 5 * count - 2, 14 * 2 * count
    return forward + loss + backward + update


def _step(layers: Sequence[int], batch: int) -> tuple[list[Work], int]:
    pairs = list(itertools.pairwise(layers))
    parameters = sum(k * n + n for k, n in pairs)
    forward = [Work(batch, n, k) for k, n in pairs]
    loss = Work(0, 0, 0, batch * layers[-1] * 8)
    weights = [Work(k, n, batch) for k, n in pairs]
    inputs = [Work(batch, k, n) for k, n in pairs[1:]]
    update = Work(0, 0, 0, parameters * ADAM_BYTES)
    return [*forward, loss, *weights, *inputs, update], parameters


def _seconds(sheet: DataSheet, work: Work, precision: str, bandwidth: float) -> float:
    moving = work.moved / (bandwidth * BANDWIDTH_SHARE)
    if not work.m:
        return moving + sheet.latency_s
    tiles = -(-work.m // TILE) * -(-work.n // TILE)
    splits = max(1, min(SPLITS, work.k // SPLIT_LENGTH))
    use = min(1.0, tiles * splits / sheet.processors)
    computing = work.flops / (sheet.rates[precision] * EFFICIENCY[precision] * use)
    return max(computing, moving) + sheet.latency_s
