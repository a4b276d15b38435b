"""Rung 6: our descriptors before the real cublasLt, which checks them without a GPU.

It checks the size of every attribute as soon as it is set; values, shapes and the existence of an
algorithm only when a product is planned, for which it wants a device. The simulated library is held
to the same table. Nightly, for the library is large.
"""

from __future__ import annotations

import ctypes
import itertools

import pytest
from ladder.needs import missing

from nnkernels.backends.cupy.products import cublaslt
from nnkernels.backends.cupy.products.cublaslt import (
    CublasError,
    Epilogue,
    Library,
    Matmul,
    Preference,
    Status,
)
from nnkernels.backends.cupy.products.session import COMPUTE_TYPES, Plan, Pointers, Problem, Session
from nnkernels.errors import BackendUnavailableError
from nnkernels.testing.simulated.lt import CublasLt

POINTERS = Pointers(256, 512, 768, 1024, 1280)
SIZES = {1: ctypes.c_int8, 4: ctypes.c_int32, 8: ctypes.c_int64, 16: ctypes.c_int64 * 2}
POINTER_SIZED = (Matmul.BIAS_POINTER, Matmul.AUX_POINTER, Matmul.AUX_LEADING_DIMENSION)
WIDTHS = [
    *(("MatmulDesc", each, 8 if each in POINTER_SIZED else 4) for each in Matmul),
    ("MatmulPreference", Preference.MAX_WORKSPACE_BYTES, 8),
    ("MatmulPreference", Preference.MIN_ALIGNMENT_A, 4),
    ("MatmulPreference", Preference.MIN_ALIGNMENT_B, 4),
    ("MatmulPreference", Preference.MIN_ALIGNMENT_C, 4),
    ("MatmulPreference", Preference.MIN_ALIGNMENT_D, 4),
]
"""Descriptor, attribute, and bytes of its value."""


def real() -> Library:
    try:
        return cublaslt.load()
    except BackendUnavailableError as error:
        missing(f"cublasLt ({error})", "install nnkernels[ladder,cuda13]")


@pytest.fixture(params=["simulated", pytest.param("real", marks=pytest.mark.slow)])
def library(request) -> Library:
    return real() if request.param == "real" else Library(CublasLt(device=None))


def problems():
    for a, b in itertools.product((False, True), repeat=2):
        for dtype, precision in COMPUTE_TYPES:
            yield Problem(8, 16, 4, a, b, dtype, precision)


@pytest.mark.parametrize("epilogue", list(Epilogue))
def test_every_descriptor_that_we_build_is_accepted(library, epilogue):
    built = 0
    for problem in problems():
        plan = Plan(library, ctypes.c_void_p(), problem, epilogue)
        plan._point(POINTERS)
        built += 1
    assert built == 4 * len(COMPUTE_TYPES)


def made(library, kind) -> ctypes.c_void_p:
    handle = ctypes.c_void_p()
    types = (ctypes.c_int(68), ctypes.c_int(0)) if kind == "MatmulDesc" else ()
    library.call(f"{kind}Create", ctypes.byref(handle), *types)
    return handle


def change(library, kind, handle, attribute, value) -> None:
    size = ctypes.c_size_t(ctypes.sizeof(value))
    library.call(f"{kind}SetAttribute", handle, ctypes.c_int(attribute), ctypes.byref(value), size)


@pytest.mark.parametrize(("kind", "attribute", "width"), WIDTHS)
@pytest.mark.parametrize("size", list(SIZES))
def test_an_attribute_takes_a_value_of_its_size_only(library, kind, attribute, width, size):
    handle = made(library, kind)
    if size == width:
        change(library, kind, handle, attribute, SIZES[size]())
    else:
        with pytest.raises(CublasError) as caught:
            change(library, kind, handle, attribute, SIZES[size]())
        assert caught.value.status == Status.INVALID_VALUE
    library.call(f"{kind}Destroy", handle)


@pytest.mark.parametrize("kind", ["MatmulDesc", "MatmulPreference"])
def test_an_unknown_attribute_is_refused(library, kind):
    handle = made(library, kind)
    with pytest.raises(CublasError) as caught:
        change(library, kind, handle, 99, ctypes.c_int32(1))
    assert caught.value.status == Status.INVALID_VALUE
    library.call(f"{kind}Destroy", handle)


@pytest.mark.slow
@pytest.mark.parametrize("epilogue", list(Epilogue))
def test_what_we_set_is_what_the_library_reads(epilogue):
    library = real()
    plan = Plan(
        library, ctypes.c_void_p(), Problem(8, 160, 4, False, True, "float32", "tf32"), epilogue
    )
    plan._point(POINTERS)
    read = {each: _read(library, plan._matmul.handle, each) for each in Matmul}
    assert read[Matmul.EPILOGUE] == epilogue
    assert (read[Matmul.TRANSPOSE_A], read[Matmul.TRANSPOSE_B]) == (1, 0)
    uses_vector = epilogue != Epilogue.DEFAULT
    uses_mask = epilogue in (Epilogue.RELU_AUX_BIAS, Epilogue.DRELU_BGRAD)
    assert read[Matmul.BIAS_POINTER] == (POINTERS.vector if uses_vector else 0)
    assert read[Matmul.AUX_POINTER] == (POINTERS.mask if uses_mask else 0)
    assert read[Matmul.AUX_LEADING_DIMENSION] == (256 if uses_mask else 0)
    assert _read(library, plan._matmul.handle, 0) == cublaslt.ComputeType.F32_FAST_TF32


def _read(library, handle, attribute) -> int:
    value, written = ctypes.c_uint64(0), ctypes.c_size_t(0)
    size = ctypes.c_size_t(8 if attribute in POINTER_SIZED else 4)
    arguments = (ctypes.c_int(attribute), ctypes.byref(value), size, ctypes.byref(written))
    library.call("MatmulDescGetAttribute", handle, *arguments)
    return value.value


@pytest.mark.slow
def test_without_a_device_a_session_says_so():
    library = real()
    try:
        Session(library)
    except CublasError as error:
        assert error.status == Status.NOT_INITIALIZED
    else:
        pytest.skip("there is a device")
