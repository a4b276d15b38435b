"""Training to a target accuracy, on a data set of a few rows."""

import struct
from pathlib import Path

import numpy as np
import pytest

from benchmarks.peers import catalogue, mnist, rounds
from benchmarks.peers.candidates.ours import Ours
from benchmarks.peers.problem import draw
from benchmarks.peers.record import Target

EFFORT = rounds.Effort(rounds=1, seconds=0.001, patience=60.0)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    rng = np.random.default_rng(0)
    for part, rows in (("train", 256), ("t10k", 100)):
        images = rng.integers(0, 256, (rows, 28, 28), np.uint8)
        header = struct.pack(">4B3I", 0, 0, 8, 3, rows, 28, 28)
        (tmp_path / f"{part}-images-idx3-ubyte").write_bytes(header + images.tobytes())
        labels = (np.arange(rows) % 10).astype(np.uint8)
        header = struct.pack(">4BI", 0, 0, 8, 1, rows)
        (tmp_path / f"{part}-labels-idx1-ubyte").write_bytes(header + labels.tobytes())
    monkeypatch.setenv(mnist.VARIABLE, str(tmp_path))
    return tmp_path


def test_what_is_not_reached_has_no_time(folder: Path) -> None:
    absent = catalogue.Candidate("torch", "PyTorch", "nowhere:Nothing", missing="not here")
    candidates = [catalogue.own("numpy"), absent]
    ours, peer = mnist.measure_targets(candidates, 1, 2, EFFORT, lambda text: None)
    assert (ours.status, ours.seconds, ours.epochs) == ("ok", [None, None], [None, None])
    assert len(ours.accuracy) == 2
    assert mnist.seconds(ours) is None
    assert (peer.status, peer.reason, peer.seconds) == ("missing", "not here", [])
    assert mnist.best_peer([ours, peer]) is None


def test_the_best_peer_is_a_stock_one() -> None:
    targets = [
        Target("nnkernels", "ours", "ours", 2, seconds=[1.0]),
        Target("torch", "slow", "stock", 2, seconds=[3.0, 9.0, 4.0]),
        Target("jax-loop", "fast", "stock", 2, seconds=[2.0]),
    ]
    assert mnist.best_peer(targets) == ("fast", 2.0)
    assert mnist.seconds(targets[1]) == 4.0


def test_accuracy_is_the_share_of_the_rows() -> None:
    parameters = [np.eye(2), np.eye(2), np.zeros(2), np.array([0.0, 0.5])]
    x = np.array([[1.0, 0.0], [0.0, 1.0], [0.2, 0.0], [3.0, 1.0]])
    assert mnist.accuracy(parameters, x, np.array([0, 1, 0, 0])) == 0.75


def test_reset_starts_again_and_the_rate_is_heeded() -> None:
    trainer = Ours(draw("W4", quick=True, shuffled=True), 1, "numpy")
    initial = trainer.outputs()
    trainer.run(7)
    first = trainer.outputs()
    trainer.reset()
    for a, b in zip(trainer.outputs(), initial, strict=True):
        np.testing.assert_array_equal(a, b)
    trainer.run(7)
    for a, b in zip(trainer.outputs(), first, strict=True):
        np.testing.assert_array_equal(a, b)
    trainer.set_rate(0.0)
    trainer.run(1)
    for a, b in zip(trainer.outputs(), first, strict=True):
        np.testing.assert_array_equal(a, b)
