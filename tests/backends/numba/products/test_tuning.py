"""Limits of our own products: measured, stored, read again, refused."""

from __future__ import annotations

import json
import stat
import subprocess
import sys
import warnings

import numpy as np
import pytest

pytest.importorskip("numba")

from nnkernels.backends.numba.products import choice, tuned, tuning
from nnkernels.backends.numba.products.microkernel import vector_bits
from nnkernels.errors import NnkernelsError

LIMITS = {"float32": 3000, "float64": 0}
needs_tiles = pytest.mark.skipif(not vector_bits(), reason="no tiles of ours on this processor")


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A configuration folder of the test's own."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    if sys.platform == "darwin":
        monkeypatch.setenv("HOME", str(tmp_path))
    choice.stored.cache_clear()
    yield tuned.path().parent
    choice.stored.cache_clear()


# --- the file ------------------------------------------------------------------------------------


def test_nothing_is_tuned_unless_asked(folder):
    assert tuned.read() is None
    assert choice.own_bytes("float32") == (choice.OWN_BYTES, "default")
    assert not folder.exists()


def test_stored_limits_are_read_again(folder):
    file = tuned.write(LIMITS)
    assert file.parent == folder
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert list(folder.iterdir()) == [file]
    found = tuned.read()
    assert found.limits == LIMITS
    assert choice.own_bytes("float32") == (3000, f"tuned {found.date}")
    assert choice.own_bytes("float64") == (0, f"tuned {found.date}")


@needs_tiles
def test_the_rule_follows_the_limit_of_the_dtype():
    tuned.write(LIMITS)
    date = tuned.read().date
    assert choice.choose(9, 25, 30, 4) == (
        "own",
        f"right operand 3,000 B <= 3,000 B (tuned {date})",
    )
    assert choice.choose(9, 25, 31, 4).code == "blas"
    assert choice.choose(9, 1, 1, 8) == ("blas", f"right operand 8 B > 0 B (tuned {date})")


def test_a_process_keeps_the_limits_that_it_began_with():
    choice.own_bytes("float32")
    tuned.write(LIMITS)
    assert choice.own_bytes("float32") == (choice.OWN_BYTES, "default")


def test_forgetting():
    assert not tuned.forget()
    file = tuned.write(LIMITS)
    assert tuned.forget()
    assert not file.exists()


CHANGES = [
    ({"format": 2}, "format 2"),
    ({"date": "yesterday"}, "its date"),
    ({"limits": {"float32": 1}}, "limits for float32 and float64"),
    ({"limits": {**LIMITS, "float16": 1}}, "limits for float32 and float64"),
    ({"limits": {**LIMITS, "float32": -1}}, "not between"),
    ({"limits": {**LIMITS, "float32": 2**40}}, "not between"),
    ({"limits": {**LIMITS, "float32": "1"}}, "damaged"),
    ({"limits": {**LIMITS, "float32": 1.5}}, "damaged"),
    ({"extra": 1}, "damaged"),
    ({"cpu": "another"}, "another processor"),
    ({"features": "0"}, "another processor"),
]


@pytest.mark.parametrize(("change", "reason"), CHANGES)
def test_a_file_that_does_not_fit_is_ignored_with_one_warning(change, reason):
    file = tuned.write(LIMITS)
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    with pytest.warns(tuned.TuningWarning, match=reason) as caught:
        assert choice.own_bytes("float32") == (choice.OWN_BYTES, "default")
        assert choice.own_bytes("float64") == (choice.OWN_BYTES, "default")
        choice.choose(3, 3, 3, 4)
    (warning,) = caught
    assert str(file) in str(warning.message)
    assert "nnkernels tune --reset" in str(warning.message)


@pytest.mark.parametrize(
    "data", [b"", b"{", b"\xff\xfe", b"[]", b"null", b"\0" * 100, b" " * 10**6 + b"{}"]
)
def test_a_damaged_file_is_ignored(data):
    file = tuned.write(LIMITS)
    file.write_bytes(data)
    with pytest.warns(tuned.TuningWarning, match="damaged"):
        assert tuned.read() is None


def test_a_folder_in_the_files_place_is_ignored():
    tuned.path().mkdir(parents=True)
    with pytest.warns(tuned.TuningWarning, match="cannot be read"):
        assert tuned.read() is None
    with pytest.raises(NnkernelsError, match="cannot remove"):
        tuned.forget()


def test_a_file_in_the_folders_place(folder):
    folder.parent.mkdir(parents=True)
    folder.write_text("")
    assert tuned.read() is None
    assert not tuned.forget()
    with pytest.raises(NnkernelsError, match="XDG_CONFIG_HOME"):
        tuned.write(LIMITS)


# --- measuring -----------------------------------------------------------------------------------


def rung(nbytes: int, own: float, blas: float) -> tuning.Rung:
    return tuning.Rung("float32", nbytes, ((1, 1, 1),), 1.0, own, blas)


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        ([(1, 2), (1, 2), (2, 1), (2, 1)], 2),
        ([(2, 1), (2, 1)], 0),
        ([(1, 2), (1, 2), (9, 1)], 2),
        ([(1, 2), (1.1, 1), (1, 2), (2, 1)], 3),  # one disturbed measurement
        ([(2, 1), (1, 1.1), (2, 1)], 0),  # one lucky one
        ([(1, 1), (9, 1)], 1),
        ([], 0),
    ],
)
def test_the_limit_loses_least_over_all_sizes(times, expected):
    rungs = [rung(i + 1, own, blas) for i, (own, blas) in enumerate(times)]
    assert tuning.limit(rungs) == expected
    assert tuning.limit(rungs[::-1]) == expected


def test_beyond_what_was_measured_the_default_holds():
    assert tuning.limit([rung(1 << 10, 1.0, 2.0)]) == choice.OWN_BYTES
    assert tuning.limit([rung(4 * choice.OWN_BYTES, 1.0, 2.0)]) == 4 * choice.OWN_BYTES


@pytest.mark.parametrize("elements", [1, 1000, 65536, 1 << 24])
@pytest.mark.parametrize("aspect", [1, 4])
def test_right_operands_are_about_as_large_as_asked(elements, aspect):
    k, n = tuning.right_operand(elements, aspect)
    assert k % 16 == n % 16 == 0
    if elements > 10**4:
        assert 0.9 < k * n / elements < 1.1
        assert 0.7 < n / k / aspect < 1.4


@needs_tiles
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("shape", "copied"), [((5, 48, 33), True), ((64, 512, 300), False)])
def test_what_is_timed_is_the_product_and_the_copy_that_it_needs(dtype, shape, copied):
    products = tuning.Products(*shape, dtype)
    arrays = products.arrays
    for name in ("ours", "blas"):
        arrays["out"][...] = np.nan
        products.run(name)
        np.testing.assert_allclose(arrays["out"], arrays["a"] @ arrays["b"], rtol=1e-4)
    assert ("copy" in products.steps) == copied
    if copied:
        products.run("copy")
        np.testing.assert_array_equal(arrays["turned"], arrays["b"].T)


@needs_tiles
def test_our_own_product_pays_for_its_part_of_the_copy(monkeypatch):
    times = {"ours": 1.0, "blas": 2.0, "copy": 0.3}
    monkeypatch.setattr(tuning, "_both", lambda products, ladder: times)
    (found,) = tuning.measure("float32", tuning.Ladder((4096,), (3, 8), (1,), 1, 0.0))
    assert found.own == pytest.approx(2 * 1.1)
    assert found.blas == 4.0


@needs_tiles
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_ladder_is_measured_rung_by_rung(dtype):
    ladder = tuning.Ladder((4096, 16384), (3, 8), (1, 4), 2, 0.0)
    done: list[int] = []
    rungs = tuning.measure(dtype, ladder, done.append)
    assert done == [0, 1, 2]
    for found, size in zip(rungs, ladder.sizes, strict=True):
        assert found.dtype == dtype
        assert 0.5 * size <= found.nbytes <= 1.6 * size
        assert found.flop == sum(2.0 * m * k * n for m, k, n in found.shapes)
        assert {m for m, _, _ in found.shapes} == {3, 8}
        assert found.own > 0 and found.blas > 0


@needs_tiles
def test_blas_is_held_to_one_thread_while_it_is_measured(monkeypatch):
    from threadpoolctl import threadpool_info

    seen = []

    def spy(*arguments):
        seen.extend(p["num_threads"] for p in threadpool_info() if p["user_api"] == "blas")
        return rung(1, 1.0, 1.0)

    monkeypatch.setattr(tuning, "_rung", spy)
    tuning.measure("float32", tuning.Ladder((1,), (1,), (1,), 1, 0.0))
    assert seen and set(seen) == {1}


LOADED_LATE = """
from threadpoolctl import threadpool_info
from nnkernels.backends import _blas

with _blas.blas_threads(1):  # SciPy's BLAS is not there yet
    pass
_blas.gemm_address("float32")
with _blas.blas_threads(1):
    print({pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"})
"""


def test_a_blas_that_is_loaded_late_is_held_too():
    done = subprocess.run(
        [sys.executable, "-c", LOADED_LATE], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "{1}\n"


def test_the_ladders_rise():
    for ladder in (tuning.QUICK, tuning.FULL):
        assert list(ladder.sizes) == sorted(ladder.sizes)
        assert ladder.sizes[0] < choice.PACKED_BYTES < ladder.sizes[-1] <= tuned.MAX_LIMIT
    assert choice.OWN_BYTES <= tuned.MAX_LIMIT


def test_warnings_of_the_file_can_be_made_errors():
    tuned.write(LIMITS).write_text("")
    with warnings.catch_warnings():
        warnings.simplefilter("error", tuned.TuningWarning)
        with pytest.raises(tuned.TuningWarning):
            choice.own_bytes("float32")
