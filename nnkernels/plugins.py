"""Where backends come from: the modules of :mod:`nnkernels.backends` and entry points.

A backend's module has one function, ``load() -> Backend``; nothing is imported before a backend is
named. Third parties register theirs in the entry-point group ``nnkernels.backends``, pointing at
such a function or at a :class:`~nnkernels.backend.Backend`; :func:`register` adds one for the life
of a process. A plug-in that fails to load stays
listed with its reason and harms nobody else: a claim on a built-in name is listed as an error and
never served, one name claimed by two third parties is an error when it is asked for.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from nnkernels.backend import Backend
from nnkernels.errors import BackendError, BackendUnavailableError, InputError, unknown
from nnkernels.names import parse_backend

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

GROUP = "nnkernels.backends"
OWN = "nnkernels"


class Source(NamedTuple):
    """Where a backend of some name can be loaded from."""

    name: str
    origin: str
    load: Callable[[], object]


def builtin_names() -> list[str]:
    """Names of the backends that nnkernels brings."""
    import pkgutil

    # By name, as in _load_builtin: the backends stand above this module and are found, not known.
    folder = importlib.import_module("nnkernels.backends").__path__
    return [m.name for m in pkgutil.iter_modules(folder) if m.name[0] != "_"]


def on_host(name: str) -> bool:
    """Whether the arrays of a built-in backend are NumPy arrays; loads nothing."""
    return getattr(importlib.import_module(f"nnkernels.backends.{name}"), "ON_HOST", True)


def _load_builtin(name: str) -> object:
    return importlib.import_module(f"nnkernels.backends.{name}").load()


def _load_entry_point(entry: EntryPoint) -> object:
    target = entry.load()
    return target if isinstance(target, Backend) else target()


def sources() -> dict[str, list[Source]]:
    """All claims on every name, the built-in one first; more than one is a clash."""
    from importlib.metadata import entry_points  # a quarter of NumPy's import time

    found: dict[str, list[Source]] = {}
    for name in builtin_names():
        found[name] = [_builtin(name)]
    for entry in entry_points(group=GROUP):
        owner = (entry.dist.name if entry.dist is not None else None) or entry.value
        source = Source(entry.name, owner, functools.partial(_load_entry_point, entry))
        found.setdefault(entry.name, []).append(source)
    return found | {name: [source] for name, source in _registered.items()}


def _builtin(name: str) -> Source:
    return Source(name, OWN, functools.partial(_load_builtin, name))


_registered: dict[str, Source] = {}
_loaded: dict[str, Backend] = {}
_failed: dict[str, BackendError] = {}


def register(name: str, load: Callable[[], object], *, origin: str) -> None:
    """Add a backend for as long as this process runs.

    Args:
        name: what it is called.
        load: returns the :class:`~nnkernels.backend.Backend`, which has this name; called when it
            is first asked for.
        origin: who brings it, for messages.

    Raises:
        InputError: the name cannot be one of a backend, or is taken.
    """
    if parse_backend(name) != (name, None, {}, {}):
        raise InputError(f"register: the name must be a word such as 'mine', got {name!r}")
    owners = [claim.origin for claim in sources().get(name, [])]
    if owners:
        raise InputError(
            f"backend {name!r} is taken by {owners[0]}; choose another name for that of {origin}"
        )
    _registered[name] = Source(name, origin, load)


def load(name: str) -> Backend:
    """The backend called ``name``, loaded once; a failure is kept and raised again.

    Raises:
        UnknownNameError: no backend has this name.
        BackendUnavailableError: it cannot work here; the message has the reason and the remedy.
        BackendError: it failed to load, or two distributions claim the name.
    """
    if name not in _loaded and name not in _failed:
        try:
            _loaded.setdefault(name, _run(_source(name)))
        except BackendError as error:
            _failed[name] = error
    if name in _failed:
        # Without the old traceback, which would keep the frames of every earlier caller alive.
        raise _failed[name].with_traceback(None)
    return _loaded[name]


def _source(name: str) -> Source:
    if name in builtin_names():  # without asking what else is installed: that cannot break these
        return _builtin(name)
    if name in _registered:
        return _registered[name]
    known = sources()
    if name not in known:
        raise unknown("backend", name, known)
    if len(known[name]) > 1:
        raise BackendError(_clash(known[name]))
    return known[name][0]


def _clash(claims: list[Source]) -> str:
    owners = " and ".join(claim.origin for claim in claims)
    return f"backend {claims[0].name!r} is claimed by {owners}; uninstall one of them"


def _run(source: Source) -> Backend:
    try:
        return _checked(source, source.load())
    except BackendError:
        raise
    except (Exception, SystemExit) as error:
        # SystemExit too: a plug-in must not end the host's process by being imported.
        raise BackendError(
            f"backend {source.name!r} of {source.origin} failed to load: "
            f"{type(error).__name__}: {error}"
        ) from error


def _checked(source: Source, backend: object) -> Backend:
    if not isinstance(backend, Backend):
        raise BackendError(
            f"backend {source.name!r} of {source.origin} gave {backend!r}, not a Backend"
        )
    if backend.name != source.name:
        raise BackendError(
            f"backend {source.name!r} of {source.origin} calls itself {backend.name!r}; results "
            "carry that name, so both must agree"
        )
    if reason := backend.device.available():
        raise BackendUnavailableError(f"backend {source.name!r} is not available: {reason}")
    return backend


def availability() -> dict[str, str | None]:
    """Every known backend with None when it works here, else the reason why it does not.

    All are loaded. A third party's claim on a built-in name is listed as ``name (distribution)``.
    """
    reasons: dict[str, str | None] = {}
    for name, claims in sources().items():
        reasons[name] = _reason(name)
        if claims[0].origin == OWN:
            reasons |= {f"{name} ({claim.origin})": _clash(claims) for claim in claims[1:]}
    return reasons


def _reason(name: str) -> str | None:
    try:
        load(name)
    except BackendError as error:
        return str(error)
    return None
