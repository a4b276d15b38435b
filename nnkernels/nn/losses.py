"""Which losses a model can be trained with, and what its outputs then mean."""

from __future__ import annotations

from typing import Any

import msgspec

from nnkernels import signature as sig
from nnkernels.errors import unknown
from nnkernels.spec import OPERATORS, Op, get_op

CLASSIFIERS = (
    "softmax_cross_entropy",
    "categorical_cross_entropy",
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
)
"""Losses whose models give the probabilities of classes, at most after their link."""

LINKS = {"softmax_cross_entropy": "softmax", "binary_cross_entropy_with_logits": "sigmoid"}
"""Operator that turns a model's raw outputs into probabilities, where the loss takes logits."""

THRESHOLDS = {"binary_cross_entropy_with_logits": 0.0}
"""Score above which a single output means class 1, where it is not 0.5."""


class Loss(msgspec.Struct, frozen=True):
    """A loss operator of the catalogue with its parameters."""

    name: str
    params: dict[str, float | str] = {}

    @property
    def op(self) -> Op[Any, Any]:
        """The operator."""
        return get_op(self.name)

    @property
    def takes_labels(self) -> bool:
        """Whether targets may be class labels (integers)."""
        return any(s.inputs[1].kind == "int" for s in self.op.signatures(self.op.params))

    @property
    def target_interval(self) -> sig.Interval | None:
        """Where the values of targets that are rows of numbers must lie."""
        targets = [s.inputs[1] for s in self.op.signatures(self.op.params)]
        return next((t.interval for t in targets if t.kind == "float"), None)

    @property
    def classifies(self) -> bool:
        """Whether a model trained with it tells classes."""
        return self.name in CLASSIFIERS

    @property
    def link(self) -> str | None:
        """Operator from raw outputs to probabilities; None where they are the same."""
        return LINKS.get(self.name)

    @property
    def threshold(self) -> float:
        """Score above which a single output means class 1."""
        return THRESHOLDS.get(self.name, 0.5)


def is_loss(op: Op[Any, Any]) -> bool:
    """Whether an operator maps (prediction, target) to one number and has a derivative."""
    if op.derivative is None or len(op.inputs) != 2:
        return False
    signature = op.signatures(op.params)[0]
    return (
        bool(signature.outputs)
        and signature.outputs[0].dims == ()
        and signature.inputs[0].dims != ()
    )


def loss_names() -> list[str]:
    """Names of all losses."""
    return sorted(name for name, op in OPERATORS.items() if is_loss(op))


def as_loss(value: Any) -> Loss:
    """A :class:`Loss` from a name, an operator or a Loss, checked."""
    loss = value if isinstance(value, Loss) else Loss(getattr(value, "name", value))
    if loss.name not in OPERATORS or not is_loss(OPERATORS[loss.name]):
        raise unknown("loss", str(loss.name), loss_names())
    loss.op.full_params(loss.params)
    return loss
