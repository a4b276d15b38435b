"""JAX on the CPU: one compiled call a step, or one for any number of steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from benchmarks.peers.problem import Problem
from nnkernels.bench.harness.networks import Network

_ACTIVATIONS = {"sigmoid": jax.nn.sigmoid, "relu": jax.nn.relu, "tanh": jnp.tanh}
Tree = Any


class State(NamedTuple):
    """Parameters, the optimizer's moments, the number of updates, and the sum of the losses.

    The sum keeps the compiler from dropping the loss, which nothing else needs.
    """

    parameters: Tree
    first: Tree
    second: Tree
    count: Any
    loss: Any


class _Jax:
    """What both forms share: the state, which every call gives away and gets back."""

    def __init__(self, problem: Problem, threads: int) -> None:
        self._problem = problem
        self._rate = problem.network.learning_rate
        self.reset()

    def reset(self) -> None:
        """Initial weights and zero moments."""
        layers = [(jnp.array(w), jnp.array(b)) for w, b in self._problem.initial]
        zeros = {"sgd": 0, "momentum": 1, "adam": 2}[self._problem.network.optimizer]
        first = jax.tree.map(jnp.zeros_like, layers) if zeros > 0 else ()
        second = jax.tree.map(jnp.zeros_like, layers) if zeros > 1 else ()
        self._state = State(layers, first, second, jnp.int32(0), jnp.float32(0))
        self._next = 0

    def set_rate(self, rate: float) -> None:
        """It is an argument of the compiled function."""
        self._rate = rate

    def outputs(self) -> list[Any]:
        """Weights, then biases."""
        layers = jax.device_get(self._state.parameters)
        return [*(w for w, _ in layers), *(b for _, b in layers)]


class Step(_Jax):
    """A compiled step, called from Python; the batches are on the device before."""

    def __init__(self, problem: Problem, threads: int) -> None:
        super().__init__(problem, threads)
        step, arrays = _step(problem.network), [jnp.array(problem.data.x)]
        arrays.append(jnp.array(problem.targets))
        rows = [problem.rows(number) for number in range(problem.cycle)]
        if problem.order is None:
            self._batches = [[a[r] for a in arrays] for r in rows]
        else:
            self._batches = [[*arrays, jnp.array(r)] for r in rows]

        def call(state: State, rate: Any, *batch: Any) -> State:
            if len(batch) == 2:
                return step(state, rate, *batch)
            x, y, rows = batch
            return step(state, rate, x[rows], y[rows])

        self._call = jax.jit(call, donate_argnums=0)

    def run(self, steps: int) -> None:
        """Call once a step."""
        state = self._state
        for number in range(self._next, self._next + steps):
            state = self._call(state, self._rate, *self._batches[number % len(self._batches)])
        self._state = jax.block_until_ready(state)
        self._next += steps


class Loop(_Jax):
    """``fori_loop`` over the steps inside of one compiled call: the fastest form we know."""

    def __init__(self, problem: Problem, threads: int) -> None:
        super().__init__(problem, threads)
        step, cycle, batch = _step(problem.network), problem.cycle, problem.network.batch
        self._arrays = [jnp.array(problem.data.x), jnp.array(problem.targets)]
        if problem.order is None:
            arrays = [a[: cycle * batch] for a in self._arrays]
            self._arrays = [a.reshape(cycle, batch, *a.shape[1:]) for a in arrays]
        else:
            self._arrays.append(jnp.array(problem.order))

        def loop(state: State, rate: Any, first: Any, steps: Any, arrays: Any) -> State:
            def body(number: Any, state: State) -> State:
                return step(state, rate, *_take(arrays, (first + number) % cycle))

            return jax.lax.fori_loop(0, steps, body, state)

        self._call = jax.jit(loop, donate_argnums=0)

    def run(self, steps: int) -> None:
        """Call once."""
        place = self._next % self._problem.cycle
        state = self._call(self._state, self._rate, place, steps, self._arrays)
        self._state = jax.block_until_ready(state)
        self._next += steps


def _take(arrays: Any, number: Any) -> tuple[Any, Any]:
    """Batch ``number``: of batches in a row, or gathered by an order."""
    if len(arrays) == 2:
        x, y = (jax.lax.dynamic_index_in_dim(a, number, keepdims=False) for a in arrays)
        return x, y
    x, y, order = arrays
    rows = jax.lax.dynamic_index_in_dim(order, number, keepdims=False)
    return x[rows], y[rows]


def _step(network: Network) -> Callable[[State, Any, Any, Any], State]:
    """Loss, gradients, update."""
    update = {"sgd": _sgd, "momentum": _momentum, "adam": _adam}[network.optimizer]
    loss = _loss(network)

    def step(state: State, rate: Any, x: Any, y: Any) -> State:
        value, gradients = jax.value_and_grad(loss)(state.parameters, x, y)
        return update(state._replace(loss=state.loss + value), gradients, rate)

    return step


def _loss(network: Network) -> Callable[[Tree, Any, Any], Any]:
    activation = _ACTIVATIONS[network.activation]

    def loss(parameters: Tree, x: Any, y: Any) -> Any:
        for number, (weight, bias) in enumerate(parameters):
            x = x @ weight + bias
            if number < len(parameters) - 1 or network.output_activation:
                x = activation(x)
        if network.loss == "softmax_cross_entropy":
            return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(x), y[:, None], axis=1))
        total = jnp.sum((x - y) ** 2)
        return total / (x.size if network.loss == "mse" else len(x))

    return loss


def _sgd(state: State, gradients: Tree, rate: Any) -> State:
    parameters = jax.tree.map(lambda p, g: p - rate * g, state.parameters, gradients)
    return state._replace(parameters=parameters)


def _momentum(state: State, gradients: Tree, rate: Any) -> State:
    first = jax.tree.map(lambda m, g: 0.9 * m + g, state.first, gradients)
    parameters = jax.tree.map(lambda p, m: p - rate * m, state.parameters, first)
    return state._replace(parameters=parameters, first=first)


def _adam(state: State, gradients: Tree, rate: Any) -> State:
    count = state.count + 1
    first = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, state.first, gradients)
    second = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, state.second, gradients)
    correct1, correct2 = 1 / (1 - 0.9**count), 1 / (1 - 0.999**count)
    parameters = jax.tree.map(
        lambda p, m, v: p - rate * (m * correct1) / (jnp.sqrt(v * correct2) + 1e-8),
        state.parameters,
        first,
        second,
    )
    return state._replace(parameters=parameters, first=first, second=second, count=count)
