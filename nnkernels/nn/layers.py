"""Layers: what an MLP is declared with.

A layer is plain data. ``parameters`` and ``statistics`` give the arrays it owns, ``build`` appends
its instructions to a Program.
"""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np

from nnkernels.errors import unknown
from nnkernels.nn.checks import check_number, check_whole
from nnkernels.nn.initialisers import get_initialiser
from nnkernels.program import Builder
from nnkernels.spec import OPERATORS, Array, Op

Arrays = dict[str, Array]


class Layer(msgspec.Struct, frozen=True, tag_field="kind"):
    """Base of all layers."""

    def label(self, index: int) -> str:
        """Name of the layer at position ``index``; its arrays are called ``<label>.<array>``."""
        return f"{self.__struct_config__.tag}{index}"

    def check(self, where: str) -> None:
        """Refuse values that are out of range; ``where`` names the layer in messages."""

    def width(self, inputs: int) -> int:
        """Columns of the output for ``inputs`` columns."""
        return inputs

    def parameters(self, inputs: int, rng: np.random.Generator) -> Arrays:
        """Initial values of the trained arrays."""
        return {}

    def statistics(self, inputs: int) -> Arrays:
        """Initial values of the arrays that are kept, not trained."""
        return {}

    def build(self, builder: Builder, x: int, index: int, *, training: bool) -> int:
        """Append the layer to ``builder``; returns the slot of its output."""
        raise NotImplementedError


class Linear(Layer, frozen=True, tag="linear"):
    """Fully connected: ``y = x w + b``.

    Attributes:
        units: columns of the output.
        initialiser: of the weight, a name of :mod:`nnkernels.nn.initialisers`.
        bias_initialiser: of the bias; ``zeros`` or another name, applied with a fan-in of 1.
    """

    units: int
    initialiser: str = "glorot_uniform"
    bias_initialiser: str = "zeros"

    def check(self, where: str) -> None:
        """``units`` is a width, the initialisers are known."""
        check_width(f"{where}: units", self.units)
        for name in (self.initialiser, self.bias_initialiser):
            get_initialiser(name)

    def width(self, inputs: int) -> int:
        """``units``."""
        return self.units

    def parameters(self, inputs: int, rng: np.random.Generator) -> Arrays:
        """``weight`` (inputs, units) and ``bias`` (units)."""
        weight = get_initialiser(self.initialiser)(rng, inputs, self.units)
        bias = get_initialiser(self.bias_initialiser)(rng, 1, self.units)
        return {"weight": weight, "bias": bias.reshape(self.units)}

    def build(self, builder: Builder, x: int, index: int, *, training: bool) -> int:
        """One ``linear`` instruction."""
        inputs, name = builder.slots[x].shape[1], self.label(index)
        weight = builder.parameter(f"{name}.weight", (inputs, self.units))
        bias = builder.parameter(f"{name}.bias", (self.units,))
        slot: int = builder.call("linear", x, weight, bias)
        return slot


class Activation(Layer, frozen=True, tag="activation"):
    """An activation function of the catalogue, by name, with its parameters."""

    name: str
    params: dict[str, float | str] = {}

    def check(self, where: str) -> None:
        """The name is an activation's, the parameters are its own."""
        as_activation(self)

    def build(self, builder: Builder, x: int, index: int, *, training: bool) -> int:
        """One instruction."""
        slot: int = builder.call(self.name, x, **self.params)
        return slot


class Dropout(Layer, frozen=True, tag="dropout"):
    """Zero elements with probability ``p`` in training, scale the others by ``1 / (1 - p)``."""

    p: float = 0.5

    def check(self, where: str) -> None:
        """``p`` is a probability below 1."""
        check_number(f"{where}: p", self.p, "[0,1)")

    def build(self, builder: Builder, x: int, index: int, *, training: bool) -> int:
        """One ``dropout`` instruction in training, none otherwise."""
        if not training or self.p == 0:
            return x
        y, _ = builder.call(
            "dropout", x, builder.entry("seed"), builder.entry("step"), p=self.p, layer=index
        )
        slot: int = y
        return slot


class BatchNorm(Layer, frozen=True, tag="batch_norm"):
    """Batch normalisation over the rows, with running statistics for inference."""

    momentum: float = 0.1
    eps: float = 1e-5

    def check(self, where: str) -> None:
        """``momentum`` is a weight, ``eps`` positive."""
        check_number(f"{where}: momentum", self.momentum, "[0,1]")
        check_number(f"{where}: eps", self.eps, "(0,inf)")

    def parameters(self, inputs: int, rng: np.random.Generator) -> Arrays:
        """``gamma`` ones and ``beta`` zeros."""
        return {"gamma": np.ones(inputs), "beta": np.zeros(inputs)}

    def statistics(self, inputs: int) -> Arrays:
        """``running_mean`` zeros and ``running_variance`` ones."""
        return {"running_mean": np.zeros(inputs), "running_variance": np.ones(inputs)}

    def build(self, builder: Builder, x: int, index: int, *, training: bool) -> int:
        """``batch_norm`` and, in the update phase, its running statistics."""
        shape, name = (builder.slots[x].shape[1],), self.label(index)
        gamma, beta = (builder.parameter(f"{name}.{p}", shape) for p in ("gamma", "beta"))
        kept = [builder.statistic(f"{name}.running_{s}", shape) for s in ("mean", "variance")]
        if not training:
            slot: int = builder.call("batch_norm_inference", x, gamma, beta, *kept, eps=self.eps)
            return slot
        y, mean, variance, *_ = builder.call("batch_norm", x, gamma, beta, eps=self.eps)
        params = {"rows": builder.rows, "momentum": self.momentum}
        builder.after_update("update_running_statistics", [*kept, mean, variance], params)
        result: int = y
        return result


class LayerNorm(Layer, frozen=True, tag="layer_norm"):
    """Normalisation of every row."""

    eps: float = 1e-5

    def check(self, where: str) -> None:
        """``eps`` is positive."""
        check_number(f"{where}: eps", self.eps, "(0,inf)")

    def parameters(self, inputs: int, rng: np.random.Generator) -> Arrays:
        """``gamma`` ones and ``beta`` zeros."""
        return {"gamma": np.ones(inputs), "beta": np.zeros(inputs)}

    def build(self, builder: Builder, x: int, index: int, *, training: bool) -> int:
        """One ``layer_norm`` instruction."""
        shape, name = (builder.slots[x].shape[1],), self.label(index)
        gamma, beta = (builder.parameter(f"{name}.{p}", shape) for p in ("gamma", "beta"))
        y, *_ = builder.call("layer_norm", x, gamma, beta, eps=self.eps)
        slot: int = y
        return slot


AnyLayer = Linear | Activation | Dropout | BatchNorm | LayerNorm
NORMS: dict[str, type[BatchNorm] | type[LayerNorm]] = {"batch": BatchNorm, "layer": LayerNorm}


def is_activation(op: Op[Any, Any]) -> bool:
    """Whether an operator can stand between layers: one input, its shape kept, a derivative."""
    if op.derivative is None or len(op.inputs) != 1 or op.updates:
        return False
    signature = op.signatures(op.params)[0]
    before, after = signature.inputs[0].dims, signature.outputs[0].dims
    return signature.rowwise and after == tuple(label.rstrip("+") for label in before)


def activation_names() -> list[str]:
    """Names of all operators that can be used as activation."""
    return sorted(name for name, op in OPERATORS.items() if is_activation(op))


def as_activation(value: Any) -> Activation:
    """An :class:`Activation` from a name, an operator or an Activation, checked."""
    activation = (
        value if isinstance(value, Activation) else Activation(getattr(value, "name", value))
    )
    if activation.name not in OPERATORS or not is_activation(OPERATORS[activation.name]):
        raise unknown("activation", str(activation.name), activation_names())
    OPERATORS[activation.name].full_params(activation.params)
    return activation


def check_width(what: str, value: Any) -> int:
    """A layer's number of columns."""
    return check_whole(what, value, 1, 1 << 24)
