"""The signature language: reading, writing and solving."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from nnkernels import signature as sig
from nnkernels.signature import Argument, Interval, Mismatch, Signature

LABELS = ("b", "c", "k", "m", "n")
labels = st.sampled_from(LABELS)
numbers = st.integers(-9, 9).map(str) | st.sampled_from(["inf", "-inf", "0.5", "1e-3"])


@st.composite
def intervals(draw: st.DrawFn) -> Interval:
    return Interval(draw(numbers), draw(numbers | labels), draw(st.booleans()), draw(st.booleans()))


@st.composite
def arguments(draw: st.DrawFn) -> Argument:
    dims = draw(st.lists(labels | labels.map("{}+".format) | st.just("3"), max_size=3))
    if draw(st.booleans()):
        dims = ["...", *dims]
    kind = draw(st.sampled_from(["float", *sig.KIND_DTYPES]))
    return Argument("", tuple(dims), kind, draw(st.none() | intervals()))


signatures = st.builds(
    Signature,
    st.lists(arguments(), max_size=3).map(tuple),
    st.lists(arguments(), max_size=2).map(tuple),
)


def written(signature: Signature) -> str:
    return "->".join(",".join(map(str, s)) for s in (signature.inputs, signature.outputs))


# --- reading and writing -----------------------------------------------------------------------


@given(signatures)
def test_what_is_written_is_read_back(signature):
    assert sig.parse(written(signature)) == (signature,)


@given(st.lists(signatures, min_size=1, max_size=3))
def test_alternatives_are_read_in_order(alternatives):
    assert sig.parse(" | ".join(map(written, alternatives))) == tuple(alternatives)


@given(st.text("()[],.+->| bcint0", max_size=20))
def test_any_text_is_read_or_refused(text):
    try:
        alternatives = sig.parse(text)
    except ValueError:
        return
    assert sig.parse(" | ".join(map(written, alternatives))) == tuple(
        Signature(tuple(map(unnamed, s.inputs)), tuple(map(unnamed, s.outputs)))
        for s in alternatives
    )


def unnamed(argument: Argument) -> Argument:
    return Argument("", argument.dims, argument.kind, argument.interval)


def test_the_parts_of_an_argument():
    (first, second), outputs = (
        sig.parse("(b+,c),(b+)int[0,c)->loss(),probs(b,c)")[0].inputs,
        sig.parse("(b+,c),(b+)int[0,c)->loss(),probs(b,c)")[0].outputs,
    )
    assert first == Argument("", ("b+", "c"), "float", None)
    assert second == Argument("", ("b+",), "int", Interval("0", "c", True, False))
    assert [(a.name, a.dims) for a in outputs] == [("loss", ()), ("probs", ("b", "c"))]


def test_a_float_interval_may_name_the_kind_or_not():
    assert sig.parse_arguments("(b)[0,1]") == sig.parse_arguments("(b)float[0,1]")


def test_no_argument_at_all():
    assert sig.parse_arguments("") == ()
    assert sig.parse("->(b)")[0].inputs == () and sig.parse("(b)->")[0].outputs == ()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "(b)",
        "(b)(c)->(b)",
        "b->(b)",
        "(b->(b)",
        "(b)real->(b)",
        "(b),,(c)->(b)",
        "(b),->(b)",
        ",(b)->(b)",
        "(b)int[0->(b)",
        "(b,...)->(b)",
        "(b)->(b)->(b)",
        "(b)->(b) |",
        "((b))->(b)",
        "(b,)->(b)",
        "(b+c)->(b)",
        "(b)[low,high,more]->(b)",
    ],
)
def test_bad_signatures_are_refused(text):
    with pytest.raises(ValueError, match="signature"):
        sig.parse(text)


# --- solving -----------------------------------------------------------------------------------

sizes = st.integers(0, 7)


@st.composite
def solvable(draw: st.DrawFn) -> tuple[Signature, list[tuple[int, ...]], dict[str, int]]:
    """A signature with shapes that fit it, and the sizes they were made from."""
    signature = draw(signatures)
    dims = {label: draw(st.integers(1, 7)) for label in LABELS}
    free = tuple(draw(st.lists(sizes, max_size=3)))
    shapes = [sig.shape_of(a, {**dims, "...": free}) for a in signature.inputs]
    return signature, shapes, {**dims, "...": free}


@given(solvable())
def test_solving_finds_the_sizes_that_the_shapes_were_made_from(case):
    signature, shapes, dims = case
    found = signature.solve(shapes, {})
    assert found.items() <= dims.items()
    assert [sig.shape_of(a, found) for a in signature.inputs] == shapes


@given(solvable(), st.data())
def test_a_changed_size_is_blamed_on_an_argument_that_does_not_fit(case, data):
    signature, shapes, dims = case
    places = [(i, j) for i, s in enumerate(shapes) for j in range(len(s))]
    assume(places)
    index, axis = data.draw(st.sampled_from(places))
    changed = [list(s) for s in shapes]
    changed[index][axis] += 1
    try:
        found = signature.solve([tuple(s) for s in changed], {})
    except Mismatch as error:
        # The first argument that contradicts what came before: the changed one, or a later one.
        assert error.index >= index
        assert error.expected
        alone = Signature(signature.inputs[: error.index], ())
        alone.solve([tuple(s) for s in changed[: error.index]], {})
    else:
        assert found != {k: dims[k] for k in found}


@given(solvable(), st.data())
def test_a_wrong_rank_is_blamed_on_its_argument(case, data):
    signature, shapes, _ = case
    exact = [i for i, a in enumerate(signature.inputs) if not a.variadic]
    assume(exact)
    index = data.draw(st.sampled_from(exact))
    shapes[index] = (*shapes[index], 1)
    with pytest.raises(Mismatch) as caught:
        signature.solve(shapes, {})
    assert caught.value.index == index
    assert str(signature.inputs[index]) in caught.value.expected


@pytest.mark.parametrize(
    ("text", "shapes", "index", "expected"),
    [
        ("(b,k),(k,n)->(b,n)", [(2, 3), (4, 5)], 1, "k = 3"),
        ("(b,k),(k,n)->(b,n)", [(2, 3), (3,)], 1, "shape (k,n)"),
        ("(b,k),(k,n),(n)->(b,n)", [(2, 3), (3, 5), (4,)], 2, "n = 5"),
        ("(...),(...)->(...)", [(2, 3), (3,)], 1, "leading dimensions (2, 3)"),
        ("(...,c),(c)->(...)", [(), (3,)], 0, "(...,c)"),
        ("(b+)->()", [(0,)], 0, "at least one element along b"),
        ("(b,3)->(b)", [(2, 4)], 0, "3 = 3"),
    ],
)
def test_a_mismatch_names_argument_and_expectation(text, shapes, index, expected):
    with pytest.raises(Mismatch) as caught:
        sig.parse(text)[0].solve(shapes, {})
    assert (caught.value.index, expected in caught.value.expected) == (index, True)


def test_a_label_that_is_a_parameter_takes_its_value():
    signature = sig.parse("(b)int[0,classes)->(b,classes)")[0]
    dims = signature.solve([(4,)], {"classes": 3, "flag": True, "rate": 0.5})
    assert dims == {"classes": 3, "b": 4}
    assert sig.shape_of(signature.outputs[0], dims) == (4, 3)
    with pytest.raises(Mismatch, match="classes = 3"):
        sig.parse("(classes)->()")[0].solve([(4,)], {"classes": 3})


def test_sizes_are_python_integers_beyond_any_machine_word():
    huge = (2**33, 2**33, 2**33)
    dims = sig.parse("(...)->(...)")[0].solve([huge], {})
    assert sig.size(dims["..."]) == 2**99


# --- kinds and intervals -----------------------------------------------------------------------


@pytest.mark.parametrize("floating", sig.FLOAT_DTYPES)
def test_dtypes_of_the_kinds(floating):
    kinds = {
        a.kind: a.dtype(floating)
        for a in sig.parse_arguments("(b),(b)int,(b)mask,()scalar,()counter,(b)word")
    }
    assert kinds == {
        "float": floating,
        "int": np.dtype("int64"),
        "mask": np.dtype("bool"),
        "scalar": np.dtype("float64"),
        "counter": np.dtype("int64"),
        "word": np.dtype("uint64"),
    }


@given(intervals(), st.floats(-10, 10), st.floats(-10, 10))
def test_containment_follows_the_bounds(interval, first, second):
    low, high = sorted((first, second))
    dims = dict.fromkeys(LABELS, 4)
    start, end = interval.bounds(dims)
    inside = (low > start or (interval.low_closed and low == start)) and (
        high < end or (interval.high_closed and high == end)
    )
    assert interval.contains(low, high, dims) == inside


@given(intervals())
def test_nan_lies_in_no_interval(interval):
    assert not interval.contains(math.nan, math.nan, dict.fromkeys(LABELS, 4))


@pytest.mark.parametrize(
    ("text", "rowwise", "elementwise"),
    [
        ("(...)->(...)", True, True),
        ("(...),(...),()scalar,()counter->(...)", True, True),
        ("(...,c)->(...,c)", True, False),
        ("(...,c)->(...)", True, False),
        ("(...,c),(c)->(...,c)", False, False),
        ("(...)->()", False, False),
        ("(b,n)->(b,n)", False, False),
    ],
)
def test_what_is_computed_on_its_own(text, rowwise, elementwise):
    signature = sig.parse(text)[0]
    assert (signature.rowwise, signature.elementwise) == (rowwise, elementwise)
