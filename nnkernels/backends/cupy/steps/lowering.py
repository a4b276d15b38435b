"""A plan as launches on arrays: the list that runs eagerly, as a graph, and in every test."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

from nnkernels.backends.cupy import products
from nnkernels.backends.cupy.gpu import Call, Gpu
from nnkernels.backends.cupy.launching import Launch, Product, Recording
from nnkernels.backends.cupy.steps.groups import Arrays, Group
from nnkernels.backends.cupy.steps.memory import Memory
from nnkernels.program import Instruction


class Item(NamedTuple):
    """One entry of the list.

    Attributes:
        what: a launch or a product.
        group: what it is launched for.
    """

    what: Launch | Product
    group: Group

    @property
    def name(self) -> str:
        """Of the kernel, or that it is a product."""
        return self.what.kernel if isinstance(self.what, Launch) else "product"

    @property
    def origin(self) -> Instruction:
        """The instruction that its time counts for."""
        return self.group.origin


def lower(groups: Sequence[Group], arrays: Arrays) -> list[Item]:
    """The launches of groups, in order."""
    return [item for group in groups for item in _items(group, arrays)]


def _items(group: Group, arrays: Arrays) -> list[Item]:
    queue = Recording()
    group.launch(queue, arrays)
    return [Item(what, group) for what in queue.taken]


class LaunchList:
    """The launches of a step, ready to run.

    Args:
        gpu: where.
        groups: what is launched, in order.
        memory: the arrays.
        precision: arithmetic of float32 products.
        workspace: scratch of all products; None where CuPy computes them.

    Attributes:
        items: the list; empty until :meth:`refresh`.
        calls: a function for every item.
    """

    def __init__(
        self, gpu: Gpu, groups: Sequence[Group], memory: Memory, precision: str, workspace: Any
    ) -> None:
        self._gpu, self._groups, self._memory = gpu, groups, memory
        self._precision, self._workspace = precision, workspace
        self._parts: dict[Group, list[tuple[Item, Call]]] = {}
        self.items: list[Item] = []
        self.calls: list[Call] = []

    def refresh(self, changed: set[int], without: Collection[Group]) -> bool:
        """Make the list for arrays that have moved; whether it is another one now.

        Args:
            changed: slots whose arrays lie elsewhere; what touches them is lowered again.
            without: groups that are not launched.
        """
        before = self.calls
        for group in self._groups:
            if group not in self._parts or group.slots & changed:
                items = [] if group in without else _items(group, self._memory)
                self._parts[group] = [(item, self._prepared(item)) for item in items]
        parts = [part for group in self._groups for part in self._parts[group]]
        self.items = [item for item, _ in parts]
        self.calls = [call for _, call in parts]
        return self.calls != before

    def _prepared(self, item: Item) -> Call:
        if isinstance(item.what, Product):
            return products.prepare(self._gpu, item.what, self._precision, self._workspace)
        return self._gpu.prepare(item.what)
