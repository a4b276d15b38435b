"""Kernels of known cost, on a clock of their own: imported by worker processes only."""

import time

import numpy as np

now = 0.0


def perf_counter():
    return now


time.perf_counter = perf_counter


def spend(start, each, x, out):
    global now
    now += start + each * x.size
    np.maximum(x, 0, out=out)


def quick_start(x, *, out):
    spend(10e-6, 4e-9, x, out)


def slow_start(x, *, out):
    """Breaks even with ``quick_start`` at 100,000 elements."""
    spend(210e-6, 2e-9, x, out)


def best(x, *, out):
    spend(5e-6, 1e-9, x, out)


def best_until_it_is_wrong(x, *, out):
    spend(5e-6, 1e-9, x, out)
    out.flat[0] += x.size > 1000
