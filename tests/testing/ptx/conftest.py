"""Small PTX kernels written out, and how to run them."""

from __future__ import annotations

import functools

import numpy as np
import pytest

from nnkernels.testing.ptx import Memory, Module, run

LETTERS = {"f": "f", "u": "u", "i": "s", "b": "u"}


def ptx_type(dtype) -> str:
    dtype = np.dtype(dtype)
    return f"{LETTERS[dtype.kind]}{8 * dtype.itemsize}"


def register_type(kind: str) -> str:
    """A register that holds a type; bytes need 16 bits, and halves are bits."""
    bits = max(int(kind[1:]), 16)
    return kind if kind[0] == "f" and bits > 16 else f"b{bits}"


HEADER = ".version 8.0\n.target sm_80\n.address_size 64\n"


def entry(body: str, params: str = "", *, name: str = "k", attributes: str = "", before: str = ""):
    """The text of a module with one kernel."""
    declared = ",\n".join(
        f".param .{kind} {name}_param_{n}" for n, kind in enumerate(params.split())
    )
    return f"{HEADER}{before}\n.visible .entry {name}({declared})\n{attributes}\n{{\n{body}\n}}\n"


parsed = functools.lru_cache(200)(Module)


class Device:
    """A memory with the ways in and out that tests need."""

    def __init__(self) -> None:
        self.memory = Memory()

    def put(self, values) -> int:
        values = np.ascontiguousarray(values)
        address = self.memory.allocate(values.nbytes)
        self.memory.write(address, values)
        return address

    def empty(self, count: int, dtype) -> int:
        return self.memory.allocate(count * np.dtype(dtype).itemsize)

    def get(self, address: int, count: int, dtype):
        data = self.memory.read(address, count * np.dtype(dtype).itemsize)
        return np.frombuffer(data, dtype)

    def run(self, text: str, arguments=(), grid=1, block=32, **options):
        module = parsed(text)
        return run(module[module.kernels[0]], self.memory, grid, block, arguments, **options)

    def compute(self, code: str, *inputs, out, **options):
        """Run ``code`` in one thread for each element: from registers a, b, c, e to d."""
        arrays = np.broadcast_arrays(*(np.atleast_1d(x) for x in inputs))
        count = arrays[0].size
        text = elementwise(code, [ptx_type(a.dtype) for a in arrays], out)
        result = self.empty(count, out)
        addresses = [self.put(a) for a in arrays]
        self.run(text, (*addresses, result), 1, count, **options)
        return self.get(result, count, out)


def elementwise(code: str, kinds: list[str], out) -> str:
    """A kernel that computes d from a, b, c, e, with predicates p, q, r and 32 bits t for use."""
    names = "abce"
    lines = [".reg .b64 %p<9>; .reg .b64 at; .reg .b32 t; .reg .pred p, q, r;"]
    lines.append("mov.u32 t, %tid.x;")
    for n, kind in enumerate(kinds):
        size = int(kind[1:]) // 8
        loaded = f"b{8 * size}" if kind == "f16" else kind
        lines.append(f".reg .{register_type(kind)} {names[n]};")
        lines.append(f"ld.param.u64 %p{n}, [k_param_{n}];")
        lines.append(f"mad.wide.u32 at, t, {size}, %p{n};")
        lines.append(f"ld.global.{loaded} {names[n]}, [at];")
    kind = ptx_type(out)
    size = int(kind[1:]) // 8
    stored = f"b{8 * size}" if kind == "f16" else kind
    lines.append(f".reg .{register_type(kind)} d; {code}")
    lines.append(f"ld.param.u64 %p8, [k_param_{len(kinds)}]; mad.wide.u32 at, t, {size}, %p8;")
    lines.append(f"st.global.{stored} [at], d; ret;")
    return entry("\n".join(lines), " ".join(["u64"] * (len(kinds) + 1)))


@pytest.fixture
def device():
    return Device()
