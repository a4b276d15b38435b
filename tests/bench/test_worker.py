"""The worker's side of the protocol, without a process."""

import io
import json

import numpy as np
import pytest

import nnkernels
from nnkernels.bench.harness import cases, worker
from nnkernels.bench.harness.sweeps import sweep

RELU = next(case for case in cases("quick") if case.workload == "relu")
HELLO = {"do": "hello", "backend": "numpy", "baseline": None, "threads": None}
LOAD = {"do": "load", "preset": "quick", "case": RELU.id}


def converse(*requests: object) -> list[tuple[dict, list[np.ndarray]]]:
    replies = io.BytesIO()
    worker.serve([r if isinstance(r, bytes) else json.dumps(r).encode() for r in requests], replies)
    replies.seek(0)
    return [read(replies, json.loads(line)) for line in iter(replies.readline, b"")]


def read(stream: io.BytesIO, reply: dict) -> tuple[dict, list[np.ndarray]]:
    arrays = []
    for dtype, shape in reply.pop("arrays"):
        count = np.dtype(dtype).itemsize * int(np.prod(shape))
        arrays.append(np.frombuffer(stream.read(count), dtype).reshape(shape))
    return reply, arrays


def test_a_conversation() -> None:
    (hello, _), (load, _), (_, found), (primed, _), (sample, _), (_, again) = converse(
        HELLO,
        LOAD,
        {"do": "check"},
        {"do": "prime", "limit": 0.01},
        {"do": "sample", "loops": 3},
        {"do": "check"},
    )
    assert hello["identity"]["file"] == nnkernels.__file__
    assert hello["identity"] == worker.identify()
    assert hello["device"] == nnkernels.get_backend("numpy").device.name
    assert load == {"note": None, "kinds": ["call"]}
    assert RELU.make().agreement(found).ok
    assert RELU.make().agreement(again).ok
    assert primed["loops"] >= 1
    assert primed["calls"] >= 2
    assert set(sample) == {"seconds", "contended"}
    assert 0 < sample["seconds"] < 1


def test_a_workload_at_any_size() -> None:
    case = sweep("relu[elements]").at(77)
    load = {"do": "load_at", "sweep_id": "relu[elements]", "size": 77}
    _, _, (_, found) = converse(HELLO, load, {"do": "check"})
    assert found[0].shape == (77,)
    assert case.make().agreement(found).ok


@pytest.mark.parametrize(
    ("name", "threads", "expected"),
    [("numpy", None, None), ("numpy", 1, 1), ("numpy(threads=2)", 1, 2)],
)
def test_a_backend_keeps_its_own_number_of_threads(name, threads, expected) -> None:
    ((reply, _),) = converse({**HELLO, "backend": name, "threads": threads})
    assert reply["threads"] == expected


def test_a_baseline() -> None:
    w4 = next(case for case in cases("quick") if case.workload == "W4")
    hello = {**HELLO, "backend": None, "baseline": "textbook", "threads": 1}
    _, _, (_, found) = converse(hello, {**LOAD, "case": w4.id}, {"do": "check"})
    assert w4.make().agreement(found).ok


@pytest.mark.parametrize(
    ("request_", "kind", "message"),
    [
        (b"not JSON", "JSONDecodeError", ""),
        ({"do": "dance"}, "ValueError", "unknown request 'dance'"),
        ({"do": "sample", "loops": 1}, "ValueError", "no workload is loaded"),
        ({"do": "sample"}, "TypeError", "loops"),
        (
            {"do": "limit", "kind": "beauty", "rounds": 1, "budget": 1.0},
            "ValueError",
            "unknown limit 'beauty' of cpu",
        ),
        ({**HELLO, "backend": "nunpy"}, "UnknownNameError", "Did you mean 'numpy'"),
    ],
)
def test_a_bad_request_is_answered_and_the_next_one_too(request_, kind, message) -> None:
    (bad, _), (good, _) = converse(request_, HELLO)
    assert bad["kind"] == kind
    assert message in bad["error"]
    assert "identity" in good


def test_arrays_arrive_as_they_are() -> None:
    arrays = [
        np.float32(3.5).reshape(()),
        np.zeros((0, 3)),
        np.arange(6, dtype="i8").reshape(2, 3).T,
    ]
    stream = io.BytesIO()
    worker.send(stream, {"a": 1}, arrays)
    stream.seek(0)
    reply, found = read(stream, json.loads(stream.readline()))
    assert reply == {"a": 1}
    for got, sent in zip(found, arrays, strict=True):
        np.testing.assert_array_equal(got, sent, strict=True)


def test_slots_are_candidates_of_their_own() -> None:
    first, second = {"slot": "first"}, {"slot": "second"}
    *_, (sample, _), (bad, _) = converse(
        {**HELLO, **first},
        {**LOAD, **first},
        {**HELLO, **second, "backend": None, "baseline": "textbook"},
        {"do": "prime", "limit": 0.0, **first},
        {"do": "sample", "loops": 1, **first},
        {"do": "sample", "loops": 1, **second},
    )
    assert sample["seconds"] > 0
    assert bad["error"] == "no workload is loaded"


def test_workloads_are_told_with_their_tags_and_the_librarys_own_list() -> None:
    ((reply, _),) = converse({"do": "workloads", "preset": "quick"})
    told = [(each["workload"], each["size"], tuple(each["tags"])) for each in reply["known"]]
    assert told == [(case.workload, case.size, case.tags) for case in cases("quick")]
    assert {"matmul", "adam", "W1"} <= set(reply["declared"])


def test_priming_without_a_check_makes_the_first_call() -> None:
    *_, (primed, _) = converse(HELLO, LOAD, {"do": "prime", "limit": 0.0})
    assert primed["calls"] >= 2
    assert primed["compile_s"] >= 0


class Counted:
    """Every call takes a second."""

    calls = 0

    def run(self, loops: int) -> None:
        self.calls += loops


@pytest.mark.parametrize(("loops", "calls"), [(1, 1), (3, 3), (10, 12)])
def test_an_injected_slowdown_is_exact_whatever_the_loops(monkeypatch, loops, calls) -> None:
    server, runner = worker.Server(), Counted()
    server._tracks["call"] = worker.Track(runner)
    monkeypatch.setattr(worker, "take", lambda track, n: (track.runner.run(n) or 1.0, False))
    reply, _ = server.answer({"do": "sample", "loops": loops, "inject": 0.15})
    assert reply["seconds"] == pytest.approx(1.15)
    assert runner.calls == calls
