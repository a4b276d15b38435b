"""The written form of a backend: ``base[:device][(settings)][[swaps]]``.

Examples: ``numpy``, ``cupy:1``, ``numpy(threads=1)``,
``numpy(threads=2)[relu=mypkg.kernels:relu]``.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from nnkernels.errors import InputError

_NAME = re.compile(
    r"(?P<base>[A-Za-z_][\w.-]*)(:(?P<device>\w+))?(\((?P<settings>[^()]*)\))?(\[(?P<swaps>[^\[\]]*)\])?"
)


class BackendName(NamedTuple):
    """A backend's name taken apart."""

    base: str
    device: str | None
    settings: dict[str, Any]
    swaps: dict[str, str]


def split_names(text: str) -> list[str]:
    """Split ``"numpy,numpy[relu=a:b,tanh=c:d]"`` at the commas outside of brackets."""
    parts, depth, start = [], 0, 0
    for position, character in enumerate(text):
        depth += (character in "([") - (character in ")]")
        if character == "," and depth == 0:
            parts.append(text[start:position])
            start = position + 1
    names = [part.strip() for part in [*parts, text[start:]]]
    return [name for name in names if name]


def parse_backend(text: str) -> BackendName:
    """Take a backend's name apart.

    Raises:
        InputError: the text is not of the form ``base[:device][(settings)][[op=kernel,...]]``.
    """
    if not isinstance(text, str):
        raise InputError(f"backend name must be a text such as 'numpy', got {text!r}")
    match = _NAME.fullmatch(text.strip())
    if match is None:
        raise InputError(
            f"backend name {text!r} cannot be read; write for example 'numpy', 'cupy:1', "
            "'numpy(threads=1)' or 'numpy[relu=mypkg.kernels:relu]'"
        )
    settings: dict[str, Any] = _pairs(text, match["settings"])
    for key in settings:
        if key not in ("threads", "precision"):
            raise InputError(
                f"backend name {text!r}: settings are threads and precision, not {key!r}"
            )
    if "threads" in settings:
        settings["threads"] = _integer(text, settings["threads"])
    return BackendName(match["base"], match["device"], settings, _pairs(text, match["swaps"]))


def _pairs(text: str, inside: str | None) -> dict[str, str]:
    pairs = {}
    for item in (inside or "").split(","):
        if item.strip():
            key, equals, value = item.partition("=")
            if not equals or not value.strip():
                raise InputError(f"backend name {text!r}: {item!r} is not of the form name=value")
            if key.strip() in pairs:
                raise InputError(f"backend name {text!r}: {key.strip()!r} is given twice")
            pairs[key.strip()] = value.strip()
    return pairs


def _integer(text: str, value: str) -> int:
    if not re.fullmatch("[0-9]{1,9}", value):
        raise InputError(f"backend name {text!r}: threads must be a whole number, got {value!r}")
    return int(value)
