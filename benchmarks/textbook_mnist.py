"""The textbook's MNIST network, epoch for epoch, beside the textbook's own NumPy code.

    env -u OPENBLAS_CORETYPE -u OPENBLAS_L2_SIZE python -m benchmarks.textbook_mnist --threads 1

Both train 784-64-32-10 with sigmoids and squared error on all 60,000 digits, batch 30, taking turns
epoch by epoch in one process, in float64 and float32; the medians' ratio says how many times as
fast `nnkernels reproduce --full` goes through its 500 epochs. The weights are compared first.
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import sys
import time

import numpy as np
from threadpoolctl import threadpool_limits

import nnkernels.data
from nnkernels.bench.harness.networks import Network
from nnkernels.bench.harness.textbook import TextbookNetwork
from nnkernels.data import Dataset
from nnkernels.errors import NnkernelsError
from nnkernels.nn import MLP, Callback, Epoch, Trainer

LAYERS, BATCH, RATE = (784, 64, 32, 10), 30, 0.03
NETWORK = Network(
    "textbook", LAYERS, "sigmoid", "sigmoid", "sum_squared_error", "sgd", RATE, BATCH, 60000, 1
)
AGREEMENT = {"float32": 2e-4, "float64": 1e-10}
"""Largest difference of a weight after the first epoch, relative to the largest weight."""


class Pair:
    """The two trainers of one dtype, from equal weights."""

    def __init__(self, data: Dataset, dtype: str, backend: str, threads: int) -> None:
        self.x = np.ascontiguousarray(data.x_train)
        self.y = np.eye(10, dtype=dtype)[data.y_train]
        rng = np.random.default_rng(42)
        shapes = list(itertools.pairwise(LAYERS))
        first = [(rng.standard_normal(s), rng.standard_normal(s[1])) for s in shapes]
        self.textbook = TextbookNetwork(NETWORK, first, dtype)
        arrays = {}
        for layer, (weight, bias) in enumerate(first):
            arrays |= {f"linear{2 * layer}.weight": weight, f"linear{2 * layer}.bias": bias}
        model = MLP(
            LAYERS,
            activation="sigmoid",
            output_activation="sigmoid",
            loss="sum_squared_error",
            dtype=dtype,
            parameters=arrays,
        )
        chosen = nnkernels.get_backend(backend, threads=threads)
        self.trainer = Trainer(model, learning_rate=RATE, backend=chosen, metrics=())

    def textbook_epoch(self) -> float:
        """Seconds of an epoch of the textbook's code."""
        began = time.perf_counter()
        with np.errstate(all="ignore"):
            for start in range(0, len(self.x), BATCH):
                rows = slice(start, start + BATCH)
                self.textbook.step(self.x[rows], self.y[rows])
        return time.perf_counter() - began

    def take_turns(self, rounds: int) -> list[tuple[float, float]]:
        """Seconds of an epoch of the textbook's and of ours, by round, in one ``fit`` of ours."""
        turns = _Turns(self)
        self.trainer.fit(
            self.x,
            self.y,
            epochs=rounds,
            batch_size=BATCH,
            shuffle=False,
            callbacks=[turns],
            progress=False,
        )
        return list(zip(turns.textbook, turns.ours, strict=True))

    def difference(self) -> float:
        """Largest difference between both trainers' weights."""
        ours = [v for k, v in self.trainer.weights().items() if k.endswith("weight")]
        pairs = zip(ours, self.textbook.weights, strict=True)
        return max(float(np.abs(a - b).max() / np.abs(b).max()) for a, b in pairs)


class _Turns(Callback):
    """After each of our epochs, one of the textbook's."""

    def __init__(self, pair: Pair) -> None:
        self.pair = pair
        self.ours: list[float] = []
        self.textbook: list[float] = []

    def epoch_end(self, trainer: Trainer, record: Epoch) -> None:
        """Note the one, run the other."""
        self.ours.append(record.seconds)
        self.textbook.append(self.pair.textbook_epoch())


def measure(pair: Pair, dtype: str, rounds: int) -> str:
    """A line with medians and their ratio, or why there are none."""
    pair.take_turns(1)
    if not (difference := pair.difference()) <= AGREEMENT[dtype]:
        raise SystemExit(f"{dtype}: weights differ by {difference:.2g} after an epoch; not timed")
    times = pair.take_turns(rounds)
    textbook, ours = (statistics.median(column) for column in zip(*times, strict=True))
    ratios = sorted(a / b for a, b in times)
    return (
        f"{dtype}: textbook {textbook * 1e3:.0f} ms, ours {ours * 1e3:.1f} ms an epoch; "
        f"{textbook / ours:.2f} times as fast ({ratios[0]:.2f} to {ratios[-1]:.2f}), "
        f"weights after one epoch within {difference:.1g}"
    )


def main(arguments: list[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser("python -m benchmarks.textbook_mnist", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--backend", default="numba", metavar="NAME", help="default: numba")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="default: 1")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="epochs of each; 5")
    parser.add_argument(
        "--mnist", default=os.environ.get("NNKERNELS_MNIST"), metavar="DIR", help="the IDX files"
    )
    given = parser.parse_args(arguments)
    if given.rounds < 1 or given.threads < 1:
        parser.error("--rounds and --threads must be 1 or more")
    if not given.mnist:
        parser.error("give the folder of MNIST's files by --mnist DIR or NNKERNELS_MNIST")
    try:
        for dtype in AGREEMENT:
            data = nnkernels.data.load("mnist", directory=given.mnist, dtype=dtype)
            with threadpool_limits(given.threads):
                print(measure(Pair(data, dtype, given.backend, given.threads), dtype, given.rounds))
    except NnkernelsError as error:
        parser.error(str(error))
    return 0


if __name__ == "__main__":
    sys.exit(main())
