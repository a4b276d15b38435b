import numpy as np
import pytest

from nnkernels import Kernel, get_backend
from nnkernels.errors import DeviceMismatchError, NnkernelsError
from nnkernels.program import Builder, State
from nnkernels.spec import OPERATORS
from nnkernels.testing import NETWORKS, OpaqueArray, opaque_backend, verify


@pytest.fixture
def backend():
    return opaque_backend()


IMPLICIT = {
    "asarray": np.asarray,
    "array": np.array,
    "ufunc": lambda a: np.add(a, 1),
    "function": np.sum,
    "arithmetic": lambda a: a + 1,
    "reflected": lambda a: np.ones(2) + a,
    "item": lambda a: a[:1].item(),
    "tolist": lambda a: a.tolist(),
    "float": float,
    "int": int,
    "index": lambda a: [1, 2, 3][a],
    "bool": bool,
    "iterate": list,
    "equal": lambda a: a == 1,
    "less": lambda a: a < 1,
    "max": max,
    "method": lambda a: a.max(),
    "element": lambda a: a[0],
    "mask": lambda a: a[np.array([True, False])],
    "assign": lambda a: a.__setitem__(slice(None), np.ones(2)),
    "into numpy": lambda a: np.ones(2).__setitem__(slice(None), a),
}


@pytest.mark.parametrize("name", IMPLICIT)
def test_an_implicit_transfer_raises(backend, name):
    array = backend.asarray(np.arange(2.0))
    with pytest.raises((DeviceMismatchError, TypeError)):
        IMPLICIT[name](array)


def test_only_explicit_transfers_move_values(backend):
    array = backend.asarray([1.0, 2.0])
    assert isinstance(array, OpaqueArray) and (array.shape, array.ndim, len(array)) == ((2,), 1, 2)
    np.testing.assert_array_equal(backend.to_numpy(array), [1.0, 2.0])
    with pytest.raises(DeviceMismatchError):
        backend.to_numpy(np.ones(2))


def test_the_device_says_what_it_is_and_waits_before_it_times(backend):
    device = backend.device
    assert device.available() is None and device.describe()["device"] == "opaque"
    array = backend.asarray(np.ones((2, 3), np.float32))
    assert repr(array) == "<opaque array (2, 3) float32>"
    assert backend.asarray(array) is array
    assert backend.asarray(array, np.float64).dtype == np.float64
    first = device.timer()
    assert device.pending == 0 and device.timer() >= first


def test_a_kernel_given_a_numpy_array_refuses(backend):
    kernel = backend.kernels["relu"].function
    with pytest.raises(DeviceMismatchError, match="ndarray"):
        kernel(np.ones(2), out=backend.asarray(np.ones(2)))


def test_kernels_run_only_at_synchronize(backend):
    x = backend.asarray(np.array([-1.0, 2.0]))
    y = backend.relu(x)
    assert backend.device.pending == 1
    assert np.isnan(y._memory).all()
    backend.device.synchronize()
    assert backend.device.pending == 0
    np.testing.assert_array_equal(y._memory, [0.0, 2.0])


def test_work_is_done_in_order(backend):
    x = backend.asarray(np.ones(3))
    y = backend.add(x, x)
    x[...] = 5.0
    y[:1] = x[:1]
    np.testing.assert_array_equal(backend.to_numpy(y), [5.0, 2.0, 2.0])


def test_views_share_memory_and_copies_are_made_on_the_device(backend):
    x = backend.asarray(np.arange(6.0).reshape(2, 3))
    np.testing.assert_array_equal(backend.to_numpy(x.T[::-1, :1]), [[2.0], [1.0], [0.0]])
    np.testing.assert_array_equal(
        backend.to_numpy(x.astype("float32")), np.arange(6, dtype="f4").reshape(2, 3)
    )
    with pytest.raises(AttributeError):
        x.T.reshape((6,))


@pytest.mark.parametrize("where", ["opaque", "numpy", "other device"])
def test_mixing_devices_is_an_error(backend, where):
    other = {"opaque": backend, "numpy": get_backend("numpy"), "other device": opaque_backend()}[
        where
    ]
    array = np.ones(2) if where == "opaque" else backend.asarray(np.ones(2))
    with pytest.raises(NnkernelsError):
        other.relu(array)


@pytest.mark.parametrize("name", [*sorted(OPERATORS), NETWORKS])
def test_the_whole_catalogue_and_training_run_without_implicit_transfer(backend, name):
    report = verify(backend, operators=[name], quick=True)
    report.check()
    assert name in (*report.reference, *report.passed)


def peeks(x, *, out):
    """Asks for a value on the host in the middle of a kernel."""
    out[...] = x[:1] if x.ndim and len(x) and x.item() > 0 else x


def test_an_implicit_transfer_inside_a_kernel_is_reported(backend):
    report = verify(backend.replace(relu=Kernel(peeks)), operators=["relu"], quick=True)
    assert any("item()" in f.message for f in report.failures)


def test_a_diverged_step_is_noticed_on_the_device(backend):
    builder = Builder(2, "float32")
    x, target = builder.input("x", (2, 1)), builder.input("target", (2, 1))
    loss = builder.call("mse", x, target)
    with builder.update_phase():
        builder.call("advance", builder.entry("row"), rows=0)
    state = State((program := builder.program(loss=loss, guard=loss)).layout, backend.device)
    executable = backend.bind(program, state)
    bad = backend.asarray(np.full((2, 1), np.nan, np.float32))
    executable.feed(x=bad, target=bad)
    assert executable.run(1) == 0
    assert state.number("diverged") == 1
    assert executable.first_bad() == "x"
