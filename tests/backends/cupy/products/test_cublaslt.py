"""The interface to cublasLt: its statuses, its loading, and what the simulated library refuses."""

from __future__ import annotations

import ctypes
import gc
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from nnkernels.backends.cupy.products import cublaslt
from nnkernels.backends.cupy.products.cublaslt import (
    CublasError,
    Epilogue,
    HeuristicResult,
    Library,
)
from nnkernels.backends.cupy.products.session import Plan, Pointers, Problem, Session
from nnkernels.errors import BackendUnavailableError
from nnkernels.testing.simulated.lt import CublasLt

from .conftest import Memory, placed

PROBLEM = Problem(8, 16, 4, False, True, "float32", "fp32")


@pytest.fixture
def functions():
    return CublasLt(Memory())


@pytest.fixture
def session(functions):
    return Session(Library(functions))


def arrays(problem=PROBLEM):
    return [
        placed(np.ones(shape, problem.dtype))
        for shape in (
            (problem.m, problem.k),
            (problem.n, problem.k),
            (problem.m, problem.n),
            (problem.n,),
        )
    ]


def pointers(given):
    return Pointers(*(each.data.ptr for each in given))


def test_structures_have_the_sizes_of_the_header():
    assert ctypes.sizeof(cublaslt.Algorithm) == 64
    assert ctypes.sizeof(HeuristicResult) == 96
    assert HeuristicResult.workspace_bytes.offset == 64 and HeuristicResult.state.offset == 72


def test_the_version_is_readable(functions):
    assert Library(functions).version == "13.0.0"
    assert Library(SimpleNamespace(cublasLtGetVersion=lambda: 120805)).version == "12.8.5"


def test_an_unknown_status_is_a_number():
    with pytest.raises(CublasError, match=r"cublasLtX gave status 4 \(unknown\)") as caught:
        Library(SimpleNamespace(cublasLtX=lambda: 4)).call("X")
    assert caught.value.status == 4


def test_descriptors_are_destroyed_with_their_plan(functions):
    plan = Plan(Library(functions), ctypes.c_void_p(), PROBLEM, Epilogue.BIAS)
    assert len(functions._objects) == 4
    del plan
    gc.collect()
    assert functions._objects == {}


def test_a_plan_is_made_once_and_without_its_preference(session, functions):
    first = session.plan(PROBLEM, Epilogue.BIAS, pointers(arrays()))
    assert session.plan(PROBLEM, Epilogue.BIAS, pointers(arrays())) is first
    gc.collect()
    assert sorted(each.kind for each in functions._objects.values()) == [
        "",
        "MatmulDesc",
        *["MatrixLayout"] * 3,
    ]


# --- loading -----------------------------------------------------------------------------------


class NotFound(Exception):
    pass


def pathfinder(monkeypatch, load):
    module = ModuleType("cuda.pathfinder")
    module.DynamicLibNotFoundError, module.load_nvidia_dynamic_lib = NotFound, load
    monkeypatch.setitem(sys.modules, "cuda", ModuleType("cuda"))
    monkeypatch.setitem(sys.modules, "cuda.pathfinder", module)


def test_nvidias_finder_finds_the_library(monkeypatch):
    asked = []
    pathfinder(monkeypatch, lambda name: asked.append(name) or SimpleNamespace(abs_path="/x.so"))
    assert cublaslt._path() == "/x.so"
    assert asked == ["cublasLt"]


def test_without_the_finder_the_linker_is_asked(monkeypatch):
    monkeypatch.setitem(sys.modules, "cuda.pathfinder", None)
    monkeypatch.setattr(ctypes.util, "find_library", {"cublasLt": "libcublasLt.so.13"}.get)
    assert cublaslt._path() == "libcublasLt.so.13"


def test_a_library_that_is_nowhere_has_a_remedy(monkeypatch):
    def load(name):
        raise NotFound(name)

    pathfinder(monkeypatch, load)
    with pytest.raises(BackendUnavailableError, match=r"not installed: pip install .*cuda13"):
        cublaslt.load()


def test_a_library_that_does_not_load_has_the_linkers_reason(monkeypatch):
    monkeypatch.setattr(cublaslt, "_path", lambda: "/nowhere/libcublasLt.so.13")
    with pytest.raises(BackendUnavailableError, match=r"does not load: .*libcublasLt\.so\.13"):
        cublaslt.load()


# --- what the simulated library refuses, so that a wrong call cannot pass ------------------------


def refused(session, plan, given, **changed):
    with pytest.raises(CublasError) as caught:
        plan.run(0, pointers(given)._replace(**changed))
    return caught.value.status


def test_a_product_on_less_aligned_arrays_than_was_said_is_refused(session):
    given = arrays()
    plan = session.plan(PROBLEM, Epilogue.BIAS, pointers(given))
    plan.run(0, pointers(given))
    for name in ("a", "b", "out", "vector"):
        at = getattr(pointers(given), name)
        assert refused(session, plan, given, **{name: at + 4}) == 7
        assert refused(session, plan, given, **{name: 0}) == 7


def test_less_workspace_than_was_asked_for_is_refused(session):
    long = PROBLEM._replace(k=64)
    given = arrays(long)
    plan = session.plan(long, Epilogue.DEFAULT, pointers(given))
    assert plan.workspace_bytes > 0
    assert refused(session, plan, given) == 7


@pytest.mark.parametrize("wrong", ["", "MatmulDesc", "MatmulPreference"])
def test_handles_of_another_kind_are_refused(functions, wrong):
    made = ctypes.c_void_p()
    functions.cublasLtMatrixLayoutCreate(
        ctypes.byref(made),
        ctypes.c_int(0),
        ctypes.c_uint64(1),
        ctypes.c_uint64(1),
        ctypes.c_int64(1),
    )
    destroy = getattr(functions, f"cublasLt{wrong}Destroy")
    assert destroy(made) == 7
    assert functions.cublasLtMatrixLayoutDestroy(made) == 0


@pytest.mark.parametrize(
    "change",
    [
        {"n": 0},
        {"k": 5},
        {"dtype": "float64"},
    ],
)
def test_an_algorithm_of_another_problem_is_refused(session, change):
    given = arrays()
    plan = session.plan(PROBLEM, Epilogue.DEFAULT, pointers(given))
    other = Plan(session._library, session._handle, PROBLEM._replace(**change), Epilogue.DEFAULT)
    other._algorithm = plan._algorithm
    assert refused(session, other, given) == 7


def test_an_epilogue_needs_its_arrays(session):
    for epilogue, missing in ((Epilogue.BIAS, "vector"), (Epilogue.RELU_AUX_BIAS, "mask")):
        at = pointers(arrays())._replace(mask=256)._replace(**{missing: 0})
        assert session.plan(PROBLEM, epilogue, at) is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((ctypes.c_void_p(1), ctypes.c_int(7), ctypes.byref(ctypes.c_int(1)), 4), "argument 4"),
        ((1, ctypes.c_int(7), ctypes.byref(ctypes.c_int(1)), ctypes.c_size_t(4)), "argument 1"),
        ((ctypes.c_void_p(1), ctypes.c_int(7), ctypes.c_int(1), ctypes.c_size_t(4)), "argument 3"),
        ((ctypes.c_void_p(1),), "takes 4 arguments, got 1"),
    ],
)
def test_what_c_would_misread_is_a_type_error(functions, arguments, message):
    with pytest.raises(TypeError, match=message):
        functions.cublasLtMatmulDescSetAttribute(*arguments)


def test_a_function_that_there_is_not():
    with pytest.raises(AttributeError, match="cublasLtMatmull"):
        CublasLt(Memory()).cublasLtMatmull()
