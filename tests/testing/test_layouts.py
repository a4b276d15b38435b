import numpy as np
import pytest
from hypothesis import given
from hypothesis.extra.numpy import array_shapes, arrays

from nnkernels import get_backend
from nnkernels.spec import get_op
from nnkernels.testing import layouts, opaque_backend
from nnkernels.testing.samples import samples

NUMPY = get_backend("numpy")
ALL = {"packed": layouts.packed, **layouts.VIEWS, **layouts.HOST_ONLY}


@pytest.mark.parametrize("name", [n for n in ALL if n != "zero-stride"])
@given(array=arrays(np.float32, array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=5)))
def test_a_layout_holds_the_same_values_in_memory_of_its_own(name, array):
    made = ALL[name](NUMPY, array)
    np.testing.assert_array_equal(made, array)
    assert isinstance(made, np.ndarray) and made.shape == array.shape
    assert not np.shares_memory(made, array)


def test_layouts_are_what_they_say():
    a = np.arange(35.0).reshape(7, 5)
    made = {name: layout(NUMPY, a) for name, layout in ALL.items()}
    assert made["packed"].flags.c_contiguous
    assert made["fortran"].flags.f_contiguous and not made["fortran"].flags.c_contiguous
    assert made["strided"].strides == (5 * 3 * 8 * 2, 24)
    assert all(s < 0 for s in made["negative"].strides)
    assert not made["unaligned"].flags.aligned
    assert not made["big-endian"].dtype.isnative
    assert made["zero-stride"].strides == (0, 8)


@pytest.mark.parametrize("name", layouts.VIEWS)
def test_views_are_made_by_slicing_on_the_device_too(name):
    backend = opaque_backend()
    a = np.arange(12.0).reshape(3, 4)
    np.testing.assert_array_equal(backend.to_numpy(layouts.VIEWS[name](backend, a)), a)


def test_spread_leaves_filler_between():
    base = layouts.spread(np.ones((2, 2)))
    assert base.shape == (4, 6) and np.isnan(base).sum() == 20
    assert (base[layouts.spread_index(2)] == 1).all()


def test_repeated_samples_fit_a_zero_stride():
    (sample,) = samples(get_op("add"), np.dtype("float32"), plans="small")
    for array in layouts.repeated(sample).inputs:
        np.testing.assert_array_equal(layouts.zero_stride(NUMPY, array), array)
