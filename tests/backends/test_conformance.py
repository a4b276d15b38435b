"""Every backend of the package against the whole catalogue."""

import pytest

from nnkernels.testing import Conformance, opaque_backend


class TestNumpy(Conformance):
    backend = "numpy"


@pytest.mark.usefixtures("native")
class TestNative(Conformance):
    backend = "native"


class TestReference(Conformance):
    """Proves the dispatcher and the samples, not the kernels."""

    backend = "reference"
    quick = True


class TestOpaque(Conformance):
    """Proves that nothing is transferred implicitly."""

    backend = opaque_backend()
