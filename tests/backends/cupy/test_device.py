from __future__ import annotations

import numpy as np
import pytest

import nnkernels
from nnkernels.errors import (
    DeviceMemoryError,
    DeviceMismatchError,
    DTypeError,
    InputError,
    LabelError,
    OutputError,
    ShapeError,
)
from nnkernels.nn import MLP, Trainer


@pytest.fixture
def backend(cp):
    from nnkernels.backends.cupy import on

    return on(cp, layers="plain")


@pytest.fixture
def second(cp):
    from nnkernels.backends.cupy import on

    return on(cp, 1, layers="plain")


class Tensor:
    """Another library's array on the GPU, which only its protocol is known of."""

    def __init__(self, array, *protocols):
        for name in protocols:
            setattr(self, name, getattr(array, name))
        if "__dlpack__" in protocols:
            self.__class__ = type("Tensor", (Tensor,), {"__dlpack_device__": self._device(array)})

    @staticmethod
    def _device(array):
        return lambda self: array.__dlpack_device__()


X = np.arange(12, dtype=np.float32).reshape(3, 4) - 5


def test_the_device_says_where_it_is(backend, second):
    assert backend.device.name == "cuda:0" and backend.name == "cupy"
    assert second.device.name == "cuda:1" and second.name == "cupy:1"
    assert backend.device.describe()["architecture"] == "sm_90"
    assert "plain on" in backend.device.describe()["layers"]


def test_arrays_go_there_and_back(backend):
    array = backend.asarray(X)
    assert backend.device.owns(array) and not backend.device.owns(X)
    assert np.array_equal(backend.to_numpy(array), X)
    assert backend.asarray(array) is array
    assert backend.asarray(array, np.float64).dtype == np.float64


def test_a_result_is_an_array_of_the_device(backend):
    y = backend.relu(backend.asarray(X))
    assert backend.device.owns(y)
    assert np.array_equal(backend.to_numpy(y), np.maximum(X, 0))


def test_another_library_s_tensor_is_used_in_place(backend):
    array = backend.asarray(X)
    tensor = Tensor(array, "__cuda_array_interface__")
    borrowed = backend.device.borrow(tensor)
    assert borrowed.data.ptr == array.data.ptr
    assert np.array_equal(backend.to_numpy(backend.relu(tensor)), np.maximum(X, 0))


def test_a_host_array_is_never_copied_unasked(backend):
    with pytest.raises(DeviceMismatchError, match=r"relu: x .*backend.asarray\(x\)"):
        backend.relu(X)


def test_a_device_array_never_becomes_a_host_array_unasked(backend):
    with pytest.raises(DeviceMismatchError, match="relu: x"):
        nnkernels.get_backend("numpy").relu(backend.asarray(X))


def test_arrays_of_two_devices_do_not_mix(backend, second):
    with pytest.raises(DeviceMismatchError, match=r"add: b: .*lives on cuda:1, not on cuda:0"):
        backend.add(backend.asarray(X), second.asarray(X))


def test_the_second_device_computes(second):
    y = second.relu(second.asarray(X))
    assert int(y.device.id) == 1
    assert np.array_equal(second.to_numpy(y), np.maximum(X, 0))


@pytest.mark.parametrize("device", ["2", "-1", "x"])
def test_an_unknown_device_is_refused(backend, device):
    with pytest.raises(InputError, match="there is no device"):
        backend.select(device)


def test_bad_arguments_are_refused_before_anything_is_launched(backend, cp):
    x, labels = backend.asarray(X), backend.asarray(np.array([0, 4, 1]))
    with pytest.raises(LabelError, match=r"target\[1\] is 4"):
        backend.softmax_cross_entropy(x, labels)
    with pytest.raises(DTypeError, match="int32"):
        backend.relu(backend.asarray(X.astype(np.int32)))
    with pytest.raises(ShapeError, match="matmul"):
        backend.matmul(x, x)
    with pytest.raises(OutputError, match="overlaps"):
        backend.matmul(x, x, transpose_b=True, out=x[:, :3])
    assert not cp.log.launches


def test_views_that_are_not_contiguous_are_packed_on_the_device(backend):
    x = backend.asarray(X)
    for view, wanted in ((x.T, X.T), (x[:, ::2], X[:, ::2]), (x[::-1], X[::-1])):
        assert np.array_equal(backend.to_numpy(backend.relu(view)), np.maximum(wanted, 0))
    out = backend.asarray(np.zeros((3, 8), np.float32))
    backend.relu(x, out=out[:, ::2])
    assert np.array_equal(backend.to_numpy(out)[:, ::2], np.maximum(X, 0))
    assert not backend.to_numpy(out)[:, 1::2].any()


def test_a_misaligned_view_is_refused(backend):
    memory = backend.device.buffer(64)
    with pytest.raises(InputError, match="relu: x is not aligned to 4 bytes"):
        backend.relu(memory[2:18].view(np.float32))


def test_an_array_of_a_gpu_is_no_argument_of_a_host_backend(backend):
    x = backend.asarray(np.ones((2, 3), np.float32))
    with pytest.raises(DeviceMismatchError, match=r"relu: x is a .*\.ndarray, .*to_numpy\(x\)"):
        nnkernels.get_backend("numpy").relu(x)
    with pytest.raises(DeviceMismatchError, match=r"out is a numpy\.ndarray, not an array of dev"):
        backend.relu(x, out=np.empty((2, 3), np.float32))


def test_training_takes_host_arrays_and_says_so(backend):
    x = backend.asarray(np.ones((2, 3), np.float32))
    trainer = Trainer(MLP([3, 2]), backend=backend)
    with pytest.raises(DeviceMismatchError, match=r"fit: X lies on a GPU; give .* in host memory"):
        trainer.fit(x, [0, 1], epochs=1)


def test_no_room_is_said_with_what_is_free(needs_nvrtc):
    from nnkernels.testing import simulated

    small = simulated.backend(memory_bytes=1 << 20)
    with pytest.raises(DeviceMemoryError, match=r"no room for an array of shape \(1000, 1000\)"):
        small.asarray(np.zeros((1000, 1000), np.float32))


def test_code_that_was_built_ahead_for_real_devices_is_no_concern_of_simulated_ones(
    cp, tmp_path, monkeypatch
):
    from cupy.cuda import nvrtc

    from nnkernels.backends.cupy import on
    from nnkernels.backends.cupy.compiling import compiler, loader
    from nnkernels.backends.cupy.compiling.code_cache import CodeCache

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    loader.build(nvrtc, CodeCache(), "activations", "float32", compiler.target_for(nvrtc, 90))
    backend = on(cp, layers="plain,cubin")
    y = backend.relu(backend.asarray(X))
    assert np.array_equal(backend.to_numpy(y), np.maximum(X, 0))
    assert backend.device.gpu.layers.on("cubin")
