"""The limits that ``nnkernels tune`` measured, in a file of the user's.

``numba-products.json`` in the user's configuration folder (``XDG_CONFIG_HOME`` moves it) holds, for
each dtype, the largest right operand of our own products on the processor that it was measured on.
On another processor, or when it is damaged, it counts for nothing: one warning, and the default.
"""

from __future__ import annotations

import functools
import hashlib
import platform
import re
import warnings
from datetime import date
from pathlib import Path

import llvmlite.binding as llvm
import msgspec

from nnkernels.errors import NnkernelsError
from nnkernels.files import write_atomically

FORMAT = 1
NAME = "numba-products.json"
DTYPES = ("float32", "float64")

MAX_LIMIT = 1 << 32
"""Bytes; a larger limit was not measured."""

MAX_FILE = 4096
"""Bytes that are read at most."""


class TuningWarning(UserWarning):
    """The tuned limits cannot be used; products are chosen by the default ones."""


class Tuned(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the file holds.

    Attributes:
        format: version of this layout.
        date: day of the measurement, ``2026-11-24``.
        cpu: name of the processor.
        features: digest of its name and vector instructions.
        limits: by dtype, the bytes of the largest right operand of our own product.
    """

    format: int
    date: str
    cpu: str
    features: str
    limits: dict[str, int]


def path() -> Path:
    """Where the file lies, or would."""
    import platformdirs

    return Path(platformdirs.user_config_dir("nnkernels")) / NAME


def read() -> Tuned | None:
    """The limits for this processor; None where there are none.

    Warns (:class:`TuningWarning`) of a file that is damaged, or of another processor.
    """
    file = path()
    try:
        with file.open("rb") as stream:
            data = stream.read(MAX_FILE)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as cause:
        _warn(file, f"it cannot be read: {cause.strerror}")
        return None
    try:
        found = msgspec.json.decode(data, type=Tuned)
    except (msgspec.DecodeError, UnicodeDecodeError):  # a ValidationError is a DecodeError
        _warn(file, "it is damaged")
        return None
    if reason := _fault(found):
        _warn(file, reason)
        return None
    return found


def _fault(found: Tuned) -> str | None:
    """Why the file's contents cannot be used."""
    if found.format != FORMAT:
        return f"it has format {found.format}, this version reads {FORMAT}"
    if not re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", found.date):
        return "it is damaged: its date is none"
    if set(found.limits) != set(DTYPES):
        return f"it is damaged: it must have limits for {' and '.join(DTYPES)}"
    if not all(0 <= limit <= MAX_LIMIT for limit in found.limits.values()):
        return f"it is damaged: a limit is not between 0 and {MAX_LIMIT:,} bytes"
    if (found.cpu, found.features) != (cpu(), features()):
        return "it was measured on another processor"
    return None


def _warn(file: Path, reason: str) -> None:
    warnings.warn(
        f"the tuned limits in {str(file)!r} are ignored: {reason}; measure again with "
        "'nnkernels tune', or remove them with 'nnkernels tune --reset'",
        TuningWarning,
        stacklevel=3,
    )


def write(limits: dict[str, int]) -> Path:
    """Store ``limits`` for this processor; new processes use them. Returns the file.

    Raises:
        NnkernelsError: the folder or the file cannot be written.
    """
    file = path()
    found = Tuned(FORMAT, date.today().isoformat(), cpu(), features(), limits)
    try:
        file.parent.parent.mkdir(parents=True, exist_ok=True)
        file.parent.mkdir(mode=0o700, exist_ok=True)
    except OSError as cause:
        raise NnkernelsError(
            f"tune: cannot make the folder {str(file.parent)!r}: {cause.strerror}; set "
            "XDG_CONFIG_HOME to a folder of your own"
        ) from cause
    write_atomically(file, msgspec.json.format(msgspec.json.encode(found), indent=2) + b"\n")
    return file


def forget() -> bool:
    """Remove the file; returns whether there was one.

    Raises:
        NnkernelsError: it cannot be removed.
    """
    file = path()
    try:
        file.unlink()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as cause:
        raise NnkernelsError(f"tune: cannot remove {str(file)!r}: {cause.strerror}") from cause
    return True


@functools.cache
def cpu() -> str:
    """Name of the processor, as the system tells it."""
    try:
        facts = Path("/proc/cpuinfo").read_text()
    except OSError:
        facts = ""
    found = re.search(r"^model name\s*:\s*(.+)$", facts, re.MULTILINE)
    return found[1] if found else platform.processor() or platform.machine()


@functools.cache
def features() -> str:
    """Digest of the processor's kind and vector instructions."""
    facts = f"{llvm.get_host_cpu_name()} {llvm.get_host_cpu_features().flatten()}"
    return hashlib.sha256(facts.encode()).hexdigest()[:24]
