from __future__ import annotations

import numpy as np
import pytest

from nnkernels.backends.cupy import sources
from nnkernels.errors import BackendError, UnknownNameError

TEXT = """
#define NNK_PAIR(NAME)                                               \\
  NNK_ONE(NAME, NAME, 1)                                             \\
  NNK_ONE(NAME##_vec, NAME, NNK_VEC)
#define NNK_ONE(KERNEL, NAME, V) /* a comment */                     \\
  extern "C" __global__ void NNK_BOUNDS(256)                         \\
      KERNEL(const T* x, T* __restrict__ out, A slope, unsigned long long n) { \\
    nnk::map<V>(x, out, n);                                          \\
  }
#define UNRELATED(x) ((x) + 1)
NNK_PAIR(relu)  // instantiates two
extern "C" __global__ void NNK_BOUNDS(1024)
tick(long long* __restrict__ step, const double* rate, const unsigned char* mask, int k) {
  step[0] = UNRELATED(step[0]);
}
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    (tmp_path / "sample.cu").write_text(TEXT)
    monkeypatch.setattr(sources, "DEVICE", tmp_path)
    for function in (sources.amalgamated, sources.signatures, sources.module_names):
        function.cache_clear()
    yield "sample"
    for function in (sources.amalgamated, sources.signatures, sources.module_names):
        function.cache_clear()


def test_kernels_are_read_through_their_macros(module):
    found = sources.signatures(module)
    assert list(found) == ["relu", "relu_vec", "tick"]
    assert found["relu"].bound == 256
    assert found["relu_vec"].parameters == (
        sources.Parameter("x", "T", True, True),
        sources.Parameter("out", "T", True, False),
        sources.Parameter("slope", "A", False, False),
        sources.Parameter("n", "unsigned long long", False, False),
    )
    assert found["tick"].bound == 1024
    kinds = [(p.type, p.pointer) for p in found["tick"].parameters]
    assert kinds == [("long long", True), ("double", True), ("unsigned char", True), ("int", False)]


@pytest.mark.parametrize(
    ("kind", "storage", "dtype"),
    [
        ("T", "float32", "float32"),
        ("T", "bfloat16", "uint16"),
        ("A", "float16", "float32"),
        ("A", "float64", "float64"),
        ("double", "float16", "float64"),
        ("unsigned char", "float32", "uint8"),
    ],
)
def test_element_types(kind, storage, dtype):
    parameter = sources.Parameter("x", kind, True, True)
    assert sources.element_type(parameter, storage) == np.dtype(dtype)


def test_headers_are_inlined_once(module):
    folder = sources.DEVICE
    (folder / "deep.h").write_text("#pragma once\nint deep;\n")
    (folder / "a.cuh").write_text('#pragma once\n#include "deep.h"\nint a;\n')
    (folder / "b.cu").write_text('#include "a.cuh"\n#include "deep.h"\nint b;\n')
    text = sources.amalgamated("b")
    assert text.count("int deep;") == 1
    assert text.index("int deep;") < text.index("int a;") < text.index("int b;")
    assert "#include" not in text and "#pragma" not in text


def test_a_parameter_of_unknown_type_is_refused(module):
    text = 'extern "C" __global__ void NNK_BOUNDS(32) k(const short* x) {}\n'
    (sources.DEVICE / "bad.cu").write_text(text)
    with pytest.raises(BackendError, match=r"bad.cu: k has a parameter of unknown type"):
        sources.signatures("bad")


def test_two_kernels_of_one_name_are_refused(module):
    text = 'extern "C" __global__ void NNK_BOUNDS(32) k(int n) {}\n'
    (sources.DEVICE / "twice.cu").write_text(text + text)
    with pytest.raises(BackendError, match="two kernels 'k'"):
        sources.signatures("twice")


def test_unknown_names_are_answered_with_the_known_ones(module):
    with pytest.raises(UnknownNameError, match="sample"):
        sources.amalgamated("sampel")
    with pytest.raises(UnknownNameError, match="float64"):
        sources.options("float8")


def test_every_module_declares_kernels():
    names = sources.module_names()
    assert len(names) >= 8
    assert all(sources.signatures(name) for name in names)
