"""What a run answers, in sentences."""

import pytest
import runs

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
        "No backend is clearly the fastest for relu. "
        "numpy trains W1 1.50, W2 1.10 (unclear) times as fast as the textbook's NumPy code. "
        "fast trains W1 3.00 times as fast as the textbook's NumPy code."
    )


def test_the_conclusion_of_one_backend() -> None:
    assert conclusions.fastest({"relu": {"numpy": times(1.0)}}, ["numpy"]) == (
        "No other backend was compared; 'nnkernels info' says what is available."
    )


def sentences(run: results.Run) -> str:
    return "\n".join(conclusions.of_run(run))


@pytest.mark.parametrize("kind", runs.KINDS)
def test_every_kind_of_run_says_something(kind: str) -> None:
    for line in conclusions.of_run(runs.every_kind()[kind]):
        assert line.endswith((".", ")")) and "None" not in line and "nan" not in line


def test_a_run_of_nothing_says_so() -> None:
    assert conclusions.of_run(runs.run()) == ["Nothing was measured."]
    interrupted = conclusions.of_run(runs.run(complete=False))
    assert interrupted == ["The run was interrupted: this is what it had measured."]


def test_a_comparison_names_what_changed_and_what_it_could_have_seen() -> None:
    assert conclusions.of_run(runs.ab()) == [
        "4f1c2ab is slower than 9be01c7 on 1 of 5 workloads: softmax[200000] numba takes 1.121 "
        "times as long (1.109 to 1.133).",
        "4f1c2ab is faster than 9be01c7 on 1 of 5 workloads: tanh[200000] numba takes 0.810 "
        "times as long (0.798 to 0.822).",
        "2 are the same within 3 %; 1 unsure: W1[200000] numba; 4 not compared: fused[200000] "
        "numba (new), old[200000] numba (gone), adam[200000] numba (failed) and dropout[200000] "
        "numba (incorrect).",
        "A slowdown of 4.1 % or more would have been seen on every workload with 95 % "
        "probability (the least certain is tanh[200000] numba).",
    ]


def test_nothing_slower_is_said_as_surely_as_it_is_known() -> None:
    same = [runs.comparison(), runs.comparison("tanh")]
    unsure = [*same, runs.comparison("W1", verdict="unsure")]
    gone = [runs.nothing_compared("old", "gone", "no such workload")]
    assert conclusions.comparisons(same)[0] == "No workload of 2 was slower."
    assert conclusions.comparisons(unsure)[0] == "No workload of 3 was shown to be slower."
    assert conclusions.comparisons(gone)[0] == "Nothing could be compared."


def test_saved_files_are_said_to_be_unpaired() -> None:
    assert conclusions.of_run(runs.compare())[-1] == conclusions.UNPAIRED
    assert conclusions.UNPAIRED not in conclusions.of_run(runs.ab())


def test_crossovers_are_told_with_their_intervals() -> None:
    text = sentences(runs.crossover())
    assert "cupy is faster than numpy from n = 111 (between 101 and 122)." in text
    assert "relu float32, with the data in place: cupy is faster than numpy at no size" in text
    assert "tanh float32, with the data in place: cupy is faster than numpy at every size" in text
    assert "the machine was too noisy" in text


def test_the_best_of_each_limit_is_told_and_the_row_nearest_to_its_own() -> None:
    assert conclusions.of_run(runs.roofline()) == [
        "Measured here, at most: 209 GFLOP/s (cpu gemm float32, 2 threads) and 34.0 GB/s (cpu "
        "copy memory, 2 threads).",
        "Nearest to its limit is matmul[default] on numpy, with 98 % of the compute ceiling.",
    ]


def test_a_calibration_bounds_the_rate_of_live_false_alarms_only() -> None:
    text = sentences(runs.calibrate())
    assert "0 false alarms in 60 live comparisons of equal code: at most 4.87 % with 95" in text
    assert "0 false alarms in 4000 resampled comparisons of equal code.\n" in text
    assert "A slowdown of 10 % was found in 60 of 60 live comparisons." in text


def test_300_comparisons_without_an_alarm_show_a_rate_of_1_percent() -> None:
    none = results.Power(0.0, "live", 300, 0, 0, 300)
    row = results.CalibrationRow("relu", "numba", 0.01, [none], 8)
    (line, _) = conclusions.calibration([row])
    assert line == (
        "0 false alarms in 300 live comparisons of equal code: at most 0.99 % with 95 % confidence."
    )


def test_what_was_not_timed_is_told_once() -> None:
    text = sentences(runs.bench())
    assert "native was skipped: not built." in text
    assert "numba failed on tanh[200000]: RuntimeError: lost." in text
    wrong = "gave wrong results on relu[200000] and was not timed: result 0[0, 7] is 1.5"
    assert f"numpy[relu=mine:<b>] {wrong} instead of 1." in text
    partly = [runs.result("a"), runs.result("b", median=None, status="skipped", reason="large")]
    assert conclusions.troubles(partly) == ["numpy was skipped on b[1024x1024x1024]: large."]
