"""The build backend: scikit-build-core's, but for editable installs.

Those of scikit-build-core put a finder before all others, which not even ``PYTHONPATH`` outranks:
with one, ``nnkernels ab`` and the tests of another checkout would run this one's code. So hatchling
makes them, of a path alone, and the library is built where the preset ``release`` builds it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from typing import Any

from hatchling.build import build_editable as build_path
from scikit_build_core.build import (
    build_sdist,
    build_wheel,
    get_requires_for_build_sdist,
    get_requires_for_build_wheel,
)

__all__ = [
    "build_editable",
    "build_sdist",
    "build_wheel",
    "get_requires_for_build_editable",
    "get_requires_for_build_sdist",
    "get_requires_for_build_wheel",
]

REQUIRED = "NNKERNELS_REQUIRE_NATIVE"
# Afresh: an earlier installation's cache may name a CMake that went with its environment.
COMMANDS = (
    ("cmake", "--fresh", "--preset", "release"),
    ("cmake", "--build", "--preset", "release", "--target", "native"),
)


def get_requires_for_build_editable(config_settings: dict[str, Any] | None = None) -> list[str]:
    """CMake and Ninja where the system has none."""
    return get_requires_for_build_wheel(config_settings)


def build_editable(
    wheel_directory: str,
    config_settings: dict[str, Any] | None = None,
    metadata_directory: str | None = None,
) -> str:
    """A wheel that is the path of this checkout, in which the library is built if that can be."""
    try:
        build_library()
    except (OSError, subprocess.CalledProcessError) as error:
        if is_required():
            raise SystemExit(
                f"{REQUIRED} is set, but the C++ library cannot be built: {error}"
            ) from error
        print(f"installed without the C++ library: {error}", file=sys.stderr)
    return build_path(wheel_directory, config_settings, metadata_directory)


def build_library() -> None:
    """Configure and build ``build/release``."""
    environment = dict(os.environ)
    if shutil.which("make") is None:
        environment.setdefault("CMAKE_GENERATOR", "Ninja")
    for command in COMMANDS:
        subprocess.run(command, env=environment, check=True)


def is_required() -> bool:
    """Whether the variable is set, as scikit-build-core reads it for wheels."""
    value = os.environ.get(REQUIRED, "").lower()
    return value not in ("", "0", "n", "no", "off", "false", "f")
