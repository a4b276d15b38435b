"""The list of compiled modules with their hashes, by which machines compare what they compiled."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from nnkernels.backends.cupy import sources
from nnkernels.backends.cupy.compiling import compiler
from nnkernels.backends.cupy.compiling.code_cache import CodeCache
from nnkernels.backends.cupy.compiling.compiler import Target
from nnkernels.backends.cupy.compiling.loader import build
from nnkernels.errors import InputError
from nnkernels.files import write_atomically

NAME = "manifest.json"


class Entry(msgspec.Struct, frozen=True):
    """One compiled module.

    Attributes:
        module, storage, target: what it was compiled from and for.
        file: its name in the folder.
        sha256: of its content.
        size: in bytes.
        seconds: that compiling took; 0 where it was there already.
    """

    module: str
    storage: str
    target: str
    file: str
    sha256: str
    size: int
    seconds: float


class Manifest(msgspec.Struct, frozen=True):
    """What one compiler made of all modules; NVRTC of one version makes the same everywhere."""

    nvrtc: str
    entries: tuple[Entry, ...]

    def digest(self, module: str, storage: str, target: str) -> str | None:
        """SHA-256 of a compiled module, None where it is not listed."""
        for each in self.entries:
            if (each.module, each.storage, each.target) == (module, storage, target):
                return each.sha256
        return None


def build_all(
    nvrtc: Any, cache: CodeCache, targets: Iterable[Target], storages: Iterable[str]
) -> Iterator[Entry]:
    """Compile every module for every target and storage type, one after the other.

    Raises:
        BackendError: a module does not compile.
    """
    kinds = tuple(storages)
    for target in targets:
        for module in sources.module_names():
            for storage in kinds:
                began = time.perf_counter()
                made = build(nvrtc, cache, module, storage, target)
                seconds = time.perf_counter() - began if made.fresh else 0.0
                size = made.path.stat().st_size
                name = made.path.name
                yield Entry(module, storage, str(target), name, made.digest, size, seconds)


def write(folder: Path, nvrtc: Any, entries: Iterable[Entry]) -> Path:
    """Write the manifest into ``folder``.

    Raises:
        NnkernelsError: it cannot be written.
    """
    manifest = Manifest(compiler.version(nvrtc), tuple(entries))
    write_atomically(folder / NAME, msgspec.json.format(msgspec.json.encode(manifest), indent=1))
    return folder / NAME


def read(path: Path) -> Manifest:
    """A manifest that :func:`write` wrote.

    Raises:
        InputError: it cannot be read, or is no manifest.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=Manifest)
    except (OSError, msgspec.MsgspecError) as error:
        raise InputError(
            f"{str(path)!r} is no manifest of compiled modules: {error}; "
            "'nnkernels prebuild' writes one"
        ) from error
