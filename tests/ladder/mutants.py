"""Defects in the CUDA sources, by rule, to see that some rung of the ladder notices each.

A mutant is one change at one place. Those that the compiler turns into the same PTX are no
mutants; others that nothing can tell from the original are listed, with the argument why, in
``equivalent.toml``.
"""

from __future__ import annotations

import functools
import itertools
import re
import shutil
import tempfile
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple
from unittest import mock

from nnkernels.backends.cupy import sources

EQUIVALENT = Path(__file__).parent / "equivalent.toml"


Key = tuple[str, str, str, int]
"""A mutant's file, rule, line and occurrence."""


class Mutant(NamedTuple):
    """One change.

    Attributes:
        file: below ``csrc``.
        rule: which kind.
        line: the text of the line that is changed, without its ends.
        occurrence: counts the mutants of this rule in lines of this text, from 1.
        start, stop: the place in the file.
        text: what comes there.
    """

    file: str
    rule: str
    line: str
    occurrence: int
    start: int
    stop: int
    text: str

    def __str__(self) -> str:
        return f"{self.file}: {self.rule}: {self.line} #{self.occurrence}"

    @property
    def key(self) -> Key:
        """What names it, also after changes elsewhere in the file."""
        return self.file, self.rule, self.line, self.occurrence

    @property
    def change(self) -> str:
        """What is replaced, and by what."""
        return f"{source(self.file)[self.start : self.stop]} -> {self.text or 'nothing'}"

    def changed(self) -> str:
        """The file's text with the change."""
        original = source(self.file)
        return original[: self.start] + self.text + original[self.stop :]


# --- rules --------------------------------------------------------------------------------------

Edit = tuple[int, int, str]


_OPERATORS = {
    "compare": {
        r"(?<=\s)<(?=\s)": ("<=", ">"),
        r"(?<=\s)>(?=\s)": (">=", "<"),
        r"(?<=\s)<=(?=\s)": ("<",),
        r"(?<=\s)>=(?=\s)": (">",),
        r"==": ("!=",),
        r"!=": ("==",),
    },
    "operator": {
        r"(?<=\s)\+(?=\s)": ("-",),
        r"(?<=\s)-(?=\s)": ("+",),
        r"(?<=\s)\*(?=\s)": ("+",),
        r"(?<=\s)/(?=\s)": ("*",),
        r"(?<=\s)%(?=\s)": ("/",),
        r"(?<=\s)\+=(?=\s)": ("-=", "="),
        r"(?<=\s)&&(?=\s)": ("||",),
        r"(?<=\s)\|\|(?=\s)": ("&&",),
        r"(?<=\s)>>(?=\s)": ("<<",),
    },
    "barrier": {r"__syncthreads\(\);": ("",), r"__threadfence\(\);": ("",)},
    "shuffle": {
        r"\bALL_LANES(?=,)": ("0xffffu",),
        r"\bLANES / 2(?=;)": ("LANES / 4",),
        r"__shfl_xor_sync": ("__shfl_down_sync",),
        r"distance (?:/|\*)= 2": ("distance = 0",),
    },
    "extreme": {r"\bLarger\(\)": ("Smaller()",), r"<Larger>": ("<Smaller>",)},
    "reduction": {r"<Add>": ("<Larger>",), r"\bblock_sum\(": ("warp_sum(",)},
    "constant": {r"\bA\((\d+(?:\.\d+)?)\)": (r"A(\1 + 1)",), r"(?<= )(\d+)u?(?=;)": (r"\1 + 1",)},
    "double": {r"\bA\((\d+)\)": (r"\1.0",), r"\bA\((\d+\.\d+)\)": (r"\1",)},
    "narrow index": {r"\b(?:nnk::)?Offset\(": ("unsigned(",), r"\(Offset (?=\w)": ("(unsigned ",)},
    "width": {r"\bNNK_VEC\b(?=[,)])": ("1",), r", uint4\)": (", T)",)},
    "skip": {r"\bskip && \*skip\b": ("false",)},
    "sides": {
        r"(?<!unsigned )\brows\b(?=[,;) ])": ("columns",),
        r"(?<!unsigned )\bcolumns\b(?=[,;) ])": ("rows",),
        r"\bthreadIdx\.x\b": ("blockIdx.x",),
        r"\bblockIdx\.x\b": ("threadIdx.x",),
        r"\bgridDim\.x\b": ("blockDim.x",),
    },
}
"""By rule: patterns, and what comes in the place of a match."""

RULES = frozenset((*_OPERATORS, "condition"))
"""Names of all rules."""

_CONDITION = re.compile(r"\bif \(")
_HIDDEN = re.compile(r"//[^\n]*|^#(?!define)[^\n]*", re.MULTILINE)


def _edits(text: str) -> Iterator[tuple[str, Edit]]:
    """All changes to a text, with their rules, but for comments and directives."""
    hidden = [m.span() for m in _HIDDEN.finditer(text)]
    for rule, edit in itertools.chain(_by_patterns(text), _by_conditions(text)):
        if not any(start <= edit[0] < stop for start, stop in hidden):
            yield rule, edit


def _by_patterns(text: str) -> Iterator[tuple[str, Edit]]:
    for rule, patterns in _OPERATORS.items():
        for pattern, replacements in patterns.items():
            for match, replacement in itertools.product(re.finditer(pattern, text), replacements):
                yield rule, (*match.span(), match.expand(replacement))


def _by_conditions(text: str) -> Iterator[tuple[str, Edit]]:
    for match in _CONDITION.finditer(text):
        inside = match.end()
        depth, stop = 1, inside
        while depth:
            depth += {"(": 1, ")": -1}.get(text[stop], 0)
            stop += 1
        if "skip &&" not in text[inside:stop]:  # has a rule of its own
            yield "condition", (inside, stop - 1, "true")


# --- mutants ------------------------------------------------------------------------------------


@functools.cache
def source(file: str) -> str:
    """The text of a file below ``csrc``."""
    return (sources.CSRC / file).read_text(encoding="utf-8")


def files() -> list[str]:
    """All sources that a GPU runs."""
    folders = (sources.CSRC / "arithmetic", sources.CSRC / "device")
    found = (p for folder in folders for p in folder.iterdir())
    return sorted(str(p.relative_to(sources.CSRC)) for p in found)


@functools.cache
def mutants_of(file: str) -> tuple[Mutant, ...]:
    """All mutants of a file, in the order of their places."""
    text, counts, found = source(file), {}, []
    for rule, (start, stop, new) in sorted(_edits(text), key=lambda found: found[1]):
        first, last = text.rfind("\n", 0, start) + 1, text.find("\n", start)
        line = text[first:last].strip().removesuffix("\\").strip()
        counts[rule, line] = counts.get((rule, line), 0) + 1
        found.append(Mutant(file, rule, line, counts[rule, line], start, stop, new))
    return tuple(found)


def all_mutants() -> list[Mutant]:
    """Every mutant of every file."""
    return [mutant for file in files() for mutant in mutants_of(file)]


@functools.cache
def by_key() -> Mapping[Key, Mutant]:
    """Every mutant by its key."""
    return {mutant.key: mutant for mutant in all_mutants()}


# --- equivalent ones ----------------------------------------------------------------------------


def equivalent() -> Mapping[Key, str]:
    """Why a mutant cannot be told from the original, by its key."""
    entries = tomllib.loads(EQUIVALENT.read_text(encoding="utf-8")).get("equivalent", ())
    return {(e["file"], e["rule"], e["line"], e.get("occurrence", 1)): e["why"] for e in entries}


def groups() -> list[list[Mutant]]:
    """The mutants of every rule and file but the equivalent, of each the middle one first."""
    known = equivalent()
    found: dict[tuple[str, str], list[Mutant]] = {}
    for mutant in all_mutants():
        if mutant.key not in known:
            found.setdefault((mutant.rule, mutant.file), []).append(mutant)
    return [g[len(g) // 2 :] + g[: len(g) // 2] for _, g in sorted(found.items())]


# --- texts --------------------------------------------------------------------------------------


def changed_modules(mutant: Mutant) -> Mapping[str, str]:
    """The texts of the modules that a mutant changes."""
    with tempfile.TemporaryDirectory() as folder:
        csrc = Path(folder) / "csrc"
        shutil.copytree(sources.CSRC, csrc)
        (csrc / mutant.file).write_text(mutant.changed(), encoding="utf-8")
        with mock.patch.object(sources, "DEVICE", csrc / sources.DEVICE.name):
            texts = {m: sources.amalgamated.__wrapped__(m) for m in sources.module_names()}
    return {m: text for m, text in texts.items() if text != sources.amalgamated(m)}
