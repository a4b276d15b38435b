"""The parent's side: whatever a worker does, it is noticed, told, and nothing is left."""

import contextlib
import os
import signal
import time
from pathlib import Path

import psutil
import pytest

from nnkernels.bench import harness, workers
from nnkernels.bench.workers import (
    CandidateError,
    Greeting,
    Loaded,
    Worker,
    WorkerHungError,
    WorkerLostError,
)

RELU = next(case for case in harness.cases("quick") if case.workload == "relu")
SOON = 30.0


def session_members(leader: int) -> list[int]:
    """Processes of the session that ``leader`` led, itself too, that still run."""
    found = []
    for process in psutil.process_iter():
        try:
            if os.getsid(process.pid) == leader and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
        except (ProcessLookupError, psutil.NoSuchProcess):
            continue
    return found


def left_over(leader: int) -> list[int]:
    """Members that remain: who was killed needs a moment to be gone."""
    deadline = time.monotonic() + 5
    while (found := session_members(leader)) and time.monotonic() < deadline:
        time.sleep(0.01)
    return found


def open_pipes() -> int:
    return len(list(Path("/dev/fd").iterdir()))


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    before = open_pipes()
    made = Worker()
    yield made
    made.close()
    assert left_over(made.pid) == []
    assert open_pipes() == before


def hello(worker: Worker, kernel: str | None = None) -> Greeting:
    name = f"numpy[relu=planted_kernels:{kernel}]" if kernel else "numpy"
    return worker.ask(Greeting, SOON, "hello", backend=name, baseline=None, threads=1)


def check(worker: Worker, kernel: str | None, seconds: float = SOON) -> list[object]:
    hello(worker, kernel)
    worker.ask(Loaded, SOON, "load", preset="quick", case=RELU.id)
    return worker.ask_arrays(seconds, "check")


def test_a_worker_runs_the_same_library_in_a_session_of_its_own(worker: Worker) -> None:
    assert hello(worker).identity == harness.identify()
    assert os.getsid(worker.pid) == worker.pid != os.getsid(0)
    assert RELU.make().agreement(check(worker, "right")).ok


def test_an_exception_is_told_and_the_worker_lives_on(worker: Worker) -> None:
    with pytest.raises(CandidateError, match="lost") as caught:
        check(worker, "broken")
    assert caught.value.kind == "RuntimeError"
    assert hello(worker).device


def test_a_kernel_that_exits_is_told(worker: Worker) -> None:
    with pytest.raises(CandidateError, match="enough") as caught:
        check(worker, "leaving")
    assert caught.value.kind == "SystemExit"


@pytest.mark.parametrize(
    ("kernel", "message"),
    [
        ("crashing", "ended with exit code 7"),
        ("killed", "killed by SIGKILL"),
        ("garbling", "answered garbage"),
        ("claiming", "announced an array of '|O'"),
        ("having_children", "ended with exit code 7"),
    ],
)
def test_a_lost_worker_is_told_and_leaves_nothing(worker: Worker, kernel, message) -> None:
    with pytest.raises(WorkerLostError, match=message.replace("|", r"\|")):
        check(worker, kernel)
    assert left_over(worker.pid) == []
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(worker._replies)


@pytest.mark.parametrize("kernel", ["hanging", "holding"])
def test_a_hang_is_ended_at_its_deadline(worker: Worker, kernel: str) -> None:
    with pytest.raises(WorkerHungError, match=r"no answer within 0\.3 s"):
        check(worker, kernel, 0.3)
    assert left_over(worker.pid) == []


def test_programs_that_a_kernel_started_end_with_the_worker(worker: Worker) -> None:
    check(worker, "starting_programs")
    assert len(session_members(worker.pid)) > 1
    worker.close()
    assert left_over(worker.pid) == []


def test_a_worker_that_is_killed_between_two_requests(worker: Worker) -> None:
    hello(worker)
    os.kill(worker.pid, signal.SIGKILL)
    with pytest.raises(WorkerLostError, match="killed by SIGKILL"):
        hello(worker)


def test_what_a_kernel_prints_is_no_reply(capfd, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    with contextlib.closing(Worker()) as worker:  # here: a fixture's would have other files
        assert RELU.make().agreement(check(worker, "printing")).ok
    out, err = capfd.readouterr()
    assert out == ""
    assert "noise from a kernel" in err


@pytest.mark.parametrize("kernel", [None, "holding"])
def test_a_worker_ends_when_its_parent_does(worker: Worker, kernel: str | None) -> None:
    hello(worker, kernel)
    worker.ask(Loaded, SOON, "load", preset="quick", case=RELU.id)
    if kernel:
        worker.send("check")
        time.sleep(0.1)
    worker._close_pipes()  # as the kernel does for a parent that is killed
    assert worker._process.wait(SOON) in (0, -signal.SIGIO)


def test_a_process_that_cannot_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    before = open_pipes()
    monkeypatch.setattr(workers.sys, "executable", "/nonexistent/python")
    with pytest.raises(WorkerLostError, match="cannot be started: No such file"):
        Worker()
    assert open_pipes() == before


class Talker(Worker):
    """A worker whose process says what the test wants."""

    def __init__(self, line: bytes) -> None:
        self._replies, end = os.pipe()
        self._requests = os.open(os.devnull, os.O_WRONLY)
        os.write(end, line)
        self._buffer, self._open = bytearray(), [self._replies, self._requests, end]
        self._process = workers.subprocess.Popen(["sleep", "60"], start_new_session=True)


@pytest.mark.parametrize(
    "line",
    [
        b"\xff\xfe\n",
        b"[]\n",
        b"{}\n",
        b"[" * 50_000 + b"\n",
        b'{"note": 3, "arrays": []}\n',
        b'{"note": "", "arrays": [["<f4", [1]]]}\n',
    ],
)
def test_replies_that_are_garbage(line: bytes) -> None:
    talker = Talker(line)
    with pytest.raises(WorkerLostError, match="garbage"):
        talker.ask(Loaded, SOON, "load")
    assert left_over(talker.pid) == []


@pytest.mark.parametrize(
    "arrays",
    [
        [["<f4", [-1]]],
        [["f99", [1]]],
        [["<f4", [1 << 40]]],
        [["<f4"]],
        [[4, [1]]],
        None,
    ],
)
def test_arrays_that_are_garbage(arrays: object) -> None:
    talker = Talker(workers.json.dumps({"arrays": arrays}).encode() + b"\n")
    with pytest.raises(WorkerLostError, match=r"garbage|announced"):
        talker.ask_arrays(SOON, "check")


def test_a_line_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "MAX_LINE", 100)
    with pytest.raises(WorkerLostError, match="garbage"):
        Talker(b"x" * 200).ask(Loaded, SOON, "load")
