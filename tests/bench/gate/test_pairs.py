"""Pairs of workers that only pretend: which samples are taken, and in which order."""

import math

import numpy as np
import pytest

from nnkernels.bench.gate import isolation, pairs
from nnkernels.bench.gate.pairs import Effort, Pair, Restart, Row, Setting, check_alike
from nnkernels.bench.gate.sides import own
from nnkernels.bench.workers import Listed, Sample
from nnkernels.errors import NotComparableError

EFFORT = Effort(restarts=4, rounds=8, sample=0.001, prime=0.1)
SHORT, LONG = (Row(Listed(name, "1", "float32", ()), "numpy", "numpy") for name in ("s", "l"))


class Asked(Pair):
    """Notes what is asked for, and answers from ``contended``."""

    def __init__(self, effort=EFFORT, inject=None, contended=lambda number: False) -> None:
        sides = {"a": own(), "b": own()}
        super().__init__(Setting(sides, "quick", 1, [0], effort, inject=inject or {}))
        self.asked: list[tuple[str, str, float]] = []
        self._contended = contended

    def _ask(self, which, reply, do, **request):
        self.asked.append((request["slot"], which, request["inject"]))
        seconds = 0.005 if request["slot"] == LONG.slot else 0.001
        slowed = seconds * (1 + request["inject"])
        return Sample(slowed, self._contended(len(self.asked)))


def measure(pair: Asked, *rows: Row) -> dict[Row, Restart]:
    return pair.measure(dict.fromkeys(rows, 1), np.random.default_rng(0), lambda: None)


def test_every_row_and_side_has_its_turn_in_random_order() -> None:
    pair = Asked()
    found = measure(pair, SHORT)
    assert len(found[SHORT].a) == len(found[SHORT].b) == 8
    firsts = [which for _, which, _ in pair.asked[::2]]
    assert set(firsts) == {"a", "b"}


def test_long_calls_take_part_in_every_other_round() -> None:
    found = measure(Asked(), SHORT, LONG)
    assert (len(found[SHORT].a), len(found[LONG].a)) == (8, 4)


def test_only_b_is_slowed() -> None:
    pair = Asked(inject={SHORT: 0.1})
    assert measure(pair, SHORT)[SHORT].d == pytest.approx(math.log(1.1))
    assert {(which, inject) for _, which, inject in pair.asked} == {("a", 0.0), ("b", 0.1)}


def test_contended_pairs_are_taken_again_and_counted() -> None:
    pair = Asked(contended=lambda number: number == 1)
    found = measure(pair, SHORT)
    assert found[SHORT].contended == 1
    assert len(found[SHORT].a) == 8
    assert len(pair.asked) == 2 * 9


def test_where_all_are_contended_the_repeats_are_limited() -> None:
    pair = Asked(contended=lambda number: True)
    found = measure(pair, SHORT)
    assert len(pair.asked) == 2 * (8 + 4)
    assert found[SHORT].contended == 12


def test_the_median_pair_decides() -> None:
    assert Restart([1.0, 1.0, 1.0], [1.1, 9.0, 1.1]).d == pytest.approx(math.log(1.1))


def test_what_must_be_alike() -> None:
    a = {"file": "x", "version": "1", "numpy": "2.4", "numba": None}
    check_alike(a, {**a, "file": "y", "version": "2"}, frozenset())
    with pytest.raises(NotComparableError, match=r"numpy: 2.4 against 2.3.*--allow numpy"):
        check_alike(a, {**a, "numpy": "2.3"}, frozenset())
    check_alike(a, {**a, "numpy": "2.3"}, frozenset({"numpy"}))


def test_both_sides_have_the_same_environment_but_for_their_caches() -> None:
    a, b = isolation.environment("a", 2), isolation.environment("b", 2)
    assert {name for name in a if a[name] != b[name]} == set(isolation.CACHES)
    assert a["OPENBLAS_NUM_THREADS"] == a["NUMBA_NUM_THREADS"] == "2"


def test_the_cpus_are_ones_that_we_may_use() -> None:
    import os

    usable = os.sched_getaffinity(0)
    (cpu,) = isolation.idlest(1)
    assert cpu in usable
    assert isolation.idlest(10**6) == sorted(usable)
    with isolation.aside([cpu]):
        assert os.sched_getaffinity(0) == (usable - {cpu} or usable)
    assert os.sched_getaffinity(0) == usable


def test_efforts_are_enough_for_a_verdict() -> None:
    from nnkernels.bench.gate import verdicts

    assert all(e.restarts >= verdicts.LEAST for e in pairs.EFFORTS.values())
