from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from nnkernels.backends.cupy import launching, sources
from nnkernels.backends.cupy.launching import Launch, Recording, check, packed_arguments
from nnkernels.errors import BackendError

P = sources.Parameter
SIGNATURES = {
    name: sources.Signature(
        name,
        (
            P("x", "T", True, True),
            P("out", "T", True, False),
            P("slope", "A", False, False),
            P("n", "unsigned", False, False),
        ),
        256,
    )
    for name in ("leaky", "leaky_vec")
}


class Array:
    """As much of a device array as a launch looks at."""

    def __init__(self, shape=(8,), dtype="float32", pointer=4096, contiguous=True):
        self.shape, self.dtype = shape, np.dtype(dtype)
        self.strides = tuple(self.dtype.itemsize for _ in shape)
        self.size = int(np.prod(shape))
        self.data = SimpleNamespace(ptr=pointer)
        self.flags = SimpleNamespace(c_contiguous=contiguous)


@pytest.fixture(autouse=True)
def signatures(monkeypatch):
    monkeypatch.setattr(sources, "signatures", lambda module: SIGNATURES)


def launch(*arguments, kernel="leaky", storage="float32", grid=(1, 1), block=256):
    return Launch("sample", kernel, storage, grid, block, arguments)


def test_a_fitting_launch_passes():
    check(launch(Array(), Array(), 0.5, 8))
    check(launch(None, Array(), 1, 8))


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (launch(Array(), Array(), 0.5), r"got 3 arguments, the kernel takes \(x, out, slope, n\)"),
        (launch(Array(dtype="float64"), Array(), 0.5, 8), "x must be float32, got float64"),
        (launch(Array(), Array(contiguous=False), 0.5, 8), "out must be C-contiguous"),
        (launch(Array(pointer=4098), Array(), 0.5, 8), "x is not aligned to 4 bytes"),
        (launch(np.zeros(8, "f4"), Array(), 0.5, 8), "x must be a device array, got ndarray"),
        (launch(Array(), Array(), "0.5", 8), "slope must be a number, got str"),
        (launch(Array(), Array(), 0.5, True), "n must be a number, got bool"),
        (launch(Array(), Array(), 0.5, 8.0), "n must be uint32, got 8.0"),
        (launch(Array(), Array(), 0.5, -1), "n must be uint32, got -1"),
        (launch(Array(), Array(), 0.5, 2**32), "n must be uint32"),
        (launch(Array(), Array(), 0.5, 8, block=512), "block of 512, compiled for 256"),
        (launch(Array(), Array(), 0.5, 8, grid=(0, 1)), "cannot be launched"),
        (launch(Array(), Array(), 0.5, 8, grid=(1, 65536)), "cannot be launched"),
        (
            launch(Array(pointer=4100), Array(), 0.5, 8, kernel="leaky_vec"),
            "x is not aligned to 16 bytes",
        ),
        (launch(Array(), Array(), 0.5, 8, kernel="lucky"), "has no kernel 'lucky'"),
    ],
)
def test_a_launch_that_does_not_fit_is_refused(bad, message):
    with pytest.raises(BackendError, match=message):
        check(bad)


def test_numbers_are_packed_in_the_types_of_the_kernel():
    array = Array()
    packed = packed_arguments(launch(None, array, 1, 8))
    assert [type(a) for a in packed] == [np.uint64, Array, np.float32, np.uint32]
    assert packed[0] == 0 and packed[1] is array
    wide = packed_arguments(launch(None, Array(dtype="float64"), 1, 8, storage="float64"))
    assert type(wide[2]) is np.float64


@pytest.mark.parametrize(
    ("size", "pointer", "kernel"),
    [(8, 4096, "leaky_vec"), (7, 4096, "leaky"), (8, 4100, "leaky")],
)
def test_elementwise_takes_16_bytes_where_it_can(size, pointer, kernel):
    queue = Recording()
    x, out = Array((size,), pointer=pointer), Array((size,))
    launching.elementwise(queue, "sample", "leaky", (x,), (out,), (0.5,))
    (taken,) = queue.taken
    assert (taken.kernel, taken.grid, taken.block) == (kernel, (1, 1), launching.BLOCK)
    assert taken.arguments == (x, out, 0.5, size)


def test_nothing_is_launched_for_no_elements():
    queue = Recording()
    launching.elementwise(queue, "sample", "leaky", (Array((0,)),), (Array((0,)),), (0.5,))
    assert queue.taken == []


def test_a_large_array_gets_a_bounded_grid():
    assert launching.stride_grid(10**9) == (launching.MAX_BLOCKS, 1)
    assert launching.stride_grid(257) == (2, 1)
