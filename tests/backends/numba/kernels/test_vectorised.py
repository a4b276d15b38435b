"""The Numba kernels' loops are vectorised."""

from __future__ import annotations

import platform
import re

import pytest

pytest.importorskip("numba")

from numba.core.codegen import CPUCodeLibrary

from nnkernels.backends._compiled.record import lay_out, operands
from nnkernels.backends.numba.compiling.compiler import compile_entry
from nnkernels.backends.numba.kernels import activations, losses
from nnkernels.spec import get_op

KERNELS = {**activations.family.kernels, **losses.family.kernels}
LIBM = re.compile(
    r"\b_?(exp2?|expm1|log2?|log1p|tanh|erfc?|fma|fmax|fmin|fmaximum|pow)f?\b(?=[@,]|\s*$)", re.M
)
PACKED = {
    "x86_64": r"v?f?n?m?(add|sub|mul)\d*p[sd]\s",
    "aarch64": r"f(add|sub|mul|mla|mls)\s+v\d+\.[24][sd]",
}


def assembly_of(name, monkeypatch):
    """The machine code of an operator's kernels for float32, as text."""
    texts, original = [], CPUCodeLibrary.serialize_using_object_code

    def serialize(library):
        texts.append(library.get_asm_str())
        return original(library)

    monkeypatch.setattr(CPUCodeLibrary, "serialize_using_object_code", serialize)
    kernel, op = KERNELS[name].function, get_op(name)
    params = op.full_params({})
    given = operands(op, op.signatures(params)[0], kernel.workspace, params)
    for phase in kernel.phases:
        if not phase.alternative:
            layout = lay_out(phase.code, given, "float32", phase.over)
            compile_entry("entry", phase.code.written_in, layout)
    return "".join(texts)


VECTORISED = [
    *("elu", "gelu", "gelu_backward", "log_softmax", "sigmoid_backward", "softplus", "tanh"),
    *("binary_cross_entropy", "binary_cross_entropy_with_logits", "softmax_cross_entropy"),
    "huber_backward",
]


@pytest.mark.parametrize("name", VECTORISED)
def test_loops_are_packed_and_call_no_library(name, monkeypatch):
    text = assembly_of(name, monkeypatch)
    assert not LIBM.search(text)
    packed = PACKED.get(platform.machine())
    assert packed is None or len(re.findall(packed, text)) >= 2
