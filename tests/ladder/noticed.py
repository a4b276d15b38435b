"""The record of mutants that were run: which rung noticed each.

``python -m ladder.noticed`` (with ``PYTHONPATH=tests``) runs those that the record lacks: of every
rule in every file one that is a mutant, if it finds one, and the equivalent. It writes after each,
so that it may be stopped. Rows whose mutants are no longer there are dropped, survivors are run
again.
"""

from __future__ import annotations

import csv
import itertools
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from ladder import climb, mutants
from ladder.mutants import Key, Mutant

TABLE = Path(__file__).parent / "noticed.csv"
EQUIVALENT = "equivalent"
"""In the place of a rung: it survived, and ``equivalent.toml`` argues why it may."""

TRIES = 3
"""Mutants of a rule in a file that are run until one is a mutant indeed."""


class Row(NamedTuple):
    """A mutant and what became of it.

    Attributes:
        file, rule, line, occurrence: the mutant's key.
        change: what is replaced, and by what.
        rung: the one that noticed it, or a word that says why none did.
    """

    file: str
    rule: str
    line: str
    occurrence: int
    change: str
    rung: str

    @property
    def key(self) -> Key:
        """The mutant's."""
        return self[:4]

    @property
    def mutant(self) -> Mutant | None:
        """The mutant, where the sources still have it."""
        return mutants.by_key().get(self.key)

    @property
    def noticed(self) -> bool:
        """Whether a rung noticed it."""
        return self.rung in climb.RUNGS


def read() -> list[Row]:
    """The record."""
    if not TABLE.exists():
        return []
    with TABLE.open(encoding="utf-8", newline="") as file:
        return [Row(**{**r, "occurrence": int(r["occurrence"])}) for r in csv.DictReader(file)]


def write(rows: Sequence[Row]) -> None:
    """Keep the record, sorted."""
    with TABLE.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerows([Row._fields, *sorted(rows)])


def sample(count: int) -> list[Mutant]:
    """Some of the mutants that were noticed, spread evenly over rules and files."""
    rows = sorted((row for row in read() if row.noticed), key=lambda row: (row.rule, *row))
    found = [row.mutant for row in rows if row.mutant]
    return [found[at * len(found) // count] for at in range(min(count, len(found)))]


# --- the run ------------------------------------------------------------------------------------


def stands(row: Row) -> bool:
    """Whether a row need not be made again."""
    listed = row.key in mutants.equivalent()
    same = row.mutant is not None and row.mutant.change == row.change
    return same and row.rung != climb.SURVIVED and listed == (row.rung == EQUIVALENT)


def missing(rows: Sequence[Row]) -> Mutant | None:
    """The next mutant to be run: of every rule in every file one, and the equivalent."""
    verdicts = {row.key: row.rung for row in rows}
    of_groups = (_candidate(group, verdicts) for group in mutants.groups())
    known = (mutants.by_key()[key] for key in mutants.equivalent() if key not in verdicts)
    return next(filter(None, itertools.chain(of_groups, known)), None)


def _candidate(group: Sequence[Mutant], verdicts: Mapping[Key, str]) -> Mutant | None:
    """The next of a group, until one is a mutant or ``TRIES`` are none."""
    tried = [verdicts[m.key] for m in group if m.key in verdicts]
    if len(tried) >= TRIES or set(tried) - climb.NO_MUTANTS:
        return None
    return next((m for m in group if m.key not in verdicts), None)


def judged(mutant: Mutant, folder: Path) -> tuple[Row, str]:
    """A mutant's row, and what the rung said."""
    rung, what = climb.climb(mutant, folder)
    if rung == climb.SURVIVED and mutant.key in mutants.equivalent():
        rung = EQUIVALENT
    return Row(*mutant.key, mutant.change, rung), what


def run() -> Iterator[str]:
    """Complete the record; a line for every mutant that is run."""
    rows = [row for row in read() if stands(row)]
    with tempfile.TemporaryDirectory() as folder:
        while mutant := missing(rows):
            row, what = judged(mutant, Path(folder))
            rows.append(row)
            write(rows)
            yield f"{row.rung}: {mutant}: {' '.join(what.split())[:200]}"


if __name__ == "__main__":
    for line in run():
        print(line, flush=True)
