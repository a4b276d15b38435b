import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnkernels import ops
from nnkernels.backends._host import HOST
from nnkernels.errors import InputError, ShapeError
from nnkernels.program import Builder, State, differentiate
from nnkernels.spec import OPERATORS
from nnkernels.testing import VerificationError, check_gradients, numerical_gradient
from nnkernels.testing.gradients import gradient_cases


@given(st.lists(st.floats(-3, 3), min_size=1, max_size=5))
def test_central_differences_of_a_cubic(values):
    x = np.array(values)
    np.testing.assert_allclose(numerical_gradient(lambda a: (a**3).sum(), x), 3 * x**2, atol=1e-8)


def test_forward_differences_are_less_exact_but_right():
    x = np.array([[0.5, -1.0], [2.0, 0.0]])
    central, forward = (
        numerical_gradient(lambda a: np.exp(a).sum(), x, method=m) for m in ("central", "forward")
    )
    assert np.abs(central - np.exp(x)).max() < 1e-9
    assert 1e-9 < np.abs(forward - np.exp(x)).max() < 1e-6


def test_the_forward_formula_with_a_given_step_is_used_as_written():
    assert numerical_gradient(lambda a: a**2, 3.0, method="forward", step=0.5) == pytest.approx(6.5)
    assert numerical_gradient(lambda a: a**3, 1.0, step=0.5) == pytest.approx(3.25)


def test_the_point_is_left_alone_and_whole_numbers_are_accepted():
    x = np.array([1, 2])
    np.testing.assert_allclose(numerical_gradient(lambda a: (a * a).sum(), x), [2, 4])
    assert x.dtype.kind == "i" and x.tolist() == [1, 2]


@pytest.mark.parametrize(
    ("f", "options", "words"),
    [
        (np.sum, {"method": "backward"}, "method"),
        (np.sum, {"step": 0.0}, "step"),
        (np.sum, {"step": float("nan")}, "step"),
        (lambda a: a, {}, "one real number"),
        (lambda a: "x", {}, "one real number"),
        (lambda a: 1j, {}, "one real number"),
    ],
)
def test_bad_arguments_are_refused(f, options, words):
    with pytest.raises(InputError, match=words):
        numerical_gradient(f, np.ones(2), **options)


@pytest.mark.parametrize("name", sorted(n for n, op in OPERATORS.items() if op.derivative))
def test_every_declared_derivative_agrees_with_finite_differences(name):
    for _, prove in gradient_cases(OPERATORS[name]):
        prove()


def test_a_function_and_its_gradient():
    report = check_gradients(lambda x: np.sin(x).sum(), np.cos, np.linspace(-1, 1, 7))
    assert report.ok and report.worst < 1e-8
    report.check()
    wrong = check_gradients(lambda x: np.sin(x).sum(), lambda x: 1.01 * np.cos(x), [0.0, 1.0])
    assert not wrong.ok and wrong.worst == pytest.approx(0.01, rel=0.02) and wrong.where == "x[0]"
    with pytest.raises(VerificationError, match=r"x\[0\]"):
        wrong.check()


def test_a_gradient_of_nan_is_never_ok():
    assert not check_gradients(lambda x: x.sum(), lambda x: x * np.nan, np.ones(2)).ok


def test_an_operator_with_parameters_and_labels():
    rng = np.random.default_rng(0)
    labels = np.array([0, 2, 1, 1])
    for method in ("central", "forward"):
        report = check_gradients(
            ops.softmax_cross_entropy,
            rng.normal(size=(4, 3)),
            labels,
            reduction="sum",
            method=method,
        )
        assert report.ok and set(report.errors) == {"logits"}
    assert check_gradients("matmul", rng.normal(size=(2, 3)), rng.normal(size=(3, 2))).ok


@pytest.mark.parametrize(
    "arguments", [("argmax", np.ones((2, 2))), (np.sum, np.ones(2)), (np.sum, np.cos, [1.0], 3)]
)
def test_subjects_that_cannot_be_checked_are_refused(arguments):
    with pytest.raises(InputError, match="check_gradients"):
        check_gradients(*arguments)


def test_arrays_that_do_not_fit_the_operator_are_refused():
    with pytest.raises(ShapeError, match="matmul"):
        check_gradients("matmul", np.ones((2, 3)), np.ones((2, 3)))
    with pytest.raises(ShapeError, match="nll_loss"):
        check_gradients("nll_loss", np.ones((2, 3)), np.array([[True, False]]))


def test_a_gradient_of_another_shape_is_refused():
    with pytest.raises(InputError, match="shape"):
        check_gradients(lambda x: x.sum(), lambda x: np.ones(3), np.ones(2))


def small_program(dtype="float64"):
    builder = Builder(4, dtype)
    x, target = builder.input("x", (4, 3)), builder.input("target", (4, 2))
    w, b = builder.parameter("w", (3, 2)), builder.parameter("b", (2,))
    y = builder.call("tanh", builder.call("linear", x, w, b))
    loss = builder.call("mse", y, target)
    differentiate(builder, loss)
    with builder.update_phase():
        builder.call(
            "sgd",
            builder.flat("parameters"),
            builder.flat("gradients"),
            builder.entry("learning_rate"),
        )
    program = builder.program(loss=loss, guard=loss)
    state = State(program.layout, HOST)
    rng = np.random.default_rng(1)
    for name in ("w", "b"):
        state.set(name, rng.normal(size=state.view(name).shape))
    state.set("learning_rate", 0.1)
    return (
        program,
        state,
        {n: rng.normal(size=s.shape).astype(dtype) for n, s in program.inputs.items()},
    )


def test_a_program_against_its_loss_leaves_the_state_as_it_was():
    program, state, inputs = small_program()
    before = state.snapshot()
    report = check_gradients(program, state, inputs=inputs)
    assert report.ok and set(report.errors) == {"w", "b"}
    after = state.snapshot()
    assert all(after[name].tobytes() == before[name].tobytes() for name in before)


def test_a_program_with_a_wrong_backward_kernel_is_found():
    from nnkernels import get_backend

    program, state, inputs = small_program()
    wrong = get_backend("numpy").replace(tanh_backward=lambda grad, y, *, out: np.copyto(out, grad))
    assert not check_gradients(program, state, inputs=inputs, backend=wrong).ok


def test_a_float32_program_is_refused():
    program, state, inputs = small_program("float32")
    with pytest.raises(InputError, match="float64"):
        check_gradients(program, state, inputs=inputs)
