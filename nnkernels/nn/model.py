"""Models: named arrays and how they are lowered to the forward part of a Program."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from nnkernels.errors import InputError, unknown
from nnkernels.nn.checks import as_finite, as_numeric, check_arrays, check_number, check_whole
from nnkernels.nn.initialisers import default_for
from nnkernels.nn.layers import (
    NORMS,
    AnyLayer,
    Dropout,
    Layer,
    Linear,
    as_activation,
    check_width,
)
from nnkernels.nn.losses import Loss, as_loss
from nnkernels.program import Builder
from nnkernels.program.builder import check_floating
from nnkernels.spec import Array

MAX_PARAMETERS = 1 << 31
MAX_LAYERS = 10_000


class Model:
    """A network given by a function that builds its forward pass.

    Args:
        forward: ``forward(builder, x, training) -> slot``: appends the instructions from the input
            slot ``x`` to the prediction, using ``builder.parameter(name, shape)`` for the arrays.
        parameters: initial values by name; they decide what is trained.
        inputs: columns of the input.
        outputs: columns of the prediction.
        loss: name of a loss, or a :class:`~nnkernels.nn.Loss`.
        statistics: arrays that are kept but not trained, by name.
        dtype: ``"float32"`` or ``"float64"``.
        seed: of the shuffling and of dropout.
    """

    def __init__(
        self,
        forward: Callable[[Builder, int, bool], int],
        parameters: Mapping[str, Any],
        *,
        inputs: int,
        outputs: int,
        loss: str | Loss = "softmax_cross_entropy",
        statistics: Mapping[str, Any] | None = None,
        dtype: str = "float32",
        seed: int = 0,
    ) -> None:
        self._forward = forward
        self._describe(inputs, outputs, loss, dtype, seed)
        self.parameters = {k: self._own(k, v) for k, v in parameters.items()}
        self.statistics = {k: self._own(k, v) for k, v in (statistics or {}).items()}

    def _describe(self, inputs: Any, outputs: Any, loss: Any, dtype: Any, seed: Any) -> None:
        self.inputs, self.outputs = check_width("inputs", inputs), check_width("outputs", outputs)
        self.loss = as_loss(loss)
        self.dtype = check_floating("model", dtype)
        self.seed = check_whole("model: seed", seed, 0, (1 << 63) - 1)

    def _own(self, name: str, value: Any) -> Array:
        what = f"parameter {name!r}"
        return as_finite(what, as_numeric(what, value), self.dtype).copy()

    def forward(self, builder: Builder, x: int, *, training: bool) -> int:
        """Append the instructions from input slot ``x`` to the prediction; returns its slot."""
        return self._forward(builder, x, training)

    def penalty(self, builder: Builder) -> list[int]:
        """Append scalar terms to be added to the loss (regularisation); returns their slots."""
        return []

    def declare(self, builder: Builder) -> None:
        """Declare all arrays in ``builder``, in the order that every Program shares."""
        for name, array in self.parameters.items():
            builder.parameter(name, array.shape)
        for name, array in self.statistics.items():
            builder.statistic(name, array.shape)

    def set_parameters(self, values: Mapping[str, Any]) -> None:
        """Replace parameters or statistics by name; shapes must agree.

        Raises:
            UnknownNameError, ShapeError, DTypeError, NonFiniteError: nothing is changed then.
        """
        arrays = {**self.parameters, **self.statistics}
        for name, value in check_arrays(arrays, values).items():
            arrays[name][...] = value

    @property
    def parameter_count(self) -> int:
        """Number of trained values."""
        return sum(a.size for a in self.parameters.values())

    def summary(self) -> str:
        """A table of the arrays with shapes and counts."""
        rows = [(n, "x".join(map(str, a.shape)) or "1", a.size) for n, a in self.parameters.items()]
        width = max([len(r[0]) for r in rows] + [len("parameters")])
        lines = [f"{'array':<{width}}  {'shape':>14}  {'values':>12}"]
        lines += [f"{n:<{width}}  {s:>14}  {c:>12,}" for n, s, c in rows]
        lines += [f"{'parameters':<{width}}  {'':>14}  {self.parameter_count:>12,}"]
        return "\n".join(lines)

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}({self.inputs} -> {self.outputs}, "
            f"{self.parameter_count:,} parameters, {self.loss.name}, {self.dtype})"
        )


class Architecture(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All that describes an MLP besides its arrays; what a checkpoint stores as JSON."""

    inputs: int
    layers: list[AnyLayer]
    loss: Loss
    l1: float = 0.0
    l2: float = 0.0
    dtype: str = "float32"
    seed: int = 0


class MLP(Model):
    """A multi-layer perceptron, declared by its layer sizes or by its layers.

    Args:
        layers: sizes, as in ``[784, 64, 32, 10]``; or the number of inputs followed by layers, as
            in ``[784, Linear(64), BatchNorm(), Activation("relu"), Linear(10)]``.
        activation: of the hidden layers: a name, an operator, an Activation, or one for each.
        output_activation: after the last layer; by default none (the loss takes logits or values).
        loss: name of a loss or a Loss.
        initialiser: of the weights; by default He for rectifiers and Glorot for the rest.
        bias_initialiser: of the biases.
        dropout: probability after every hidden activation.
        norm: ``"batch"`` or ``"layer"``: normalisation before every hidden activation.
        l1, l2: strengths of penalties on all weights (not on biases).
        dtype: ``"float32"`` or ``"float64"``.
        seed: of the initial weights, the shuffling and dropout.
        parameters: given arrays that replace initial ones, by name (see ``summary()``).

    The options from ``activation`` on apply to sizes only; explicit layers say it themselves.
    """

    def __init__(
        self,
        layers: Sequence[int | Layer],
        *,
        activation: Any = "relu",
        output_activation: Any = None,
        loss: str | Loss = "softmax_cross_entropy",
        initialiser: str | None = None,
        bias_initialiser: str = "zeros",
        dropout: float = 0.0,
        norm: str | None = None,
        l1: float = 0.0,
        l2: float = 0.0,
        dtype: str = "float32",
        seed: int = 0,
        parameters: Mapping[str, Any] | None = None,
    ) -> None:
        layers = list(layers) if isinstance(layers, Iterable) else [layers]
        if not 2 <= len(layers) <= MAX_LAYERS:
            raise InputError(
                f"MLP: give the number of inputs and 1 to {MAX_LAYERS - 1} layers, as in "
                f"[784, 64, 10]; got {len(layers)} entries"
            )
        first, *rest = layers
        inputs = check_width("MLP: the number of inputs", first)
        if all(isinstance(layer, Layer) for layer in rest):
            stack = [layer for layer in rest if isinstance(layer, Layer)]
        else:
            options = (activation, output_activation, initialiser, bias_initialiser, dropout, norm)
            stack = _stack([check_width("MLP: layer size", n) for n in rest], *options)
        self._from_architecture(
            # Every Layer that can be declared is in the union that a checkpoint stores.
            Architecture(inputs, stack, as_loss(loss), l1, l2, check_floating("MLP", dtype), seed)  # type: ignore[arg-type]
        )
        self.set_parameters(parameters or {})

    @classmethod
    def from_architecture(cls, architecture: Architecture) -> MLP:
        """The MLP that ``architecture`` describes, with fresh initial weights."""
        model = cls.__new__(cls)
        model._from_architecture(architecture)
        return model

    def _from_architecture(self, architecture: Architecture) -> None:
        _check_layers(architecture)
        self.architecture = architecture
        self.layers: list[Layer] = list(architecture.layers)
        width, widths = architecture.inputs, [architecture.inputs]
        for layer in self.layers:
            width = layer.width(width)
            widths.append(width)
        self._describe(
            architecture.inputs, width, architecture.loss, architecture.dtype, architecture.seed
        )
        rng = np.random.default_rng(self.seed)
        self.parameters, self.statistics = {}, {}
        for index, (layer, inputs) in enumerate(zip(self.layers, widths, strict=False)):
            label = layer.label(index)
            for name, array in layer.parameters(inputs, rng).items():
                self.parameters[f"{label}.{name}"] = self._own(name, array)
            for name, array in layer.statistics(inputs).items():
                self.statistics[f"{label}.{name}"] = self._own(name, array)

    def forward(self, builder: Builder, x: int, *, training: bool) -> int:
        """One layer after the other."""
        for index, layer in enumerate(self.layers):
            with builder.label(layer.label(index)):
                x = layer.build(builder, x, index, training=training)
        return x

    def penalty(self, builder: Builder) -> list[int]:
        """L1 and L2 terms of the weights."""
        terms = []
        for kind in ("l1", "l2"):
            strength = getattr(self.architecture, kind)
            if strength > 0:
                with builder.label(kind):
                    terms += [
                        builder.call(
                            f"{kind}_penalty", builder.parameter(n, a.shape), strength=strength
                        )
                        for n, a in self.parameters.items()
                        if n.endswith(".weight")
                    ]
        return terms


def _stack(
    sizes: list[int],
    activation: Any,
    output_activation: Any,
    initialiser: str | None,
    bias_initialiser: str,
    dropout: float,
    norm: str | None,
) -> list[Layer]:
    hidden = len(sizes) - 1
    activations = (
        list(activation) if isinstance(activation, (list, tuple)) else [activation] * hidden
    )
    if len(activations) != hidden:
        raise InputError(
            f"MLP: {hidden} hidden layers need {hidden} activations, got {len(activations)}"
        )
    if norm is not None and norm not in NORMS:
        raise unknown("norm", norm, NORMS)
    layers: list[Layer] = []
    for size, chosen in zip(sizes[:-1], map(as_activation, activations), strict=True):
        layers.append(Linear(size, initialiser or default_for(chosen.name), bias_initialiser))
        layers += [NORMS[norm]()] if norm else []
        layers.append(chosen)
        layers += [Dropout(dropout)] if dropout else []
    last = None if output_activation is None else as_activation(output_activation)
    layers.append(
        Linear(sizes[-1], initialiser or default_for(last.name if last else None), bias_initialiser)
    )
    return [*layers, last] if last else layers


def _check_layers(architecture: Architecture) -> None:
    width, total = check_width("MLP: the number of inputs", architecture.inputs), 0
    for index, layer in enumerate(architecture.layers):
        where = f"MLP: layer {index} ({type(layer).__name__})"
        layer.check(where)
        if isinstance(layer, Linear):
            total += (width + 1) * layer.units
        width = layer.width(width)
    if total > MAX_PARAMETERS:
        raise InputError(f"MLP: {total:,} parameters, at most {MAX_PARAMETERS:,} are supported")
    for kind in ("l1", "l2"):
        check_number(f"MLP: {kind}", getattr(architecture, kind), "[0,inf)")
