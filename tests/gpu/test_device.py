"""What only a GPU can show: the selftest's sections as tests. ``pytest -m gpu``."""

from __future__ import annotations

import pytest

import nnkernels
from nnkernels import selftest
from nnkernels.errors import BackendUnavailableError

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module")
def backend():
    try:
        return nnkernels.get_backend("cupy")
    except BackendUnavailableError as reason:
        pytest.skip(str(reason))


@pytest.mark.parametrize("name", selftest.SECTIONS)
def test_the_device_passes(backend, name):
    report = selftest.run(backend, only=[name])
    assert report.ok, report.text()
