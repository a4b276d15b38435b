import numpy as np
import pytest

import nnkernels
from nnkernels.signature import FLOAT_DTYPES
from nnkernels.spec import OPERATORS, get_op
from nnkernels.testing import samples as s

F32, F64 = FLOAT_DTYPES
assert nnkernels.ops


@pytest.mark.parametrize("name", sorted(OPERATORS))
def test_the_reference_is_finite_on_every_sample(name):
    for dtype in FLOAT_DTYPES:
        for sample in s.samples(OPERATORS[name], dtype):
            for result in s.oracle(sample):
                assert np.isfinite(result).all(), f"{sample}: give the input its interval"


@pytest.mark.parametrize("name", sorted(OPERATORS))
def test_samples_fit_the_signature_and_its_intervals(name):
    for plans in ("all", "single", "empty"):
        for sample in s.samples(OPERATORS[name], F32, plans=plans):
            dims = sample.signature.solve([a.shape for a in sample.inputs], sample.params)
            for argument, array in zip(sample.signature.inputs, sample.inputs, strict=True):
                assert array.dtype == argument.dtype(F32)
                if argument.interval is not None and array.size:
                    low, high = float(array.min()), float(array.max())
                    assert argument.interval.contains(low, high, dims)


@pytest.mark.parametrize("name", sorted(OPERATORS))
def test_every_alternative_of_the_signature_is_sampled(name):
    op = OPERATORS[name]
    sampled = {sample.signature for sample in s.samples(op, F32)}
    for params in s.parameter_sets(op, F32):
        assert set(op.signatures(params)) <= sampled


def test_magnitudes_reach_from_1e_6_to_1e2_with_both_signs():
    (large,) = (x for x in s.samples(get_op("tanh"), F64) if x.inputs[0].size > 10_000)
    values = np.abs(large.inputs[0])
    assert 1e-6 <= values.min() < 2e-6
    assert 90 < values.max() <= 100
    assert abs(np.mean(large.inputs[0] > 0) - 0.5) < 0.02
    assert abs(np.mean(values < 1e-2) - 0.5) < 0.02  # half of the decades


def test_ragged_sizes_at_least_two_dimensions_and_one_element_are_covered():
    shapes = {x.inputs[0].shape for x in s.samples(get_op("matmul"), F32)}
    assert {shape[0] for shape in shapes} >= {1, 7, 32, 33}
    assert {shape[1] for shape in shapes} >= {1, 10, 31, 33, 128}
    ranks = {x.inputs[0].ndim for x in s.samples(get_op("relu"), F32)}
    assert ranks >= {1, 2, 3}
    single = [x.inputs[0].shape for x in s.samples(get_op("relu"), F32, plans="single")]
    assert single == [(), (1, 1)]


def test_flags_and_choices_are_varied_in_every_combination():
    sets = s.parameter_sets(get_op("matmul"), F32)
    pairs = {(p["transpose_a"], p["transpose_b"]) for p in sets}
    assert pairs == {(a, b) for a in (False, True) for b in (False, True)}
    assert {p["reduction"] for p in s.parameter_sets(get_op("mse"), F32)} == {"mean", "sum"}
    assert {p["dtype"] for p in s.parameter_sets(get_op("one_hot"), F64)} == {"float64"}


def test_numbers_take_another_value_than_their_default():
    decays = {p["weight_decay"] for p in s.parameter_sets(get_op("sgd"), F32)}
    assert len(decays) == 2 and 0 in decays


def test_zero_size_only_where_the_signature_allows_it():
    assert list(s.samples(get_op("mse"), F32, plans="empty")) == []
    shapes = [x.inputs[0].shape for x in s.samples(get_op("matmul"), F32, plans="empty")]
    assert (0, 5) in shapes and (5, 0) in shapes and (0, 0) in shapes


def test_no_labels_are_drawn_from_an_empty_range():
    shapes = [
        tuple(a.shape for a in x.inputs)
        for x in s.samples(get_op("gather_rows"), F32, plans="empty")
    ]
    assert ((0, 0), (0,)) in shapes
    assert not [pair for pair in shapes if pair[0][0] == 0 and pair[1] != (0,)]


def test_saved_values_of_a_derivative_come_from_the_forward_operator():
    (small,) = s.samples(get_op("sigmoid_backward"), F64, plans="small")
    y = small.inputs[1]
    assert ((y >= 0) & (y <= 1)).all()
    for sample in s.samples(get_op("softmax_cross_entropy_backward"), F64, plans="small"):
        np.testing.assert_allclose(sample.inputs[1].sum(1), 1)


def test_samples_are_the_same_in_every_run():
    first, again = (list(s.samples(get_op("linear"), F32, plans="small")) for _ in range(2))
    assert [x.inputs[0].tobytes() for x in first] == [x.inputs[0].tobytes() for x in again]
