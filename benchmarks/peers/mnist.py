"""Seconds of training on MNIST to a test accuracy: the same network and schedule for all."""

from __future__ import annotations

import contextlib
import itertools
import os
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import nnkernels.data
from benchmarks.peers.catalogue import OURS, Candidate
from benchmarks.peers.problem import Problem, draw_order
from benchmarks.peers.process import Done
from benchmarks.peers.record import Target
from benchmarks.peers.rounds import Effort, Lane, Tell, empty_row, leaving, load, start
from nnkernels.bench.harness.networks import Data, Network
from nnkernels.errors import InputError

VARIABLE = "NNKERNELS_MNIST"
PEERS = ("torch", "jax-loop")
TARGET = 0.98
RATES = (3e-3, 3e-3, 3e-3, 2e-4)
"""Learning rate of every epoch. The last one lifts all candidates from below 97.8 % to above
98.2 %: rounding does not decide who needs an epoch more.
"""

BATCH = 128
WARM_STEPS = 20


def folder() -> Path:
    """Where the data is.

    Raises:
        InputError: the variable names no folder.
    """
    given = os.environ.get(VARIABLE)
    if not given or not Path(given).is_dir():
        found = f"{VARIABLE} is not set" if not given else f"{VARIABLE}={given} is no folder"
        raise InputError(f"--mnist-target: {found}; set it to a folder with MNIST's four IDX files")
    return Path(given)


def choose(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Those that train to a target: ours, and the peers that were the fastest."""
    return [c for c in candidates if c.name in (OURS, *PEERS)]


def problem(path: str, seed: int) -> Problem:
    """MNIST, with weights and orders that ``seed`` draws."""
    data = nnkernels.data.load(Path(path))
    network = Network(
        "mnist",
        (784, 512, 10),
        "relu",
        None,
        "softmax_cross_entropy",
        "adam",
        RATES[0],
        BATCH,
        len(data.x_train),
        1,
    )
    rng = np.random.default_rng(seed)
    pairs = itertools.pairwise(network.layers)
    initial = [
        ((rng.standard_normal((a, b)) * np.sqrt(2 / a)).astype(np.float32), np.zeros(b, np.float32))
        for a, b in pairs
    ]
    order = draw_order(network, len(RATES), seed)
    return Problem(network, Data(data.x_train, None, data.y_train), initial, order)


def accuracy(parameters: Sequence[Any], x: Any, labels: Any) -> float:
    """Share of the rows that weights and biases, of any candidate, classify right."""
    layers = len(parameters) // 2
    for place in range(layers):
        x = x @ parameters[place] + parameters[layers + place]
        if place < layers - 1:
            x = np.maximum(x, 0)
    return float(np.mean(x.argmax(axis=1) == labels))


def measure_targets(
    candidates: Sequence[Candidate], threads: int, seeds: int, effort: Effort, tell: Tell
) -> list[Target]:
    """Train every candidate once for each seed; within a seed, they take turns by epochs."""
    runs = [_Run(candidate, threads) for candidate in candidates]
    path = folder()
    data = nnkernels.data.load(path)
    with contextlib.ExitStack() as stack:
        for run in runs:
            if run.candidate.missing is None:
                with leaving(run.lane):
                    start(run.lane, stack, pinned=True)
        for seed in range(seeds):
            for run in runs:
                tell(f"mnist, seed {seed}: {run.candidate.title} x{threads}")
                run.begin(path, seed, effort.patience)
            for epoch in range(len(RATES)):
                tell(f"mnist, seed {seed}: epoch {epoch + 1}")
                for run in runs:
                    run.train(epoch, data, effort.patience)
            for run in runs:
                run.finish()
    return [run.target for run in runs]


class _Run:
    """A candidate's training for one seed after the other."""

    def __init__(self, candidate: Candidate, threads: int) -> None:
        self.candidate = candidate
        row = empty_row("mnist", "shuffled", candidate, threads)
        self.lane = Lane(candidate, threads, row)
        names = (candidate.label, candidate.title, candidate.kind)
        self.target = Target(*names, threads, row.status, row.reason)
        self._seconds, self._epochs, self._accuracy = 0.0, 0, 0.0

    def begin(self, path: Path, seed: int, patience: float) -> None:
        """Build the candidate anew and warm it up, untimed."""
        self._seconds, self._epochs, self._accuracy = 0.0, 0, 0.0
        with leaving(self.lane):
            if self.lane.process is not None:
                drawn = (f"{problem.__module__}:problem", {"path": str(path), "seed": seed})
                built = load(self.lane, drawn, patience)
                first = self.lane.process.seconds(patience, "run", steps=1)
                self.target.first_s = self.target.first_s or built + first
                self.lane.process.seconds(patience, "run", steps=WARM_STEPS)
                self.lane.process.ask(Done, patience, "reset")

    def train(self, epoch: int, data: Any, patience: float) -> None:
        """One epoch, unless the target has been reached."""
        process = self.lane.process
        if process is None or self._accuracy >= TARGET:
            return
        with leaving(self.lane):
            process.ask(Done, patience, "rate", rate=RATES[epoch])
            steps = len(data.x_train) // BATCH
            self._seconds += process.seconds(patience, "run", steps=steps)
            found = process.ask_arrays(patience, "outputs")
            self._accuracy = accuracy(found, data.x_test, data.y_test)
            self._epochs = epoch + 1

    def finish(self) -> None:
        """Note the seed's result, or why there is none."""
        self.target.status, self.target.reason = self.lane.row.status, self.lane.row.reason
        if self.lane.process is None:
            return
        reached = self._accuracy >= TARGET
        self.target.seconds.append(self._seconds if reached else None)
        self.target.epochs.append(self._epochs if reached else None)
        self.target.accuracy.append(self._accuracy)


def seconds(target: Target) -> float | None:
    """Median over the seeds; None where one was not reached, or there is none."""
    reached = [s for s in target.seconds if s is not None]
    if not reached or len(reached) < len(target.seconds):
        return None
    return statistics.median(reached)


def best_peer(targets: Sequence[Target]) -> tuple[str, float] | None:
    """Title and seconds of the fastest stock peer."""
    found = [(s, t.title) for t in targets if t.kind == "stock" and (s := seconds(t)) is not None]
    return min(found)[::-1] if found else None
