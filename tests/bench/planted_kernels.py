"""Kernels with faults: imported by worker processes only."""

import os
import re
import signal
import subprocess
import sys
import time

import numpy as np

calls = 0


def right(x, *, out):
    np.maximum(x, 0, out=out)


def wrong(x, *, out):
    """Wrong, and gone when it is called again."""
    global calls
    calls += 1
    if calls > 1:
        os._exit(9)
    np.maximum(x, 0, out=out)
    out[0, 7] += 1


def unwritten(x, *, out):
    """Leaves the last element as it was."""
    np.maximum(x.ravel()[:-1], 0, out=out.reshape(-1)[:-1])


def half(a, b, *, transpose_a, transpose_b, out):
    """A product that adds up in float16."""
    out[...] = np.matmul(a.astype(np.float16), b.astype(np.float16))


def compiling(x, *, out):
    """Takes a second longer when it is called first."""
    global calls
    calls += 1
    if calls == 1:
        time.sleep(1)
    right(x, out=out)


def blas_threads():
    from threadpoolctl import threadpool_info

    return max(p["num_threads"] for p in threadpool_info() if p["user_api"] == "blas")


def crowding(x, *, out):
    """Slower with more threads."""
    time.sleep(0.004 * blas_threads())
    right(x, out=out)


def scaling(x, *, out):
    """Faster with more threads."""
    time.sleep(0.02 / blas_threads())
    right(x, out=out)


def wrong_with_two(x, *, out):
    right(x, out=out)
    if blas_threads() == 2:
        out[0, 7] += 1


def tiring(x, *, out):
    global calls
    calls += 1
    np.maximum(x, 0 if calls < 3 else 1, out=out)


def broken(x, *, out):
    raise RuntimeError("lost /home/ann/kernel.so")


def leaving(x, *, out):
    sys.exit("enough")


def crashing(x, *, out):
    os._exit(7)


def crashing_later(x, *, out):
    """Ends the process well after priming has begun."""
    global calls
    calls += 1
    right(x, out=out)
    if calls > 20_000:
        os._exit(7)


def killed(x, *, out):
    os.kill(os.getpid(), signal.SIGKILL)


def hanging(x, *, out):
    time.sleep(600)


def holding(x, *, out):
    """Hangs without ever giving up the GIL."""
    re.match("(a+)+$", "a" * 64 + "b")


def having_children(x, *, out):
    """Leaves a child that holds the pipes, and dies."""
    if os.fork() == 0:
        time.sleep(600)
    os._exit(7)


def starting_programs(x, *, out):
    subprocess.Popen(["sleep", "600"])
    right(x, out=out)


def printing(x, *, out):
    print("noise from a kernel")
    right(x, out=out)


def garbling(x, *, out):
    """Writes into the pipe of the replies."""
    os.write(int(sys.argv[2]), b"{]\n")


def claiming(x, *, out):
    """Announces what is no array."""
    os.write(int(sys.argv[2]), b'{"arrays": [["|O", [1]]]}\n')


def keeping(x, *, out):
    """Computes only where nothing was computed yet."""
    if np.isnan(out.flat[0]):
        np.maximum(x, 0, out=out)


def slow(x, *, out):
    for _ in range(3):
        np.maximum(x, np.float32(0), out=out)
