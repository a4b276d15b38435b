"""Compiled kernels in this process: found in the cache or compiled, linked, called by address.

Nothing is compiled before somebody needs it. One file of the cache holds one kernel for one dtype,
whatever the shapes; :mod:`nnkernels.backends.numba.compiling.object_cache` keeps it safe.
"""

from __future__ import annotations

import functools
import inspect
import sys
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import llvmlite.binding as llvm

from nnkernels.backends import _compiled
from nnkernels.backends._compiled.entry import Entry
from nnkernels.backends._compiled.record import Layout
from nnkernels.backends.numba.compiling.object_cache import ObjectCache, default_cache, source_key

FORMAT = "1"
ANNOUNCE_S = 1.0
"""Compiling is announced on a terminal once it has taken so long."""

_lock = threading.RLock()
_entries: dict[str, Entry] = {}


def _cached(build: Callable[[str], bytes]) -> Callable[[Entry], int]:
    """Links object code from the cache; ``build`` gives it for a symbol where it is not there."""

    def link(entry: Entry) -> int:
        code = cache().load(entry.name)
        if code is None:
            began = time.perf_counter()
            code = build(entry.symbol)
            entry.seconds = time.perf_counter() - began
            cache().store(entry.name, code)
        builder = llvm.JITLibraryBuilder().add_object_img(code).add_current_process()
        linked = builder.export_symbol(entry.symbol).link(_linker(), entry.name)
        entry.kept.append(linked)
        return int(linked[entry.symbol])

    return link


@dataclass(frozen=True)
class Function:
    """A plain function as the code of a kernel."""

    written_in: Callable[..., Any]

    @property
    def name(self) -> str:
        """``activations.relu``."""
        return qualified(self.written_in)

    @property
    def parameters(self) -> tuple[str, ...]:
        """What the function takes."""
        return tuple(inspect.signature(self.written_in).parameters)

    def entry(self, layout: Layout) -> Entry:
        """The compiled function for arrays as in ``layout``."""
        return kernel_entry(self.written_in, layout)


def qualified(function: Callable[..., Any]) -> str:
    """The name of a function with its module's."""
    return f"{function.__module__.rpartition('.')[2]}.{function.__qualname__}"


def kernel_entry(function: Callable[..., Any], layout: Layout) -> Entry:
    """The entry of a kernel's function for arrays as in ``layout``."""
    name = f"{qualified(function)}|{layout.key}"

    def build(symbol: str) -> bytes:
        from nnkernels.backends.numba.compiling.compiler import compile_entry

        code: bytes = compile_entry(symbol, function, layout)
        return code

    return _entry(name, _cached(build))


def plain_entry(function: Callable[..., Any], count: int) -> Entry:
    """The entry of a function of ``count`` int64."""
    name = f"{qualified(function)}|{count}"

    def build(symbol: str) -> bytes:
        from nnkernels.backends.numba.compiling.compiler import compile_plain

        code: bytes = compile_plain(symbol, function, count)
        return code

    return _entry(name, _cached(build), count)


def live_entry(function: Any, layout: Layout, *, returns: bool) -> Entry:
    """The entry of a user's compiled function; see :mod:`nnkernels.backends.numba.swaps`.

    It is compiled in every process: what it calls may change without this package noticing.
    """
    name = f"live.{function.py_func.__qualname__}.{id(function)}.{returns}|{layout.key}"

    def link(entry: Entry) -> int:
        from nnkernels.backends.numba.compiling.compiler import compile_live

        address, kept = compile_live(entry.symbol, function, layout, returns=returns)
        entry.kept.extend([kept, function])
        return int(address)

    return _entry(name, link)


def pointer_entry(address: int, owner: Any) -> Entry:
    """The entry that lies at an address as long as ``owner`` lives."""

    def link(entry: Entry) -> int:
        entry.kept.append(owner)
        return address

    return _entry(f"pointer.{address}", link)


def _entry(name: str, link: Callable[[Entry], int], arguments: int = 3) -> Entry:
    with _lock:
        if name not in _entries:
            _entries[name] = Entry(name, link, arguments)
        return _entries[name]


def load(entries: Iterable[Entry], progress: Callable[[int, int], None] | None = None) -> float:
    """Have all of ``entries`` ready; returns the seconds that compiling took.

    ``progress`` is told how many are ready, of how many; by default a terminal is told what takes
    so long.
    """
    chosen = list(dict.fromkeys(entries))
    told = progress or _Announcement()
    before = sum(e.seconds for e in chosen)
    for done, entry in enumerate(chosen):
        told(done, len(chosen))
        _ = entry.address
    told(len(chosen), len(chosen))
    return sum(e.seconds for e in chosen) - before


class _Announcement:
    """One line on a terminal while compiling takes long; nothing elsewhere."""

    def __init__(self) -> None:
        self._began, self._shown = time.perf_counter(), False

    def __call__(self, done: int, total: int) -> None:
        if time.perf_counter() - self._began < ANNOUNCE_S or not sys.stderr.isatty():
            return
        end = "\n" if done == total else ""
        line = f"\rnnkernels: compiling Numba kernels, {done} of {total} (kept for the next time)"
        sys.stderr.write(line + end)
        sys.stderr.flush()


# --- where code is kept and linked ------------------------------------------------------------


@functools.cache
def cache() -> ObjectCache:
    """The cache of this version's kernels for this machine's processor."""
    return default_cache(source_key(Path(__file__).parents[1], *_facts()))


def _facts() -> list[str]:
    """What the machine code depends on besides the kernels' sources."""
    libraries = [f"{name} {version(name)}" for name in ("nnkernels", "numba", "llvmlite", "numpy")]
    features = llvm.get_host_cpu_features().flatten()
    shared = source_key(Path(_compiled.__file__).parent)
    return [FORMAT, shared, *libraries, sys.platform, llvm.get_host_cpu_name(), features]


@functools.cache
def _linker() -> Any:
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    machine = llvm.Target.from_default_triple().create_target_machine(codemodel="jitdefault")
    return llvm.create_lljit_compiler(machine)
