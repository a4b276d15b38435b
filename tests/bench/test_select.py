import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnkernels.bench import harness
from nnkernels.bench.select import parse, select
from nnkernels.errors import InputError

CASES = harness.cases("quick")


def workloads(expression: str | None) -> set[str]:
    return {case.workload for case in select(CASES, expression)}


@pytest.mark.parametrize(
    ("expression", "words", "expected"),
    [
        ("a", "a", True),
        ("a", "b", False),
        ("not a", "b", True),
        ("not not a", "a", True),
        ("a or b and c", "a", True),
        ("a or b and c", "b", False),
        ("(a or b) and c", "a", False),
        ("(a or b) and c", "bc", True),
        ("a AND NOT b", "a", True),
        ("not (a or b)", "c", True),
    ],
)
def test_expressions(expression: str, words: str, expected: bool) -> None:
    assert parse(expression)(lambda word: word in words) is expected


@pytest.mark.parametrize(
    "expression",
    ["", "  ", "and", "a b", "a or", "not", "(a", "a)", "()", "a and or b", "a " * 300],
)
def test_unreadable_expressions(expression: str) -> None:
    with pytest.raises(InputError, match="-k"):
        parse(expression)


@given(st.text("ab()noredt ", max_size=30))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        node = parse(text)
    except InputError:
        return
    assert node(lambda word: True) in (True, False)


def test_names_and_tags_are_found() -> None:
    assert workloads("W1 or matmul") == {"W1", "matmul", "matmul_backward"}
    assert workloads("train and not w3") == {"W1", "W2", "W4"}
    assert "relu_backward" in workloads("activations and backward")
    assert workloads("32x64x48 and forward and not activation") == {"linear", "matmul"}


def test_a_tag_is_found_whole() -> None:
    with pytest.raises(InputError, match="matches no workload"):
        select(CASES, "opera")


def test_without_an_expression_the_main_ones() -> None:
    assert {"W1", "W2", "W3", "W4", "matmul", "relu"} <= workloads(None)
    assert len(workloads(None)) < 12
