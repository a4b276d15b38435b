"""The CuPy backend on simulated devices, where NVRTC is installed."""

from __future__ import annotations

import pytest


@pytest.fixture
def cp(needs_nvrtc):
    from nnkernels.testing import simulated

    return simulated.cupy(devices=2)
