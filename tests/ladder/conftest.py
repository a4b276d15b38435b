"""Lets the rungs import what they share as ``ladder.<name>``."""

from __future__ import annotations

import sys
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]

if str(TESTS) not in sys.path:
    sys.path.append(str(TESTS))
