"""What a verification found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from nnkernels.errors import VerificationError


@dataclass(frozen=True, slots=True)
class Failure:
    """One case that went wrong.

    Attributes:
        operator: name of the operator, or of the random network.
        check: which check: ``values``, ``layout``, ``out``, ``determinism``, ...
        dtype: floating dtype of the case.
        case: shapes, parameters and layout.
        message: what happened.
        error: largest absolute error, where numbers were compared.
        bound: the allowed error at that element.
    """

    operator: str
    check: str
    dtype: str
    case: str
    message: str
    error: float | None = None
    bound: float | None = None

    def __str__(self) -> str:
        return f"{self.operator} [{self.check}, {self.dtype}, {self.case}]: {self.message}"

    def matches(self, key: str) -> bool:
        """Whether an exception's ``key`` (``operator[/check[/dtype]]``) covers this failure."""
        parts = key.split("/")
        return parts == [self.operator, self.check, self.dtype][: len(parts)]


@dataclass(frozen=True, slots=True)
class Report:
    """Outcome of :func:`nnkernels.testing.verify`.

    Attributes:
        backend: the backend's name.
        cases: number of cases that ran.
        passed: operators, and random networks, without any failure that the backend serves itself.
        reference: operators whose kernel is the NumPy reference: run, but proof of nothing.
        fallback: operators that another backend serves, by its name: not run.
        failures: cases that went wrong.
        excepted: failures that a declared exception covers, with its reason.
        unneeded: declared exceptions that covered nothing; each counts as a failure.
        worst: largest error in units of the bound, by operator.
    """

    backend: str
    cases: int
    passed: tuple[str, ...]
    reference: tuple[str, ...]
    fallback: Mapping[str, str]
    failures: tuple[Failure, ...]
    excepted: tuple[tuple[Failure, str], ...] = ()
    unneeded: tuple[str, ...] = ()
    worst: Mapping[str, float] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether something ran and nothing failed."""
        return self.cases > 0 and not self.failures and not self.unneeded

    def __str__(self) -> str:
        lines = [
            f"{self.backend}: {self._cases()}; operators: {len(self.passed)} passed, "
            f"{len({f.operator for f in self.failures})} failed, "
            f"{len(self.reference)} served by the reference, {len(self.fallback)} by a fallback"
        ]
        lines += self._failure_lines()
        lines += [f"exception {key!r} is not needed: remove it" for key in self.unneeded]
        return "\n".join(lines)

    def _cases(self) -> str:
        if self.failures:
            return f"{len(self.failures):,} failures in {self.cases:,} cases"
        excepted = f", {len(self.excepted):,} excepted" if self.excepted else ""
        return f"{self.cases - len(self.excepted):,} cases passed{excepted}"

    def _failure_lines(self) -> list[str]:
        """The first failure of every operator and check, and how many more there are."""
        groups: dict[tuple[str, str], list[Failure]] = {}
        for failure in self.failures:
            groups.setdefault((failure.operator, failure.check), []).append(failure)
        return [
            str(first) + (f" (and {len(others)} more like it)" if others else "")
            for first, *others in groups.values()
        ]

    def check(self) -> None:
        """Raise :class:`VerificationError` with all failures unless :attr:`ok`."""
        if not self.ok:
            raise VerificationError(str(self))
