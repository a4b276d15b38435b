"""The backends of compiled kernels, each as the fixture ``compiled``."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from nnkernels.backend import Backend


@pytest.fixture(scope="session", params=["numba", "native"])
def compiled(request: pytest.FixtureRequest) -> Any:
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="session")
def strict(compiled: Backend) -> Backend:
    """The backend without anything to fall back to."""
    return replace(compiled, fallback=None, strict=True)


@pytest.fixture(scope="session")
def has_tiles(compiled: Backend) -> bool:
    """Whether small products are the backend's own: BLAS does not promise the same bits."""
    if compiled.name == "native":
        return True
    from nnkernels.backends.numba.products.microkernel import vector_bits

    return vector_bits() > 0


@pytest.fixture
def needs_tiles(has_tiles: bool) -> None:
    if not has_tiles:
        pytest.skip("BLAS computes all products here")
