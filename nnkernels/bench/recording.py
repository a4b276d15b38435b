"""A run as a record: what every measuring command notes when it begins, and says at the end."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Literal

from nnkernels.bench import machine, results
from nnkernels.bench.harness import SAMPLE_SECONDS
from nnkernels.bench.statistics import CONFIDENCE


class Recorder:
    """Begins with a run.

    Args:
        argv: the command line.
        seed: of everything that is drawn.
        budget: seconds to be spent.
        threads: CPU threads of every candidate; None: a row says its own.
        cache: whether calls find their data in the caches.
    """

    def __init__(
        self,
        argv: Sequence[str],
        seed: int,
        budget: float,
        threads: int | None = None,
        cache: Literal["warm", "cold"] = "warm",
    ) -> None:
        self._began = time.perf_counter()
        self._created = datetime.now(UTC)
        self._start = machine.Start()
        self._argv, self._seed = [machine.scrub(a) for a in argv], seed
        self._budget, self._threads, self._cache = budget, threads, cache

    @property
    def elapsed(self) -> float:
        """Seconds since the beginning."""
        return time.perf_counter() - self._began

    def record(self, kind: Any, found: list[results.Result], **parts: Any) -> results.Run:
        """The run so far; ``parts`` are further fields of the record, ``complete`` always."""
        return results.Run(
            schema="nnkernels.bench/1",
            kind=kind,
            id=results.new_id(),
            created=self._created.strftime("%Y-%m-%dT%H:%M:%SZ"),
            argv=self._argv,
            seed=self._seed,
            duration_s=round(self.elapsed, 3),
            code=machine.code(),
            machine=machine.describe(self._start),
            settings=results.Settings(
                threads=self._threads,
                affinity=machine.affinity(),
                cache=self._cache,
                gc="off",
                sample_target_s=SAMPLE_SECONDS,
                ci=CONFIDENCE,
                budget_s=self._budget,
            ),
            results=found,
            **parts,
        )
