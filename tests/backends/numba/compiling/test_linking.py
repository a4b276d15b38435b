"""Compiled kernels in this process: linked once, compiled once, never from a damaged file."""

from __future__ import annotations

import random
import shutil
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import nnkernels.backends.numba
from nnkernels.backends.numba.compiling import compiler, linking, object_cache
from nnkernels.backends.numba.compiling.object_cache import CacheWarning, ObjectCache, source_key
from nnkernels.spec import get_op

OPERATORS = {
    "relu": ((33, 5),),
    "tanh": ((33, 5),),
    "gelu": ((33, 5),),
    "softmax": ((33, 5),),
    "matmul": ((33, 5), (5, 4)),
    "layer_norm": ((33, 5), (5,), (5,)),
    "mse": ((33, 5), (33, 5)),
}
PACKAGE = Path(nnkernels.backends.numba.__file__).parent


@pytest.fixture
def inputs():
    rng = np.random.default_rng(4)
    return {name: [rng.normal(size=s) for s in shapes] for name, shapes in OPERATORS.items()}


def entries_of(kernel, arrays, params):
    """The entries that a kernel needs for these arrays."""
    signature = get_op(kernel.op.name).signatures(params)[0]
    shapes, dtypes = [a.shape for a in arrays], [a.dtype.name for a in arrays]
    return [s.entry for s in kernel.steps(shapes, dtypes, params, [True] * len(signature.outputs))]


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    """A cache of this test's, and entries of its own; compiling is counted in the list."""
    cache, compiled = ObjectCache(tmp_path / "nnkernels", "key"), []
    original = compiler.compile_entry

    def counting(symbol, *args):
        compiled.append(symbol)
        return original(symbol, *args)

    monkeypatch.setattr(compiler, "compile_entry", counting)
    monkeypatch.setattr(linking, "cache", lambda: cache)
    monkeypatch.setattr(linking, "_entries", {})
    # Every entry has a linker of its own, which refuses a name that it knows.
    monkeypatch.setattr(linking, "_linker", linking._linker.__wrapped__)
    return cache, compiled


def fresh(entry):
    """The same code as another entry, as in another process."""
    return linking.Entry(entry.name, entry.link, entry.arguments)


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_200_flipped_bits_give_200_working_kernels(seed, numba, own_cache, inputs, monkeypatch):
    """Of kernels that are used: each damaged file is noticed, compiled again, and right."""
    cache, compiled = own_cache
    kernels, chance = {n: numba.kernels[n].function for n in OPERATORS}, random.Random(seed)
    entries = [
        e for n, k in kernels.items() for e in entries_of(k, inputs[n], get_op(n).full_params({}))
    ]
    assert linking.load(entries) > 0
    codes = {e.name: cache.load(e.name) for e in entries}
    assert len(compiled) == len(codes) > len(kernels)
    compiled.clear()
    # Compiling again takes its time, and gives what it gave: here it is looked up.
    monkeypatch.setattr(compiler, "compile_entry", lambda symbol, *_: recompiled(symbol))
    by_symbol = {e.symbol: codes[e.name] for e in entries}

    def recompiled(symbol):
        compiled.append(symbol)
        return by_symbol[symbol]

    for number in range(200):
        entry = entries[number % len(entries)]
        path = cache._path(entry.name)
        damaged = bytearray(path.read_bytes())
        bit = chance.randrange(8 * len(damaged))
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        monkeypatch.setattr(object_cache, "_first_damage", threading.Lock())
        with pytest.warns(CacheWarning) as caught:
            again = fresh(entry)
            assert again.address
        assert len(caught) == 1
        assert compiled == [entry.symbol]
        compiled.clear()
        assert cache.load(entry.name) == codes[entry.name]
        del again
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert all(fresh(entry).address for entry in entries)
    assert compiled == []


def test_what_is_cached_is_linked_without_the_compiler(numba, own_cache, inputs, monkeypatch):
    (entry,) = entries_of(numba.kernels["relu"].function, inputs["relu"], {})
    assert linking.load([entry]) > 0

    def refuse(*args):
        raise AssertionError("compiled although it is in the cache")

    monkeypatch.setattr(compiler, "compile_entry", refuse)
    again = fresh(entry)
    x, out = inputs["relu"][0], np.zeros((33, 5))
    (step,) = numba.kernels["relu"].function.steps([x.shape], ["float64"], {}, [True])
    record = np.array(step.fill({"x": x.ctypes.data, "out": out.ctypes.data}), np.int64)
    assert again.call(record.ctypes.data, 0, step.items) == 0
    np.testing.assert_array_equal(out, np.maximum(x, 0))
    assert again.seconds == 0


def test_threads_link_an_entry_once(own_cache):
    links, start = [], threading.Barrier(8)

    def link(entry):
        links.append(entry)
        return 77

    entry = linking.Entry("nothing", link)

    def ask(_):
        start.wait(60)
        return type(entry).address.func(entry)  # as if nobody had looked before

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(ask, range(8))) == {77}
    assert len(links) == 1


@pytest.mark.parametrize("name", ["activations.py", "walker.py", "__init__.py"])
def test_an_edited_source_has_another_folder(name, tmp_path):
    copy = tmp_path / "numba"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    before = source_key(copy, *linking._facts())
    assert before == source_key(PACKAGE, *linking._facts())
    with (copy / name).open("a") as file:
        file.write("# edited\n")
    after = source_key(copy, *linking._facts())
    assert after != before
    folders = {ObjectCache(tmp_path / "nnkernels", key).folder for key in (before, after)}
    assert len(folders) == 2


def test_progress_is_told_from_none_to_all(own_cache):
    told = []
    entries = [linking.Entry(f"e{n}", lambda entry: 1) for n in range(3)]
    assert linking.load([*entries, entries[0]], lambda *at: told.append(at)) == 0
    assert told == [(0, 3), (1, 3), (2, 3), (3, 3)]
