"""Verifying a backend against the whole catalogue, without pytest."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from nnkernels.backend import Backend
from nnkernels.dispatch import get_backend
from nnkernels.errors import InputError, KernelMissingError
from nnkernels.signature import FLOAT_DTYPES
from nnkernels.spec import OPERATORS, Op, get_op
from nnkernels.testing.checks import CHECKS, Case
from nnkernels.testing.gradients import gradient_cases
from nnkernels.testing.networks import NETWORKS, network_cases
from nnkernels.testing.report import Failure, Report
from nnkernels.testing.samples import parameter_sets
from nnkernels.testing.subject import CaseFailed, Subject

Progress = Callable[[int, int, str], None]


def verify(
    backend: str | Backend,
    *,
    operators: Sequence[str] | None = None,
    quick: bool = False,
    exceptions: Mapping[str, str] | None = None,
    progress: Progress | None = None,
) -> Report:
    """Check every operator of ``backend`` against the float64 reference, and whole training steps.

    Args:
        backend: its name, or a Backend.
        operators: names of the operators to check, and ``NETWORKS`` for training steps of 20 random
            networks; by default all.
        quick: fewer shapes and networks.
        exceptions: known failures, ``"operator"``, ``"operator/check"`` or
            ``"operator/check/dtype"``, each with a reason. One that nothing needed, though its
            operator ran, fails.
        progress: called with the number of finished parts, of all parts, and the next one's name.

    Raises:
        InputError: no operator is selected, or an exception has no reason.
        UnknownNameError: an unknown backend or operator.
    """
    chosen = get_backend(backend)
    parts = select_parts(operators)
    known = check_exceptions(exceptions or {})
    run = _Run(chosen, quick)
    for done, name in enumerate(parts):
        if progress is not None:
            progress(done, len(parts), name)
        if name == NETWORKS:
            run.networks()
        else:
            run.operator(get_op(name))
    if progress is not None:
        progress(len(parts), len(parts), "")
    return run.report(known)


def select_parts(operators: Sequence[str] | None) -> list[str]:
    """What to verify: all operators and the random networks, or the selected of them."""
    if operators is None:
        return [*OPERATORS, NETWORKS]
    if not operators:
        raise InputError("verify: operators selects none; a verification of nothing proves nothing")
    return [name if name == NETWORKS else get_op(name).name for name in operators]


def check_exceptions(exceptions: Mapping[str, str]) -> Mapping[str, str]:
    """Refuse exceptions without a reason, or for an operator that does not exist."""
    for key, reason in exceptions.items():
        operator = key.partition("/")[0]
        if operator != NETWORKS:
            get_op(operator)
        if not reason.strip():
            raise InputError(f"verify: exception {key!r} needs a reason")
    return exceptions


@dataclass
class _Run:
    """A verification in progress."""

    backend: Backend
    quick: bool
    cases: int = 0
    failures: list[Failure] = field(default_factory=list)
    served: list[str] = field(default_factory=list)
    reference: list[str] = field(default_factory=list)
    fallback: dict[str, str] = field(default_factory=dict)
    worst: dict[str, float] = field(default_factory=dict)

    def operator(self, op: Op[Any, Any]) -> None:
        """Prove the derivative of ``op``; run all checks unless another backend serves it."""
        if op.derivative is not None:
            for description, function in gradient_cases(op):
                self._case(op.name, "gradient", "float64", (description, function))
        if not self._serves(op):
            return
        for dtype in FLOAT_DTYPES:
            subject = Subject(self.backend, op, dtype, self.quick)
            for check, generate in CHECKS.items():
                self._check(subject, check, generate)
            self.worst[op.name] = max(self.worst.get(op.name, 0.0), subject.worst)

    def _check(self, subject: Subject, check: str, generate: Any) -> None:
        try:
            for case in generate(subject):
                self._case(subject.op.name, check, subject.dtype.name, case)
        except Exception as error:  # the samples themselves cannot be made
            self._fail(subject.op.name, check, subject.dtype.name, "sampling", error)

    def _serves(self, op: Op[Any, Any]) -> bool:
        params = parameter_sets(op, np.dtype("float32"))[0]
        try:
            found = self.backend.resolve(op.name, params)
        except KernelMissingError as error:
            self._fail(op.name, "coverage", "any", "resolve", error)
            return False
        if found.kernel is not None and inspect.unwrap(found.kernel.function) is op.reference:
            self.reference.append(op.name)
        elif found.why == "fallback":
            self.fallback[op.name] = found.backend
        else:
            self.served.append(op.name)
        return op.name not in self.fallback

    def networks(self) -> None:
        """Run the random networks."""
        self.served.append(NETWORKS)
        for dtype, case in network_cases(self.backend, quick=self.quick):
            self._case(NETWORKS, "network", dtype, case)

    def _case(self, operator: str, check: str, dtype: str, case: Case) -> None:
        description, function = case
        self.cases += 1
        try:
            function()
        except Exception as error:  # whatever a kernel raises is a finding, not the end
            self._fail(operator, check, dtype, description, error)

    def _fail(self, operator: str, check: str, dtype: str, case: str, error: Exception) -> None:
        if isinstance(error, CaseFailed):
            numbers = error.error, error.bound
            self.failures.append(Failure(operator, check, dtype, case, str(error), *numbers))
        else:
            message = f"{type(error).__name__}: {error}"
            self.failures.append(Failure(operator, check, dtype, case, message))

    def report(self, exceptions: Mapping[str, str]) -> Report:
        """What was found, with the declared exceptions taken out of the failures."""
        reasons = [next((k for k in exceptions if f.matches(k)), None) for f in self.failures]
        pairs = list(zip(self.failures, reasons, strict=True))
        bad = {f.operator for f in self.failures}
        checked = {*self.served, *self.reference}
        return Report(
            self.backend.name,
            self.cases,
            tuple(name for name in self.served if name not in bad),
            tuple(self.reference),
            self.fallback,
            tuple(f for f, key in pairs if key is None),
            tuple((f, exceptions[key]) for f, key in pairs if key is not None),
            tuple(k for k in exceptions if k.partition("/")[0] in checked and k not in reasons),
            self.worst,
        )
