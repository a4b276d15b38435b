"""Which kernels of the backend ``numpy`` may call BLAS: those that say so, and no other."""

from __future__ import annotations

import ast
import inspect

import pytest

from nnkernels.backends.numpy import FAMILIES

CALLS_BLAS = {"dot", "matmul", "vdot", "inner", "einsum", "tensordot", "linalg", "convolve"}
"""Functions of NumPy that take BLAS for some arguments; and so does the operator ``@``."""


def is_product(node: ast.AST) -> bool:
    numpys = isinstance(node, ast.Attribute) and node.attr in CALLS_BLAS
    return numpys or (isinstance(node, ast.BinOp) and isinstance(node.op, ast.MatMult))


def callers_of_blas(module) -> set[str]:
    """Functions of ``module`` that call BLAS, themselves or through others of the module."""
    functions = {
        node.name: list(ast.walk(node))
        for node in ast.parse(inspect.getsource(module)).body
        if isinstance(node, ast.FunctionDef)
    }
    found = {name for name, nodes in functions.items() if any(map(is_product, nodes))}
    while more := {
        name
        for name, nodes in functions.items()
        if name not in found and any(isinstance(n, ast.Name) and n.id in found for n in nodes)
    }:
        found |= more
    return found


@pytest.mark.parametrize("family", FAMILIES, ids=lambda module: module.__name__.split(".")[-1])
def test_a_kernel_says_whether_it_calls_blas(family) -> None:
    declared = {name for name, kernel in family.kernels.items() if kernel.blas}
    assert declared == callers_of_blas(family) & set(family.kernels)
