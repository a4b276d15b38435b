"""Optimizers: which update operator runs on the flat parameter vector, and with what."""

from __future__ import annotations

from typing import Any

import msgspec

from nnkernels.errors import InputError, unknown
from nnkernels.nn.checks import check_number
from nnkernels.program import Builder
from nnkernels.spec import get_op


class Optimizer(msgspec.Struct, frozen=True, tag_field="kind"):
    """Base of all optimizers; ``learning_rate`` is the rate before any schedule."""

    def operator(self) -> tuple[str, tuple[str, ...], dict[str, Any]]:
        """Name of the update operator, its moment buffers, and its parameters."""
        raise NotImplementedError

    @property
    def rate(self) -> float:
        """The learning rate."""
        rate: float = self.learning_rate  # type: ignore[attr-defined]  # every subclass has one
        return rate

    def check(self) -> None:
        """Refuse parameters that are out of range."""
        check_number(f"{type(self).__name__}: learning_rate", self.rate, "(0,inf)")
        name, _, params = self.operator()
        get_op(name).full_params(params)

    def build(self, builder: Builder) -> None:
        """Append the update instruction."""
        name, moments, params = self.operator()
        op = get_op(name)
        slots = [builder.flat(b) for b in ("parameters", "gradients", *moments)]
        slots.append(builder.entry("learning_rate"))
        if "step" in op.inputs:
            slots.append(builder.entry("step"))
        builder.emit(name, slots, (), op.full_params(params))


class SGD(Optimizer, frozen=True, tag="sgd"):
    """Gradient descent, with classical or Nesterov momentum on request (``torch.optim.SGD``)."""

    learning_rate: float = 0.01
    momentum: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0

    def operator(self) -> tuple[str, tuple[str, ...], dict[str, Any]]:
        """``sgd``, or ``momentum`` with a velocity."""
        if self.momentum == 0:
            if self.nesterov:
                raise InputError("SGD: nesterov needs a momentum above 0")
            return "sgd", (), {"weight_decay": self.weight_decay}
        return (
            "momentum",
            ("velocity",),
            {
                "beta": self.momentum,
                "nesterov": self.nesterov,
                "weight_decay": self.weight_decay,
            },
        )


class RMSprop(Optimizer, frozen=True, tag="rmsprop"):
    """RMSprop (``torch.optim.RMSprop``)."""

    learning_rate: float = 0.01
    alpha: float = 0.99
    eps: float = 1e-8
    weight_decay: float = 0.0

    def operator(self) -> tuple[str, tuple[str, ...], dict[str, Any]]:
        """``rmsprop`` with a second moment."""
        params = {"alpha": self.alpha, "eps": self.eps, "weight_decay": self.weight_decay}
        return "rmsprop", ("moment2",), params


class Adam(Optimizer, frozen=True, tag="adam"):
    """Adam (``torch.optim.Adam``); ``weight_decay`` is an L2 term of the gradient."""

    learning_rate: float = 0.001
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.0

    def operator(self) -> tuple[str, tuple[str, ...], dict[str, Any]]:
        """``adam``, or ``adamw``, with two moments."""
        params = {name: getattr(self, name) for name in ("beta1", "beta2", "eps", "weight_decay")}
        return str(self.__struct_config__.tag), ("moment1", "moment2"), params


class AdamW(Adam, frozen=True, tag="adamw"):
    """Adam with decoupled weight decay (``torch.optim.AdamW``)."""

    weight_decay: float = 0.01


AnyOptimizer = SGD | RMSprop | Adam | AdamW
OPTIMIZERS: dict[str, Any] = {
    "sgd": SGD,
    "momentum": lambda **kw: SGD(**{"momentum": 0.9, **kw}),
    "nesterov": lambda **kw: SGD(**{"momentum": 0.9, "nesterov": True, **kw}),
    "rmsprop": RMSprop,
    "adam": Adam,
    "adamw": AdamW,
}


def as_optimizer(value: str | Optimizer, learning_rate: float | None = None) -> Optimizer:
    """An optimizer from a name or an Optimizer, checked; ``learning_rate`` replaces its own."""
    if isinstance(value, str):
        if value not in OPTIMIZERS:
            raise unknown("optimizer", value, OPTIMIZERS)
        made: Optimizer = OPTIMIZERS[value]()
    elif isinstance(value, Optimizer):
        made = value
    else:
        raise InputError(f"optimizer must be a name or an Optimizer, got {value!r}")
    if learning_rate is not None:
        made = msgspec.structs.replace(made, learning_rate=learning_rate)
    made.check()
    return made
