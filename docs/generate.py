"""Writes docs/operators.md from the catalogue: python docs/generate.py"""

from __future__ import annotations

import inspect
from itertools import groupby
from pathlib import Path
from typing import Any

import nnkernels
from nnkernels.spec import OPERATORS, REQUIRED, Op

PAGE = Path(__file__).parent / "operators.md"
HEAD = """# Operators

Generated from the catalogue by `python docs/generate.py`; `help(nnkernels.ops.NAME)` says more.

* **Signature**: see the docstring of `nnkernels.signature`. `...` stands for any leading
  dimensions.
* **Bound**: `c` of `|got - ref| <= c eps scale + tiny`, which `nnkernels verify` checks; 0 means
  equal.
* **numpy**: whether the backend `numpy` has a kernel of its own, composes the operator of others,
  or falls back to the reference.
"""


def page() -> str:
    """The whole page."""
    coverage = nnkernels.get_backend("numpy").coverage()
    own = [op for op in OPERATORS.values() if op.__module__.startswith("nnkernels.catalog.")]
    families = groupby(own, key=lambda op: op.__module__)
    return HEAD + "".join(_family(module, list(ops), coverage) for module, ops in families)


def _family(module: str, ops: list[Op[Any, Any]], coverage: dict[str, str]) -> str:
    source = inspect.getmodule(ops[0].reference)
    title = (inspect.getdoc(source) or "").splitlines()[0].rstrip(".")
    rows = [_row(op, coverage[op.name]) for op in ops]
    header = "| operator | signature | parameters | bound | numpy |\n|---|---|---|---|---|\n"
    return f"\n## {title}\n\n`{module}`\n\n{header}" + "".join(rows)


def _row(op: Op[Any, Any], served: str) -> str:
    summary = (op.__doc__ or "").splitlines()[0].rstrip(".").replace("|", "\\|")
    signature = "<br>".join(f"`{s.strip()}`" for s in _signature(op).split("|"))
    params = ", ".join(f"`{_param(n, d)}`" for n, d in op.params.items())
    return f"| **{op.name}**<br>{summary} | {signature} | {params} | {op.error.c:g} | {served} |\n"


def _signature(op: Op[Any, Any]) -> str:
    return op.signature if isinstance(op.signature, str) else op.signature(op.params)


def _param(name: str, default: Any) -> str:
    return name if default is REQUIRED else f"{name}={default!r}"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
