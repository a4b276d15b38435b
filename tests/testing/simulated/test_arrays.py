"""Device arrays: held against NumPy's, and against what CuPy's refuse."""

from __future__ import annotations

import numpy as np
import pytest

from nnkernels.testing.ptx import Fault
from nnkernels.testing.simulated.memory import Layout

VALUES = np.arange(24, dtype=np.float32).reshape(2, 3, 4)

INDICES = [
    np.s_[1],
    np.s_[-1],
    np.s_[:, 1:],
    np.s_[..., ::2],
    np.s_[::-1, None, 1],
    np.s_[1, 2, 3],
    np.s_[:, 3:],
    np.s_[()],
]


@pytest.mark.parametrize("index", INDICES, ids=str)
def test_a_part_is_a_view_like_numpys(cp, index):
    array = cp.asarray(VALUES)
    part, expected = array[index], VALUES[index]
    assert (part.shape, part.ndim, part.size) == (expected.shape, expected.ndim, expected.size)
    np.testing.assert_array_equal(part.get(), expected)
    if part.size:
        part[...] = -1
        changed = VALUES.copy()
        changed[index] = -1
        np.testing.assert_array_equal(array.get(), changed)


def test_views_know_their_geometry(cp):
    array = cp.asarray(VALUES)
    assert (array.itemsize, array.nbytes, array.strides, len(array)) == (4, 96, (48, 16, 4), 2)
    assert array.flags.c_contiguous and not array.T.flags.c_contiguous
    assert array.T.flags.f_contiguous and array.flags.owndata and not array.T.flags.owndata
    assert not hasattr(array.flags, "aligned")
    assert array[1].data.ptr == array.data.ptr + 48 and array[1].base is array
    assert array.data.ptr % 512 == 0
    np.testing.assert_array_equal(array.T.get(), VALUES.T)
    np.testing.assert_array_equal(array.view(np.uint8).get(), VALUES.view(np.uint8))
    np.testing.assert_array_equal(array.ravel().get(), VALUES.ravel())
    np.testing.assert_array_equal([row.get() for row in array], VALUES)


def test_a_reshape_copies_where_it_must(cp):
    array = cp.asarray(VALUES)
    cp.log.reset()
    assert array.reshape(6, 4).data.ptr == array.data.ptr
    assert cp.log.copies == 0
    copied = array.T.reshape((4, -1))
    assert cp.log.names("library") == ["copy"]
    np.testing.assert_array_equal(copied.get(), VALUES.T.reshape(4, -1))


def test_values_are_converted_copied_filled_and_reduced(cp):
    array = cp.asarray(VALUES)
    assert array.astype(np.float32, copy=False) is array
    np.testing.assert_array_equal(array.astype(np.int64).get(), VALUES.astype(np.int64))
    assert array.T.astype(np.float64).flags.f_contiguous
    assert array.T.copy().flags.c_contiguous
    np.testing.assert_array_equal(array.T.copy("F").get(), VALUES.T)
    assert (array.min().item(), float(array.max()), int(array.max())) == (0, 23, 23)
    assert array.max().shape == ()
    array.fill(2.5)
    assert set(array.get().flat) == {2.5}
    with pytest.raises(ValueError, match="zero-size"):
        cp.empty((0,)).max()


def test_assignment_takes_numbers_and_device_arrays_only(cp):
    array = cp.asarray(VALUES)
    array[0] = 7
    array[1] = array[0, 0]
    np.testing.assert_array_equal(array.get(), np.full_like(VALUES, 7))
    with pytest.raises(TypeError, match="Unsupported type"):
        array[0] = VALUES[0]
    with pytest.raises(ValueError, match="broadcast"):
        array[0, 0] = array


@pytest.mark.parametrize(
    "read",
    [
        np.asarray,
        lambda a: np.add(a, 1),
        lambda a: a == a,
        lambda a: a + 1,
        lambda a: 2 * a,
        lambda a: a @ a,
        hash,
        lambda a: a[np.array([0])],
        lambda a: np.zeros(2, np.float32) + a,
    ],
)
def test_nothing_is_read_or_computed_unseen(cp, read):
    with pytest.raises(TypeError):
        read(cp.asarray(VALUES))


def test_reading_one_value_counts_as_waiting_for_the_device(cp):
    array = cp.asarray(VALUES[0, 0, :1])
    cp.log.reset()
    assert not bool(array) and array.item() == 0 and array.tolist() == [0]
    assert (cp.log.synchronisations, cp.log.host_reads) == (3, 3)
    with pytest.raises(ValueError, match="size 1"):
        cp.asarray(VALUES).item()


def test_what_nothing_wrote_cannot_be_read(cp):
    array = cp.empty((2, 4), np.float32)
    array[:, :2] = 1
    np.testing.assert_array_equal(array[:, :2].get(), np.ones((2, 2)))
    with pytest.raises(Fault, match="nothing wrote"):
        array.get()
    with pytest.raises(Fault, match="nothing wrote"):
        cp.matmul(array, cp.zeros((4, 1), np.float32)).get()


def test_arrays_without_elements(cp):
    array = cp.empty((3, 0), np.float32)
    cp.log.reset()
    assert (array.data.ptr, array.nbytes, array.get().shape) == (0, 0, (3, 0))
    array.fill(1)
    array.set(np.empty((3, 0), np.float32))
    assert array.astype(np.int64).shape == array.copy().shape == (3, 0)
    assert array.reshape(0, 5).T.shape == (5, 0)
    assert cp.asarray(VALUES)[2:].shape == (0, 3, 4)
    assert cp.log.names("transfer") == ["from host"] and not cp.log.names("library")


# --- the host's side ---------------------------------------------------------------------------


def test_get_in_either_order_and_into_an_array(cp):
    array = cp.asarray(VALUES)
    assert array.get(order="F").flags.f_contiguous
    assert array.T.get(order="A").flags.f_contiguous
    out = np.empty_like(VALUES)
    assert array.get(out=out) is out
    np.testing.assert_array_equal(out, VALUES)
    for wrong, error in (
        (np.empty((2, 3, 4)), TypeError),
        (np.empty((4, 3, 2), np.float32), ValueError),
        (np.empty((2, 3, 8), np.float32)[..., ::2], RuntimeError),
    ):
        with pytest.raises(error):
            array.get(out=wrong)


def test_set_refuses_what_cupy_refuses(cp):
    array = cp.zeros((2, 3, 4), np.float32)
    array.set(VALUES)
    array.T.set(np.asfortranarray(VALUES.T))
    np.testing.assert_array_equal(array.get(), VALUES)
    for target, value, error in (
        (array, VALUES.tolist(), TypeError),
        (array, VALUES.astype(np.float64), TypeError),
        (array, VALUES[0], ValueError),
        (array[..., ::2], VALUES[..., ::2], RuntimeError),
    ):
        with pytest.raises(error):
            target.set(value)


def test_arrays_are_made_like_cupys(cp):
    assert cp.empty(3).shape == (3,) and cp.empty(3).dtype == np.float64
    assert cp.zeros((2, 2), np.uint8, order="F").flags.f_contiguous
    assert cp.zeros((2,), bool).get().tolist() == [False, False]
    with pytest.raises(ValueError, match="Negative"):
        cp.empty((-1,))
    array = cp.asarray(VALUES, np.float64)
    assert cp.asarray(array) is array and cp.asarray(array, np.float32) is not array
    assert cp.array(array) is not array and cp.array([1, 2]).get().tolist() == [1, 2]
    assert cp.ascontiguousarray(array) is array
    np.testing.assert_array_equal(cp.ascontiguousarray(array.T).get(), VALUES.T)


# --- other libraries ---------------------------------------------------------------------------


class Foreign:
    """Another library's array over the memory of one of ours, with one protocol."""

    def __init__(self, array, protocol):
        self._array, self._protocol = array, protocol

    def __getattr__(self, name):
        if name == "__cuda_array_interface__" and self._protocol == "interface":
            return self._array.__cuda_array_interface__
        raise AttributeError(name)

    def __dlpack__(self, **keywords):
        return self._array.__dlpack__(**keywords)

    def __dlpack_device__(self):
        return self._array.__dlpack_device__()


def test_foreign_memory_is_shared(cp):
    array = cp.asarray(VALUES)
    for part in (array, array.T[1:], array[:, 1]):
        through_interface = cp.asarray(Foreign(part, "interface"))
        through_dlpack = cp.from_dlpack(Foreign(part, "dlpack"))
        for found in (through_interface, through_dlpack):
            assert isinstance(found, cp.ndarray) and found.data.ptr == part.data.ptr
            assert (found.shape, found.strides, found.dtype) == (
                part.shape,
                part.strides,
                part.dtype,
            )
    assert array.__dlpack_device__() == (2, 0)


def test_an_interface_with_a_stream_is_waited_for(cp):
    """As in CuPy, which synchronises with the exporter's stream."""
    array = cp.asarray(VALUES)
    cp.log.reset()
    cp.asarray(Foreign(array, "interface"))
    assert cp.log.synchronisations == 1


def test_foreign_memory_lives_as_long_as_its_view(cp):
    view = cp.asarray(Foreign(cp.asarray(VALUES), "interface"))
    cp.zeros((1,))
    np.testing.assert_array_equal(view.get(), VALUES)


def test_the_classes_of_two_namespaces_differ(cp, make):
    other = make()
    assert not isinstance(other.zeros((1,)), cp.ndarray)
    assert isinstance(cp.zeros((1,)), cp.ndarray)


# --- layouts -----------------------------------------------------------------------------------


SLICED = [*INDICES[:5], INDICES[6], np.s_[::2, ::2, ::3], np.s_[:, ::-1], np.s_[1, 2, 3:4]]


@pytest.mark.parametrize("index", SLICED, ids=str)
def test_the_runs_of_a_layout_cover_its_elements_and_nothing_else(index):
    array = VALUES[index]
    base, address = VALUES.ctypes.data, 4096
    layout = Layout(
        address + array.ctypes.data - base if array.size else address,
        array.shape,
        array.dtype,
        array.strides,
    )
    covered = [byte for start, length in layout.runs() for byte in range(start, start + length)]
    expected = np.array(array) * 4 + address
    assert sorted(covered) == sorted((expected.reshape(-1, 1) + np.arange(4)).astype(int).flat)


def test_a_contiguous_layout_is_one_run():
    for order in "CF":
        layout = Layout.packed(512, (3, 1, 5), np.float64, order)
        assert list(layout.runs()) == [(512, 120)]
    assert list(Layout.packed(512, (), np.float64).runs()) == [(512, 8)]
