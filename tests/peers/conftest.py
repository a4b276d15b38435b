"""``benchmarks`` is no installed package: it is found from the root of the checkout."""

import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent

if str(HERE.parents[1]) not in sys.path:
    sys.path.append(str(HERE.parents[1]))


@pytest.fixture
def planted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets workers import ``planted_candidates``."""
    monkeypatch.syspath_prepend(str(HERE))
