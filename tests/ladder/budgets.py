"""What a kernel may take: checks of compiled modules, and the declared exceptions.

An exception that no kernel needs is a failure of the ladder.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from ladder.compiling import Compiled, Entry

from nnkernels.backends.cupy import sources
from nnkernels.backends.cupy.launching import vectorised
from nnkernels.backends.cupy.sources import Signature

REGISTERS = 64
"""Of a thread: 1024 threads fit on a multiprocessor."""

MORE_REGISTERS: Mapping[str, tuple[int, str]] = {}
"""By kernel: what it may take instead, and why."""

DOUBLE_ARITHMETIC: Mapping[str, tuple[int, str]] = {
    "accumulate": (1, "the State's sums are float64"),
    "count": (1, "the State's sums are float64"),
    "head_softmax_cross_entropy_labels_warp": (2, "the State's sums are float64"),
    "head_softmax_cross_entropy_labels_block": (2, "the State's sums are float64"),
    "head_softmax_cross_entropy_rows_warp": (2, "the State's sums are float64"),
    "head_softmax_cross_entropy_rows_block": (2, "the State's sums are float64"),
    "sum_of_squares": (17, "squares of float32 overflow"),
    "sum_of_squares_vec": (24, "squares of float32 overflow; 8 of them in a vector of float16"),
    "norm_and_factor": (20, "the norm is a float64 of the State"),
    "clip_by_global_norm": (1, "the factor is compared with 1 as the float64 it is"),
    "clip_by_global_norm_vec": (1, "the factor is compared with 1 as the float64 it is"),
}
"""Kernels that compute in float64 whatever the storage type: in how many instructions, and why.

Others with a ``double`` parameter may load and convert one, and no other may even that.
"""

_DOUBLE = re.compile(r"^\s*(?:@!?%p\d+ )?([\w.]*\.f64[\w.]*)\s", re.MULTILINE)
_MOVES = ("ld.", "st.", "mov.", "selp.", "cvt.")
_INTEGER_DIVISION = re.compile(
    r"I2F(?:\.\w+)*\.RP|CALL[^\n]*__cuda_sm\d+x?_(?:div|rem)_[us]\d+|^\s*(?:div|rem)\.[us]\d+",
    re.MULTILINE,
)
_LOCAL = re.compile(r"\b(?:LDL|STL)\b")
_WIDE_LOAD = re.compile(r"\bLDG\.E\.128\b")
_WIDE_STORE = re.compile(r"\bSTG\.E\.128\b")

PARAMETER_TYPES = {
    "int": "u32",
    "unsigned": "u32",
    "long long": "u64",
    "unsigned long long": "u64",
    "double": "f64",
}


# --- what ptxas says ------------------------------------------------------------------------------


def resource_faults(compiled: Compiled) -> Iterator[str]:
    """Registers beyond the budget, stack frames and spills."""
    for name, found in compiled.resources.items():
        limit, _ = MORE_REGISTERS.get(name, (REGISTERS, ""))
        if found.registers > limit:
            yield f"{name} takes {found.registers} registers, its budget is {limit}"
        if found.stack or found.spill_stores or found.spill_loads:
            yield f"{name} has local memory: {found}"


# --- what is in the PTX ---------------------------------------------------------------------------


def double_faults(
    entries: Mapping[str, Entry], signatures: Mapping[str, Signature]
) -> Iterator[str]:
    """Float64 where nothing asks for it; of modules of narrower types."""
    for name, entry in entries.items():
        found = set(_DOUBLE.findall(entry.body))
        takes_double = any(p.type == "double" for p in signatures[name].parameters)
        computing, (limit, _) = double_arithmetic(entry), DOUBLE_ARITHMETIC.get(name, (0, ""))
        if found and not takes_double:
            yield f"{name} has float64 in it: {sorted(found)}"
        elif len(computing) > limit:
            yield f"{name} computes in float64 {len(computing)} times: {sorted(set(computing))}"


def double_arithmetic(entry: Entry) -> list[str]:
    """Instructions that compute in float64."""
    return [code for code in _DOUBLE.findall(entry.body) if not code.startswith(_MOVES)]


def fence_faults(entries: Mapping[str, Entry]) -> Iterator[str]:
    """What a block leaves for another one must be seen: a fence before and behind every atomic."""
    for name, entry in entries.items():
        before, atomic, behind = entry.body.partition("atom.")
        if atomic and not ("membar.gl" in before and "membar.gl" in behind):
            yield f"{name} has an atomic operation without a fence before and behind it"


def parameter_faults(
    entries: Mapping[str, Entry], signatures: Mapping[str, Signature], storage: str
) -> Iterator[str]:
    """Where the declarations that launches are checked by are not what was compiled."""
    if set(entries) != set(signatures):
        yield f"kernels {sorted(set(entries) ^ set(signatures))} are read or compiled, not both"
    for name in set(entries) & set(signatures):
        wanted = tuple(_ptx_type(p, storage) for p in signatures[name].parameters)
        if entries[name].parameters != wanted:
            yield f"{name} takes {entries[name].parameters}, read as {wanted}"
        if f".maxntid {signatures[name].bound}" not in entries[name].body:
            yield f"{name} is not compiled for blocks of {signatures[name].bound}"


def _ptx_type(parameter: sources.Parameter, storage: str) -> str:
    arithmetic = "f64" if storage == "float64" else "f32"
    return "u64" if parameter.pointer else {**PARAMETER_TYPES, "A": arithmetic}[parameter.type]


# --- what is in the SASS --------------------------------------------------------------------------


def sass_faults(sass: Mapping[str, str], signatures: Mapping[str, Signature]) -> Iterator[str]:
    """Local memory, integer division, and vector kernels that do not move 16 bytes at once."""
    for name, body in sass.items():
        if _LOCAL.search(body):
            yield f"{name} has local memory"
        if _INTEGER_DIVISION.search(body):
            yield f"{name} divides integers"
        if vectorised(name):
            yield from _narrow(name, body, signatures[name])


def _narrow(name: str, body: str, signature: Signature) -> Iterator[str]:
    stored = [p for p in signature.parameters if p.pointer and p.type == "T"]
    if stored and not _WIDE_LOAD.search(body):
        yield f"{name} has no LDG.E.128"
    if any(not p.const for p in stored) and not _WIDE_STORE.search(body):
        yield f"{name} has no STG.E.128"
