"""Where backends come from: the modules of :mod:`nnkernels.backends` and entry points.

A backend's module has one function, ``load() -> Backend``; nothing is imported before a backend is
named. Third parties register theirs in the entry-point group ``nnkernels.backends``, pointing at
such a function or at a :class:`~nnkernels.backend.Backend`. A plug-in that fails to load stays
listed with its reason and harms nobody else.
"""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from nnkernels.backend import Backend
from nnkernels.errors import BackendError, BackendUnavailableError, unknown

GROUP = "nnkernels.backends"


@dataclass(frozen=True, slots=True)
class Source:
    """Where a backend of some name can be loaded from."""

    name: str
    origin: str
    load: Callable[[], object]


def _builtin_names() -> list[str]:
    folder = Path(__file__).parent / "backends"
    return [m.name for m in pkgutil.iter_modules([str(folder)]) if not m.name.startswith("_")]


def _load_builtin(name: str) -> object:
    return importlib.import_module(f"nnkernels.backends.{name}").load()


def _load_entry_point(entry: importlib.metadata.EntryPoint) -> object:
    target = entry.load()
    return target if isinstance(target, Backend) else target()


def sources() -> dict[str, list[Source]]:
    """All known backends by name, built-in first; two sources of one name are a clash."""
    found: dict[str, list[Source]] = {}
    for name in _builtin_names():
        found[name] = [Source(name, "nnkernels", functools.partial(_load_builtin, name))]
    for entry in importlib.metadata.entry_points(group=GROUP):
        owner = entry.dist.name if entry.dist is not None else entry.value
        source = Source(entry.name, owner, functools.partial(_load_entry_point, entry))
        found.setdefault(entry.name, []).append(source)
    return found


_loaded: dict[str, Backend] = {}
_failed: dict[str, BackendError] = {}


def load(name: str) -> Backend:
    """The backend called ``name``, loaded once; a failure is kept and raised again.

    Raises:
        UnknownNameError: no backend has this name.
        BackendUnavailableError: it cannot work here; the message has the reason and the remedy.
        BackendError: it failed to load, or two distributions claim the name.
    """
    if name not in _loaded and name not in _failed:
        try:
            _loaded[name] = _load(name)
        except BackendError as error:
            _failed[name] = error
    if name in _failed:
        raise _failed[name]
    return _loaded[name]


def _load(name: str) -> Backend:
    known = sources()
    if name not in known:
        raise unknown("backend", name, known)
    if len(known[name]) > 1:
        owners = " and ".join(s.origin for s in known[name])
        raise BackendError(f"backend {name!r} is claimed by {owners}; uninstall one of them")
    source = known[name][0]
    backend = _run(source)
    if not isinstance(backend, Backend):
        raise BackendError(f"backend {name!r} of {source.origin} gave {backend!r}, not a Backend")
    if reason := backend.device.available():
        raise BackendUnavailableError(f"backend {name!r} is not available: {reason}")
    return backend


def _run(source: Source) -> object:
    try:
        return source.load()
    except BackendError:
        raise
    except (Exception, SystemExit) as error:
        # SystemExit too: a plug-in must not end the host's process by being imported.
        raise BackendError(
            f"backend {source.name!r} of {source.origin} failed to load: "
            f"{type(error).__name__}: {error}"
        ) from error


def availability() -> dict[str, str | None]:
    """Every known backend with None when it works here, else the reason why it does not."""
    return {name: _reason(name) for name in sources()}


def _reason(name: str) -> str | None:
    try:
        load(name)
    except BackendError as error:
        return str(error)
    return None
