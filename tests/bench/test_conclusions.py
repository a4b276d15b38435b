"""What a run answers, in sentences."""

from nnkernels.bench import conclusions, results


def times(median: float, spread: float = 0.1) -> results.Times:
    ci = (median * (1 - spread), median * (1 + spread))
    return results.Times("s", [], [], median, 0, 0, 0, 0, ci, True, 0)


def test_the_conclusion_names_clear_winners_only() -> None:
    found = {
        "W1": {"numpy": times(2.0), "fast": times(1.0), "textbook": times(3.0)},
        "W2": {"numpy": times(1.0), "textbook": times(1.1)},
        "relu": {"numpy": times(1.0), "fast": times(1.1)},
        "tanh": {"numpy": times(1.0), "fast": times(2.0)},
    }
    assert conclusions.fastest(found, ["numpy", "fast"]) == (
        "fast is the fastest backend for W1. numpy is the fastest backend for tanh. "
        "Undecided: relu. "
        "numpy trains W1 1.50, W2 1.10 (unclear) times as fast as the textbook's NumPy code. "
        "fast trains W1 3.00 times as fast as the textbook's NumPy code."
    )


def test_the_conclusion_of_one_backend() -> None:
    assert conclusions.fastest({"relu": {"numpy": times(1.0)}}, ["numpy"]) == (
        "No other backend was compared; 'nnkernels info' says what is available."
    )
