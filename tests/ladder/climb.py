"""Runs a mutant up the ladder, until a rung notices it."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from ladder import budgets, cases, interpreted, shim, traffic
from ladder.cases import Case
from ladder.compiling import (
    Compiled,
    CompileError,
    compile_text,
    compile_to_ptx,
    disassemble,
    module_to_ptx,
)
from ladder.interpreted import Interpreter
from ladder.mutants import Mutant, changed_modules

from nnkernels.backends.cupy import sources
from nnkernels.testing.ptx import Module

ARCHITECTURE = 90
SEEDS = (0, 1, 2)
PATIENCE = 120.0
"""Seconds after which the host's kernels do not end."""

SAME, STILLBORN, SURVIVED = "same code", "stillborn", "survived"
"""Verdicts of mutants that are none, do not compile, or are noticed by no rung."""

NO_MUTANTS = frozenset((SAME, STILLBORN))
"""Verdicts on changes that are no mutants."""


class Verdict(NamedTuple):
    """The rung that noticed a mutant, or one of the words above; and what it said."""

    rung: str
    what: str


class Found(NamedTuple):
    """A compiled mutant: a module and storage type for which the code differs.

    Attributes:
        touched: kernels whose code differs.
    """

    module: str
    storage: str
    text: str
    ptx: str
    touched: frozenset[str]


def climb(mutant: Mutant, folder: Path) -> Verdict:
    """The verdict on a mutant; ``folder`` keeps compiled libraries."""
    verdict = Verdict(SAME, "the compiler makes the same code of it")
    try:
        for found in differences(changed_modules(mutant)):
            verdict = _judge(found, folder)
            if verdict.rung != SURVIVED:
                break
    except CompileError as error:
        return Verdict(STILLBORN, str(error))
    return verdict


def _judge(found: Found, folder: Path) -> Verdict:
    for rung, check in RUNGS.items():
        what = next(check(found, folder), "")
        if what:
            return Verdict(rung, what)
    return Verdict(SURVIVED, f"in {found.module} ({found.storage}): {sorted(found.touched)}")


def differences(texts: Mapping[str, str]) -> Iterator[Found]:
    """Modules whose code differs, small ones first, of the first storage type that has any."""
    for storage in sources.STORAGES:
        found = _differences(texts, storage)
        first = next(found, None)
        if first is not None:
            yield first
            yield from found
            return


def _differences(texts: Mapping[str, str], storage: str) -> Iterator[Found]:
    for module, text in sorted(texts.items(), key=lambda found: len(found[1])):
        compiled = compile_to_ptx(text, module, storage, interpreted.ARCHITECTURE)
        original = module_to_ptx(module, storage, interpreted.ARCHITECTURE).entries
        entries = compiled.entries
        touched = {name for name, entry in original.items() if entries.get(name) != entry}
        if touched or set(entries) != set(original):
            yield Found(module, storage, text, compiled.ptx, frozenset(touched))


# --- rungs --------------------------------------------------------------------------------------


def _machine_code(found: Found) -> Compiled:
    return compile_text(found.text, found.module, found.storage, ARCHITECTURE)


def _compile_rung(found: Found, folder: Path) -> Iterator[str]:
    compiled = _machine_code(found)
    entries, signatures = compiled.entries, sources.signatures(found.module)
    yield from budgets.resource_faults(compiled)
    yield from budgets.fence_faults(entries)
    yield from budgets.parameter_faults(entries, signatures, found.storage)
    if found.storage != "float64":
        yield from budgets.double_faults(entries, signatures)


def _sass_rung(found: Found, folder: Path) -> Iterator[str]:
    sass = disassemble(_machine_code(found).cubin)
    yield from budgets.sass_faults(sass, sources.signatures(found.module))


def _ptx_rung(found: Found, folder: Path) -> Iterator[str]:
    mutated = Module(found.ptx)

    def find(name: str, storage: str) -> Module:
        same = (name, storage) == (found.module, found.storage)
        return mutated if same else interpreted.module(name, storage)

    chosen = cases_of(found)
    for case in chosen:
        trial = case.build(found.storage)
        fault = Interpreter(find).run(trial)
        for what in [fault] if fault else trial.faults():
            yield f"{case}: {what}"
    yield from traffic.faults(found.module, found.storage, chosen, find)


def _shim_rung(found: Found, folder: Path) -> Iterator[str]:
    chosen = cases_of(found, far=True)
    texts = {m: sources.amalgamated(m) for m in cases.modules_of(chosen, found.storage)}
    texts[found.module] = found.text
    try:
        libraries = {m: shim.build(t, m, found.storage, folder) for m, t in texts.items()}
        failures = shim.run_cases(
            libraries, found.storage, chosen, SEEDS, stop=True, timeout=PATIENCE
        )
    except subprocess.TimeoutExpired:
        yield "it does not end"
    except subprocess.CalledProcessError as error:
        yield f"g++ refuses it: {error.stderr[:200]}"
    else:
        yield from (f"{failure.case}: {failure.what}" for failure in failures)


def cases_of(found: Found, *, far: bool = False) -> list[Case]:
    """The cases that launch a kernel whose code differs."""
    by_kernel = cases.cases_by_kernel(found.storage, far=far)
    lists = (by_kernel[found.module, kernel] for kernel in sorted(found.touched))
    return list(dict.fromkeys(case for chosen in lists for case in chosen))


RUNGS: Mapping[str, Callable[[Found, Path], Iterator[str]]] = {
    "compile": _compile_rung,
    "sass": _sass_rung,
    "ptx": _ptx_rung,
    "shim": _shim_rung,
}
"""In the order in which a mutant meets them."""
