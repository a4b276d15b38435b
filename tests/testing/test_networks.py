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
