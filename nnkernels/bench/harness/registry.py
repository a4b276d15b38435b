"""The one list of workloads."""

from __future__ import annotations

import functools
from os import PathLike
from pathlib import Path

import nnkernels.errors

from . import userfile
from .inference import cases as inference_cases
from .operators import cases as operator_cases
from .training import cases as training_cases
from .workload import Case, Preset, Sweep

_added: dict[Path, userfile.UserFile] = {}


def cases(preset: Preset = "default") -> list[Case]:
    """Every workload at the sizes of ``preset``: training steps, inference, operators, users' own.

    Raises:
        InputError: the cost of a user's workload cannot be computed.
    """
    users = [case for file in _added.values() for case in file.cases(preset)]
    return [*_own(preset), *users]


def user_sweeps() -> list[Sweep]:
    """Users' workloads that have a size to grow."""
    return [sweep for file in _added.values() for sweep in file.sweeps()]


def _own(preset: Preset) -> list[Case]:
    return [*training_cases(preset), *inference_cases(preset), *operator_cases(preset)]


@functools.cache
def _own_names() -> frozenset[str]:
    return frozenset(case.workload for case in _own("quick"))


def add(path: str | PathLike[str]) -> None:
    """Add the workloads and backends that a file declares, for as long as this process runs.

    Workers that are started later have them too. A file that was added before is not read again.

    Raises:
        InputError: the file cannot be loaded, or a name in it is taken.
    """
    where = Path(path).resolve()
    if where in _added:
        return
    file = userfile.execute(where)
    owners = dict.fromkeys(_own_names(), "nnkernels")
    owners |= {name: str(other.path) for other in _added.values() for name in other.names}
    for entry, _ in file.workloads:
        if entry.name in owners:
            raise nnkernels.errors.InputError(
                f"{where}:{entry.line}: a workload of {owners[entry.name]} is called "
                f"{entry.name!r} already; choose another name"
            )
        owners[entry.name] = str(where)
    file.register()
    _added[where] = file


def added() -> list[str]:
    """Paths of the files that were added."""
    return [str(path) for path in _added]
