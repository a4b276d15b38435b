"""The conformance suite on the simulated device: every operator, by every set of layers."""

from __future__ import annotations

import pytest
from ladder.needs import require_nvrtc

from nnkernels.testing import verify
from nnkernels.testing.suite import select_parts

LAYERS = ("plain", "plain,cubin,lt,graph")


@pytest.fixture(scope="module", params=LAYERS)
def backend(request):
    require_nvrtc()
    from nnkernels.backends.cupy import on
    from nnkernels.testing import simulated

    return on(simulated.cupy(), layers=request.param)


@pytest.mark.parametrize("part", select_parts(None))
def test_the_backend_serves_it_as_the_catalogue_declares_it(backend, part):
    report = verify(backend, operators=[part], quick=True)
    assert part in report.passed
    report.check()
