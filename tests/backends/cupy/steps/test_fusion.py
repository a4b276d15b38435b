"""Which pieces of a step become one launch."""

from __future__ import annotations

import pytest

from nnkernels.backends.cupy import sources
from nnkernels.backends.cupy.steps import describe, launches
from nnkernels.nn import MLP, SGD, Adam
from nnkernels.nn.lowering import evaluate_program, predict_program
from nnkernels.program import Builder, differentiate, specialise

W2 = MLP([784, 512, 512, 10], loss="softmax_cross_entropy")
HEAD = "head_softmax_cross_entropy_labels"
SLOPE = "product+drelu_bias_grad"
LAYER = "product+bias_relu"


def argument(launch, name):
    names = [p.name for p in sources.signatures(launch.module)[launch.kernel].parameters]
    return launch.arguments[names.index(name)]


def small(**options):
    return MLP([8, 6, 4], loss="softmax_cross_entropy", **options)


def test_a_step_with_epilogues_is_eleven_launches(listed, step_of):
    program = step_of(W2, Adam(), 128, metrics=("accuracy",), gather=8192)
    forward = ["gather_step_labels", LAYER, LAYER, "product+bias", HEAD]
    backward = [SLOPE, "product", SLOPE, "product", "product"]
    assert listed(program) == [*forward, *backward, "adam"]


def test_a_step_without_epilogues_is_fifteen_launches_as_the_head_adds_the_last_bias(
    listed, step_of
):
    program = step_of(W2, Adam(), 128, metrics=("accuracy",), gather=8192)
    layer, slope = ["product", "bias_relu"], ["product", "relu_backward_bias_grad"]
    forward = ["gather_step_labels", *layer, *layer, "product"]
    backward = [*slope, "product", *slope, "product", "product"]
    assert listed(program, epilogues=False) == [*forward, HEAD, *backward, "adam"]


def test_the_head_writes_the_logits_with_their_bias_where_somebody_reads_them(outlined):
    for wanted in (False, True):
        b = Builder(4)
        x, y = b.input("x", (4, 8)), b.input("y", (4,), "int64", interval=(0, 3))
        logits = b.call("linear", x, b.parameter("w", (8, 3)), b.parameter("b", (3,)))
        loss, _ = b.call("softmax_cross_entropy", logits, y)
        differentiate(b, loss)
        program = b.program(loss=loss, **({"prediction": logits} if wanted else {}))
        items = launches(specialise(program, outlined), outlined, epilogues=False)
        names = ["gather_step_labels_vec", "product", f"{HEAD}_warp", "product"]
        assert [item.name for item in items] == names
        assert (argument(items[2].what, "biased") is not None) == wanted


def test_a_metric_of_the_logits_follows_the_head_that_writes_them(listed):
    b = Builder(4)
    x, y = b.input("x", (4, 8)), b.input("y", (4, 3))
    logits = b.call("linear", x, b.parameter("w", (8, 3)), b.parameter("b", (3,)))
    loss, _ = b.call("softmax_cross_entropy", logits, y)
    with b.update_phase():
        b.call("accumulate", b.entry("metric0"), b.call("mae", logits, y), weight=4.0)
    found = listed(b.program(loss=loss), epilogues=False)
    assert found[:3] == ["gather_step_rows", "product", "head_softmax_cross_entropy_rows"]
    assert found[3:] == ["mae", "total", "accumulate"]


def test_consecutive_batches_are_fetched_by_one_launch(listed, step_of):
    assert listed(step_of(small(), SGD(), 4))[0] == "gather_step_labels"


def test_targets_that_are_rows_are_fetched_and_compared_like_labels(listed, step_of):
    model = MLP([8, 6, 4], loss="mse")
    found = listed(step_of(model, SGD(), 4, gather=40))
    assert found[0] == "gather_step_rows"
    assert found[-3:] == ["tick", "sgd", "advance"]
    assert "guard" in found


def test_a_wide_loss_leaves_the_bias_gradient_to_the_product(listed, step_of):
    model = MLP([16, 1000], loss="softmax_cross_entropy")
    found = listed(step_of(model, SGD(momentum=0.9), 512))
    assert found == ["gather_step_labels", "product+bias", HEAD, "product+bias_grad", "momentum"]
    found = listed(step_of(model, SGD(momentum=0.9), 512), epilogues=False)
    assert found[-4:] == ["product", "bias_grad", "column_totals", "momentum"]


@pytest.mark.parametrize("activation", ["tanh", "gelu", "silu", "elu"])
def test_other_activations_take_the_bias_and_their_slope_the_bias_gradient(
    listed, step_of, activation
):
    for epilogues in (True, False):
        found = listed(step_of(small(activation=activation), SGD(), 4), epilogues)
        assert found[1:3] == ["product", f"bias_{activation}"]
        assert found[-5:-3] == ["product", f"{activation}_backward_bias_grad"]


def test_an_activation_without_fused_kernels_stays_by_itself(listed, step_of):
    found = listed(step_of(small(activation="softmax"), SGD(), 4))
    assert found[1:3] == ["product+bias", "softmax"]


def test_dropout_stands_between_products_and_slopes(listed, step_of):
    found = listed(step_of(small(dropout=0.5), Adam(), 4))
    assert found[:3] == ["gather_step_labels", LAYER, "dropout"]
    slope = ["product", "product", "dropout_backward", "relu_backward_bias_grad", "product", "adam"]
    assert found[-6:] == slope


def noisy(listed, counter, *, late):
    """A step whose number or row is read by a dropout, of the loss's result or of the input."""
    b = Builder(4)
    x, y = b.input("x", (4, 8)), b.input("y", (4,), "int64", interval=(0, 3))
    logits = b.call("matmul", x, b.parameter("w", (8, 3)))
    loss, probs = b.call("softmax_cross_entropy", logits, y)
    differentiate(b, loss)
    noise, _ = b.call("dropout", probs if late else x, b.entry("seed"), b.entry(counter), p=0.5)
    with b.update_phase():
        names = ("step", "epoch_step", "learning_rate")
        b.emit("tick", [*map(b.entry, names), b.flat("schedule")], [], {})
        b.call("advance", b.entry("row"), rows=4)
    return listed(b.program(guard=loss, loss=loss, noise=noise))


@pytest.mark.parametrize("counter", ["step", "epoch_step"])
def test_a_counter_is_not_changed_before_it_is_read(listed, counter):
    found = noisy(listed, counter, late=True)
    assert found.index(HEAD) < found.index("dropout") < found.index("tick")
    assert "advance" not in found


def test_the_row_stays_until_it_is_read(listed):
    found = noisy(listed, "row", late=True)
    assert found.index(HEAD) < found.index("dropout") < found.index("advance")
    assert "tick" not in found


def test_who_reads_a_counter_may_come_before_the_head_that_changes_it(listed):
    found = noisy(listed, "step", late=False)
    assert found.index("dropout") < found.index(HEAD)
    assert not {"tick", "advance", "guard"} & set(found)


def test_a_penalty_keeps_the_guard_and_the_bookkeeping_apart(listed, step_of):
    found = listed(step_of(small(l2=1e-3), SGD(), 4))
    assert found.count(HEAD) == 1
    assert found[-5:] == ["guard", "accumulate", "tick", "sgd", "advance"]
    assert "softmax_cross_entropy_backward_labels" not in found


def test_a_loss_that_counts_twice_has_a_derivative_of_its_own(listed):
    b = Builder(4)
    x, y = b.input("x", (4, 8)), b.input("y", (4,), "int64", interval=(0, 3))
    loss, _ = b.call("softmax_cross_entropy", b.call("matmul", x, b.parameter("w", (8, 3))), y)
    differentiate(b, b.call("add", loss, loss))
    found = listed(b.program(loss=loss))
    assert found[2:] == [HEAD, "add", "add", "softmax_cross_entropy_backward_labels", "product"]


def test_a_single_column_is_counted_by_its_threshold(listed):
    b = Builder(4)
    x, y = b.input("x", (4, 1)), b.input("y", (4, 1))
    loss, _ = b.call("softmax_cross_entropy", x, y)
    with b.update_phase():
        b.call("count", b.entry("metric0"), b.call("count_correct", x, y))
    found = listed(b.program(loss=loss))
    assert found[1:] == [
        "head_softmax_cross_entropy_rows",
        "count_correct_binary",
        "total_hits",
        "count",
    ]


def test_evaluation_counts_in_the_head(listed):
    program = evaluate_program(small(), 4, labels=True, metrics=("accuracy",))
    assert listed(program) == ["gather_step_labels", LAYER, "product+bias", HEAD]


def test_prediction_launches_neither_window(listed):
    found = listed(predict_program(small(), 4, link="softmax"))
    assert found == [LAYER, "product+bias", "softmax", "advance"]


def test_a_skip_connection_costs_its_sums_only(listed):
    b = Builder(4)
    x, y = b.input("x", (4, 8)), b.input("y", (4, 8))
    w, c = b.parameter("w", (8, 8)), b.parameter("c", (8,))
    h = b.call("relu", b.call("linear", x, w, c))
    v, d = b.parameter("v", (8, 8)), b.parameter("d", (8,))
    loss = b.call("mse", b.call("add", b.call("linear", h, v, d), h), y)
    differentiate(b, loss)
    found = listed(b.program(loss=loss))
    forward = ["gather_step_rows", LAYER, "product+bias", "add", "mse", "total", "mse_backward"]
    assert found[:7] == forward
    assert "identity" not in found
    assert sorted(found[7:]) == sorted(
        ["product", "product+bias_grad", "add", "relu_backward_bias_grad", "product"]
    )


def test_what_is_launched_is_said(outlined, step_of):
    program = specialise(step_of(small(), SGD(), 4), outlined)
    first, *lines = describe(outlined, program)
    assert first == f"Runs as {len(lines)} launches a step, 5 of them products:"
    assert lines[1] == "2. product: matmul bias_add relu (linear0 activation1)"
    assert lines[-1] == f"{len(lines)}. sgd_vec: sgd (update)"


def test_a_kernel_in_python_is_said_to_need_the_interpreter(outlined, step_of):
    def relu(x, *, out):
        out[...] = x

    swapped = outlined.replace(relu=relu)
    (line,) = describe(swapped, specialise(step_of(small(), SGD(), 4), swapped))
    assert line.startswith("Runs in the interpreter: relu is served by ")
