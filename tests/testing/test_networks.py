from dataclasses import replace

import numpy as np
import pytest

from nnkernels import get_backend
from nnkernels.program import Interpreter
from nnkernels.testing import networks as n
from nnkernels.testing.samples import activations
from nnkernels.testing.subject import CaseFailed


def test_networks_are_seeded_and_different():
    first, again, other = (n.random_network(seed, "float64") for seed in (3, 3, 4))
    assert first.program == again.program and first.description == again.description
    assert first.description != other.description
    assert all(np.array_equal(first.data[k], again.data[k]) for k in first.data)


def test_twenty_networks_use_most_of_the_catalogue():
    used = {
        i.op
        for seed in range(n.COUNT)
        for i in n.random_network(seed, "float64").program.instructions
    }
    assert used >= set(n.optimizers())
    assert len(used & set(activations(by_rows=True))) >= 0.6 * len(activations(by_rows=True))
    assert len(used & {name for name, _ in n.losses()}) >= 5


def test_every_step_changes_the_parameters():
    network = n.random_network(0, "float64")
    backend = get_backend("numpy")
    states = [n.run_network(network, backend, steps)[0] for steps in (0, 1, 2)]
    assert not np.array_equal(states[0]["parameters"], states[1]["parameters"])
    assert not np.array_equal(states[1]["parameters"], states[2]["parameters"])


class OffByABit(Interpreter):
    """An executor whose last parameter moves by one unit in the last place."""

    def run(self, steps, stop=None):
        done = super().run(steps, stop)
        last = self.state.buffers["parameters"]
        last[:1] = np.nextafter(last[:1], np.inf)
        return done


class Fused(OffByABit):
    """The same, after another program: held to the contract only."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.program = replace(self.program, instructions=())


@pytest.mark.parametrize(("executor", "right"), [(OffByABit, False), (Fused, True)])
def test_bits_must_agree_unless_the_executor_fuses(executor, right):
    backend = get_backend("numpy")
    odd = backend.__class__(
        "odd", backend.device, backend.kernels, executor, fallback=backend.fallback
    )
    cases = [c for dtype, c in n.network_cases(odd, quick=True) if c[0].startswith("interpreter")]
    assert len(cases) == 2 * n.QUICK_COUNT
    for _, function in cases:
        if right:
            function()
        else:
            with pytest.raises(CaseFailed, match="bits"):
                function()


# --- where bits may differ ------------------------------------------------------------------------


class Loose(Interpreter):
    """An executor that claims no bits; ``spoil`` changes the State after every step."""

    same_bits = False

    def run(self, steps, stop=None):
        done = super().run(steps, stop)
        self.spoil()
        return done

    def spoil(self):
        """By default nothing."""


class WithoutUpdates(Loose):
    def spoil(self):
        self.state.buffers["parameters"][...] = self.first

    def __init__(self, backend, program, state):
        super().__init__(backend, program, state)
        self.first = state.buffers["parameters"].copy()


class MissingASecondTick(Loose):
    def spoil(self):
        self.state.set("step", min(self.state.number("step"), 1))


class WithAWrongLoss(Loose):
    def spoil(self):
        self.state.view("loss_sum")[...] *= 1.001


class WithABiasGradientOfItsOwn(Loose):
    """Moves the gradient of network 13's first bias, which is zero, by more than its noise."""

    def spoil(self):
        if "layer1.b.gradient" in self.state.names("gradients"):
            self.state.view("layer1.b.gradient")[...] += 1e-4


def outcomes(executor, seed, against=n._against_interpreter):
    backend = get_backend("numpy")
    odd = backend.__class__(
        "odd", backend.device, backend.kernels, executor, fallback=backend.fallback
    )
    against(n.random_network(seed, "float32"), odd)


@pytest.mark.parametrize("seed", [0, 2, 13])
def test_an_executor_without_the_same_bits_may_pass(seed):
    outcomes(Loose, seed)


@pytest.mark.parametrize(
    ("executor", "what"),
    [
        (WithoutUpdates, "parameters"),
        (MissingASecondTick, "counters"),
        (WithAWrongLoss, "loss_sum"),
        (WithABiasGradientOfItsOwn, r"layer1\.b\.gradient"),
    ],
)
def test_it_is_refused_for_what_is_wrong(executor, what):
    with pytest.raises(CaseFailed, match=what):
        outcomes(executor, 13)


def test_a_gradient_that_is_zero_may_differ_from_the_oracle_by_its_noise():
    n._require_near(*zero(error=0.9e-5), noise={"b": 1e-5})
    with pytest.raises(CaseFailed, match=r"differs by 1\.1e-05, allowed 1e-05"):
        n._require_near(*zero(error=1.1e-5), noise={"b": 1e-5})


def test_a_gradient_above_its_noise_is_compared_with_its_size():
    with pytest.raises(CaseFailed, match=r"allowed 2e-05"):
        n._require_near(*zero(error=1e-3, size=1.0), noise={"b": 0.5})


def zero(*, error, size=0.0):
    values = np.array([size])
    return n.random_network(0, "float32"), {"b": values + error}, {"b": values}


def test_the_oracle_notices_a_bias_gradient_of_a_batch_norm_that_is_not_zero():
    outcomes(Loose, 13, n._against_oracle)
    with pytest.raises(CaseFailed, match=r"layer1\.b\.gradient"):
        outcomes(WithABiasGradientOfItsOwn, 13, n._against_oracle)
