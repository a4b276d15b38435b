"""Which backend serves a call: by name, by context, or by the arrays' device."""

from __future__ import annotations

import contextlib
import functools
import importlib
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from typing import Any

from nnkernels import plugins
from nnkernels.backend import Backend
from nnkernels.errors import BackendError, InputError
from nnkernels.names import BackendName, parse_backend

current: ContextVar[Backend | None] = ContextVar("nnkernels_backend", default=None)


@functools.lru_cache(maxsize=256)
def named(name: str) -> Backend:
    """The backend written as ``name``; each name is read once."""
    parsed: BackendName = parse_backend(name)
    base = _auto() if parsed.base == "auto" else plugins.load(parsed.base)
    if parsed.device is not None:
        base = _on_device(base, parsed.device)
    if parsed.settings:
        base = base.configure(**parsed.settings)
    return base.replace(**{op: _swap_value(v) for op, v in parsed.swaps.items()})


def _on_device(backend: Backend, device: str) -> Backend:
    if backend.select is None:
        raise InputError(f"backend {backend.name} has one device only; drop ':{device}'")
    return backend.select(device)


def _swap_value(value: str) -> Any:
    if ":" not in value:
        return value
    module, _, attribute = value.partition(":")
    try:
        return functools.reduce(getattr, attribute.split("."), importlib.import_module(module))
    except ModuleNotFoundError as error:
        raise InputError(
            f"kernel {value!r} cannot be imported: {error}; a module of your own must be installed "
            "or in a folder named by PYTHONPATH"
        ) from error
    except (Exception, SystemExit) as error:  # whatever the user's module does when it is imported
        raise InputError(
            f"kernel {value!r} cannot be imported: {type(error).__name__}: {error}"
        ) from error


def _auto() -> Backend:
    """The available host backend with the highest priority: the documented rule of ``auto``."""
    found = []
    for name in plugins.builtin_names():
        if plugins.on_host(name):  # importing CuPy, for example, takes a second
            with contextlib.suppress(BackendError):
                found.append(plugins.load(name))
    return max(found, key=lambda b: b.priority)


def get_backend(
    name: str | Backend = "auto",
    *,
    threads: int | None = None,
    precision: str | None = None,
    strict: bool | None = None,
) -> Backend:
    """The backend called ``name``, with settings if given.

    Args:
        name: ``"auto"``, ``"numpy"``, ``"cupy:1"`` (a device), ``"numpy(threads=1)"`` (settings),
            ``"numpy[relu=mypkg.kernels:relu]"`` (swapped kernels), any of these combined, or a
            Backend. ``auto`` is the available CPU backend with the highest priority; a GPU is used
            only when it is named.
        threads: CPU threads of its kernels.
        precision: ``"fp32"``, ``"tf32"``, ``"bf16"`` or ``"fp16"``, where the backend offers it.
        strict: refuse kernels of the fallback backend.

    Raises:
        UnknownNameError: no such backend (with the nearest match).
        BackendUnavailableError: it cannot work here; the message has the reason and the remedy.
    """
    if not isinstance(name, (str, Backend)):
        raise InputError(f"get_backend: name must be a text or a Backend, got {name!r}")
    backend = name if isinstance(name, Backend) else named(name)
    if threads is None and precision is None and strict is None:
        return backend
    return backend.configure(threads=threads, precision=precision, strict=strict)


@contextlib.contextmanager
def use(backend: str | Backend) -> Iterator[Backend]:
    """Run the operators called inside the ``with`` block on ``backend``."""
    chosen = get_backend(backend)
    token = current.set(chosen)
    try:
        yield chosen
    finally:
        current.reset(token)


def default_for(arrays: Sequence[Any]) -> Backend:
    """NumPy serves NumPy arrays; arrays of another device are served by the backend owning it."""
    for array in arrays:
        if type(array).__module__.partition(".")[0] == "cupy":
            return get_backend(f"cupy:{array.device.id}")
    return default_host()


@functools.cache
def default_host() -> Backend:
    """The backend of NumPy arrays when none is named."""
    return plugins.load("numpy")


def serving() -> Backend:
    """The backend that serves NumPy arrays here: that of :func:`use`, else the default."""
    return current.get() or default_host()
