"""Layers that prove themselves on the user's device before they are used.

``plain`` (CuPy's own compilation, ``cupy.matmul``, eager) is complete and always on. Above it stand
``cubin`` (our own compilation), ``lt`` (cublasLt with epilogues) and ``graph`` (a step as one CUDA
graph). At its first use on a combination of device, driver and versions each of them is compared
with NumPy; one that fails or disagrees is switched off, with one warning, and work goes on below
it. ``NNKERNELS_CUPY_LAYERS`` (for example ``plain,cubin``) pins them, unchecked, for debugging.
"""

from __future__ import annotations

import hashlib
import os
import threading
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal, NamedTuple

import msgspec

from nnkernels.errors import InputError, NnkernelsError
from nnkernels.files import write_atomically

VARIABLE = "NNKERNELS_CUPY_LAYERS"
PLAIN = "plain"
LAYERS = ("cubin", "lt", "graph")
"""In the order in which they stand on one another."""

NEEDS = {"cubin": (), "lt": (), "graph": ("lt",)}
"""A graph cannot hold cupy.matmul, which refuses to be captured."""

BUDGET_S = 2.0
"""Seconds that all self-checks of a process may take, compilation apart."""


class LayerWarning(UserWarning):
    """A layer of the CuPy backend was switched off; results stay right, speed is lost."""


class Verdict(msgspec.Struct, frozen=True):
    """What is known of a layer.

    Attributes:
        state: ``on``, ``off``, or ``unchecked`` (off until its check has run).
        reason: why it is off; who pinned it.
    """

    state: Literal["on", "off", "unchecked"]
    reason: str = ""

    def __str__(self) -> str:
        return f"{self.state} ({self.reason})" if self.reason else self.state


class Outcome(NamedTuple):
    """What a self-check found.

    Attributes:
        reason: why the layer must not be used; empty where it may.
        seconds: what the check took, compilation apart.
    """

    reason: str
    seconds: float


Check = Callable[[float], Outcome]
"""Takes the seconds that are left."""


class Layers:
    """Which layers are on.

    Args:
        identity: device, driver and versions; verdicts are kept for this combination.
        checks: the self-check of every layer.
        folder: where verdicts are kept; by default in the user's cache.
        pinned: layers that are on, without a check, instead of what ``NNKERNELS_CUPY_LAYERS`` says.

    Raises:
        InputError: the variable names a layer that there is not.
    """

    def __init__(
        self,
        identity: Mapping[str, str],
        checks: Mapping[str, Check],
        *,
        folder: Path | None = None,
        pinned: str | None = None,
    ) -> None:
        self._checks = checks
        self._lock = threading.RLock()
        self._left = BUDGET_S
        self._checking: set[str] = set()
        self._path = (folder or _default_folder()) / f"{_key(identity)}.json"
        text = os.environ.get(VARIABLE) if pinned is None else pinned
        self._pinned = None if text is None else _parse(text)
        self._verdicts = self._recorded() if self._pinned is None else _pins(self._pinned)

    def on(self, name: str) -> bool:
        """Whether a layer may be used; its check runs now if it never did."""
        if name == PLAIN:
            return True
        verdict = self._verdicts[name]
        if verdict.state == "unchecked":
            verdict = self._checked(name)
        return verdict.state == "on" and all(self.on(below) for below in NEEDS[name])

    def switch_off(self, name: str, reason: str) -> None:
        """Do without a layer in this process, with one warning: what failed once may work again."""
        with self._lock:
            if self._verdicts[name].state == "off":
                return
            self._verdicts[name] = Verdict("off", reason)
        warnings.warn(
            f"the CuPy backend goes on without its layer {name!r}: {reason}. Results stay right; "
            f"'nnkernels info' shows the layers, {VARIABLE} pins them",
            LayerWarning,
            stacklevel=3,
        )

    def verdicts(self) -> dict[str, Verdict]:
        """What is known of every layer, the lowest first; checks nothing."""
        return {PLAIN: Verdict("on"), **self._verdicts}

    def _checked(self, name: str) -> Verdict:
        with self._lock:
            if self._verdicts[name].state != "unchecked" or name in self._checking:
                return self._verdicts[name]
            if not all(self.on(below) for below in NEEDS[name]):
                return Verdict("off", f"needs {' and '.join(NEEDS[name])}")
            if self._left <= 0:
                return Verdict("unchecked", f"the self-checks' {BUDGET_S:g} s are spent")
            self._checking.add(name)
            try:
                outcome = _run(self._checks[name], self._left)
            finally:
                self._checking.discard(name)
            self._left -= outcome.seconds
            if outcome.reason:
                self.switch_off(name, outcome.reason)
            else:
                self._verdicts[name] = Verdict("on")
            self._record(name)
            return self._verdicts[name]

    # --- what was found before -----------------------------------------------------------------

    def _recorded(self) -> dict[str, Verdict]:
        unknown = {name: Verdict("unchecked") for name in LAYERS}
        try:
            known = msgspec.json.decode(self._path.read_bytes(), type=dict[str, Verdict])
        except (OSError, msgspec.MsgspecError):  # never written, or damaged: checked again
            return unknown
        return {name: known.get(name, unknown[name]) for name in LAYERS}

    def _record(self, name: str) -> None:
        """Keep the verdict of a self-check."""
        known = {**self._recorded(), name: self._verdicts[name]}
        kept = {n: v for n, v in known.items() if v.state != "unchecked"}
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_atomically(self._path, msgspec.json.encode(kept))
        except (OSError, NnkernelsError):  # a cache that cannot be written: the next process checks
            return


def _run(check: Check, left: float) -> Outcome:
    began = time.perf_counter()
    try:
        return check(left)
    except Exception as error:  # whatever an accelerator raises, the layer below goes on
        return Outcome(f"{type(error).__name__}: {error}", time.perf_counter() - began)


def _default_folder() -> Path:
    import platformdirs

    return Path(platformdirs.user_cache_dir("nnkernels")) / "layers"


def _key(identity: Mapping[str, str]) -> str:
    text = msgspec.json.encode(dict(sorted(identity.items())))
    return hashlib.sha256(text).hexdigest()[:32]


def _parse(text: str) -> frozenset[str]:
    names = frozenset(part.strip() for part in text.split(",") if part.strip())
    if unknown := names - {PLAIN, *LAYERS}:
        raise InputError(
            f"{VARIABLE}={text!r}: there is no layer {sorted(unknown)[0]!r}; "
            f"choose from {', '.join((PLAIN, *LAYERS))}"
        )
    return names


def _pins(names: frozenset[str]) -> dict[str, Verdict]:
    reason = f"pinned by {VARIABLE}"
    return {n: Verdict("on" if n in names else "off", reason) for n in LAYERS}
