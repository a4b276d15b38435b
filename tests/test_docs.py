from __future__ import annotations

import importlib.util
from pathlib import Path

from nnkernels.spec import OPERATORS

DOCS = Path(__file__).parent.parent / "docs"


def test_the_operator_page_is_current() -> None:
    spec = importlib.util.spec_from_file_location("generate", DOCS / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)
    committed = generate.PAGE.read_text(encoding="utf-8")
    assert committed == generate.page(), "run: python docs/generate.py"
    own = [op for op in OPERATORS.values() if op.__module__.startswith("nnkernels.catalog.")]
    assert committed.count("| **") == len(own) > 70
