import numpy as np
import pytest

from nnkernels import get_backend
from nnkernels.program import Builder, Interpreter, State
from nnkernels.testing import networks
from nnkernels.testing.noise import DRAWS, FRACTION, Perturbed


def moves(build, rows, **arrays):
    """How far the result of a Program is moved, by draw, in units of its bounds."""
    b = Builder(rows, "float64")
    slots = [b.input(name, a.shape) for name, a in arrays.items()]
    program = b.program(result=build(b, *slots))
    backend = get_backend("reference")
    results = []
    for number in (None, *range(DRAWS)):
        state = State(program.layout, backend.device)
        if number is None:
            run = Interpreter(backend, program, state)
        else:
            run = Perturbed("float32", np.random.default_rng(number), backend, program, state)
        run.feed(**arrays)
        assert run.run(1) == 1
        results.append(run.fetch("result"))
    return [(moved - results[0]) / FRACTION for moved in results[1:]]


def test_results_are_moved_to_an_end_of_their_bounds():
    x = np.array([[1.0, -3.0]])
    found = moves(lambda b, x: b.call("bias_grad", x), 1, x=x)
    bound = 2 * 2.0**-23 * np.abs(x[0])
    np.testing.assert_allclose(np.abs(found), np.tile(bound, (DRAWS, 1)), rtol=1e-3)
    assert {tuple(np.sign(move)) for move in found} > {(1.0, -1.0), (-1.0, 1.0)}


def test_a_sum_that_cancels_has_the_noise_of_its_terms():
    x, w = np.array([[1000.0], [-1000.0]]), np.ones((1, 1))
    found = moves(lambda b, x, w: b.call("bias_grad", b.call("matmul", x, w)), 2, x=x, w=w)
    products, total = 2 * (2 * 1000), 2 * np.sqrt(2) * 2000  # bounds of two products and their sum
    assert np.abs(found).max() == pytest.approx((products + total) * 2.0**-23, rel=1e-3)


def test_an_exact_zero_stays():
    x = np.array([[1.0, 1.0], [-1.0, 2.0]])
    found = np.array(moves(lambda b, x: b.call("bias_grad", x), 2, x=x))
    assert not found[:, 0].any()
    assert found[:, 1].all()


@pytest.mark.parametrize("seed", range(networks.COUNT))
def test_a_gradient_is_all_noise_or_well_above(seed):
    """So which of the two it is needs no constant: there is nothing in between."""
    network = networks._exact(networks.random_network(seed, "float32"))
    state, _ = networks.run_network(network, get_backend("reference"), 1)
    for name, values in networks._named(network, state).items():
        size, noise = np.abs(values).max(), networks.noise(seed)[name]
        assert size <= 1e-6 * noise or size >= 100 * noise or not size, name
