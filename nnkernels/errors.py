"""Every exception that nnkernels raises on purpose.

All of them derive from :class:`NnkernelsError`; errors about an input are also ``ValueError`` or
``TypeError``, so code that knows nothing of nnkernels catches them too. A message names the
operator or function, the argument, what was expected, what came, and the remedy.
"""

from __future__ import annotations

from collections.abc import Iterable


class NnkernelsError(Exception):
    """Base class of every error raised by nnkernels."""


class InputError(NnkernelsError, ValueError):
    """A value given by the caller cannot be used."""


class ShapeError(InputError):
    """The rank or the shape of an array does not fit the operator's signature."""


class DTypeError(NnkernelsError, TypeError):
    """The dtype or the type of an argument is not supported."""


class LabelError(InputError):
    """A class label or an index lies outside its range."""


class NonFiniteError(InputError):
    """Data given for training holds NaN or infinity."""


class OutputError(InputError):
    """The array given as ``out`` is read-only, overlaps an input or does not fit."""


class DeviceMismatchError(NnkernelsError, TypeError):
    """Arrays of different devices, or of another device than the backend's, were mixed."""


class UnknownNameError(InputError, LookupError):
    """A name (operator, backend, dataset, activation, ...) is not known."""


class ProgramError(InputError):
    """A Program, or the way it is bound or run, is not valid."""


class BackendError(NnkernelsError, RuntimeError):
    """A backend or one of its kernels failed or broke its contract."""


class BackendUnavailableError(BackendError):
    """The backend exists, but cannot work here; the message says why and what to do."""


class DeviceMemoryError(NnkernelsError, MemoryError):
    """A device has no room for what was asked for."""


class KernelMissingError(BackendError):
    """No kernel of the backend, nor a declared fallback, serves the operator."""


class MissingExtraError(NnkernelsError, ImportError):
    """An optional dependency is not installed; the message holds the pip command."""


class CheckpointError(NnkernelsError, ValueError):
    """A checkpoint is damaged, foreign, or made for another architecture."""


class DatasetError(NnkernelsError, ValueError):
    """A dataset cannot be read, fetched or verified."""


class ResultError(NnkernelsError, ValueError):
    """A file of measured results cannot be read."""


class NotComparableError(NnkernelsError, ValueError):
    """Two measurements differ in more than what is to be compared; the message names what."""


class VerificationError(NnkernelsError, AssertionError):
    """A backend, an operator or a gradient failed its verification."""


class DivergedError(NnkernelsError, ArithmeticError):
    """Training met a loss, or weights, that are NaN or infinite.

    The trainer keeps the weights and the history of the last good step.

    Attributes:
        epoch: epoch (0-based) in which it happened.
        step: optimizer steps that were completed before it.
        tensor: name of the first tensor that was not finite.
    """

    def __init__(self, message: str, *, epoch: int, step: int, tensor: str) -> None:
        super().__init__(message)
        self.epoch = epoch
        self.step = step
        self.tensor = tensor


class TrainingInterrupted(KeyboardInterrupt):
    """Ctrl-C, SIGTERM or SIGHUP ended training after a whole step; the trainer's state is intact.

    Attributes:
        signal: number of the signal (2 for SIGINT, 15 for SIGTERM, 1 for SIGHUP).
    """

    def __init__(self, message: str, *, signal: int) -> None:
        super().__init__(message)
        self.signal = signal


def type_name(value: object) -> str:
    """The type of a value as a message names it, such as ``cupy.ndarray`` or ``list``."""
    kind = type(value)
    return kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"


def suggestion(name: str, choices: Iterable[str]) -> str:
    """``" Did you mean 'x'?"`` for the nearest of ``choices``, or the list of choices."""
    import difflib  # only errors need it: importing nnkernels must stay as quick as NumPy

    known = sorted(choices)
    near = difflib.get_close_matches(name, known, n=1)
    if near:
        return f" Did you mean {near[0]!r}?"
    return f" Known: {', '.join(known)}." if known else ""


def unknown(what: str, name: str, choices: Iterable[str]) -> UnknownNameError:
    """The error for an unknown ``name`` of kind ``what``, with the nearest match."""
    return UnknownNameError(f"unknown {what} {name!r}.{suggestion(name, choices)}")


def missing_extra(feature: str, module: str, extra: str) -> MissingExtraError:
    """The error for a ``feature`` whose optional ``module`` is not installed."""
    return MissingExtraError(
        f"{feature} needs {module}, which is not installed: pip install 'nnkernels[{extra}]'"
    )
