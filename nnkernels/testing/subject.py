"""One operator on one backend in one dtype: calling it, and comparing with the oracle."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from nnkernels.backend import Backend
from nnkernels.spec import Array, Op
from nnkernels.testing.layouts import Layout, on_host, packed
from nnkernels.testing.precision import precision_of
from nnkernels.testing.samples import Sample, flushed, oracle, oracle_params, samples, widened


class CaseFailed(Exception):
    """A case broke the contract; with the error and its bound where numbers were compared."""

    def __init__(
        self, message: str, error: float | None = None, bound: float | None = None
    ) -> None:
        super().__init__(message)
        self.error = error
        self.bound = bound


def require(condition: bool, message: str) -> None:
    """Fail the case with ``message`` unless ``condition``."""
    if not condition:
        raise CaseFailed(message)


@dataclass
class Subject:
    """What a check works on.

    ``worst`` is the largest error so far in units of the bound.
    """

    backend: Backend
    op: Op[Any, Any]
    dtype: np.dtype[Any]
    quick: bool = False
    worst: float = 0.0
    _small: list[Sample] = field(default_factory=list)

    @property
    def host(self) -> bool:
        """Whether the backend's arrays are NumPy arrays."""
        return on_host(self.backend)

    def samples(self, plans: str) -> list[Sample]:
        """Samples of the operator; see :func:`nnkernels.testing.samples.samples`."""
        found = samples(self.op, self.dtype, plans=plans)
        return [flushed(s) for s in found] if self.backend.flushes_subnormals else list(found)

    def small(self) -> list[Sample]:
        """Small samples: of every signature alternative and (unless quick) set of parameters."""
        if not self._small:
            every = self.samples("small")
            self._small = [s for s in every if not self.quick or s.params == every[0].params]
        return self._small

    # --- calling ---------------------------------------------------------------------------

    def place(self, sample: Sample, *layouts: Layout, updated: bool = True) -> list[Any]:
        """The sample's inputs on the device, in ``layouts`` by turns (none: packed).

        Without ``updated`` the arguments that are updated stay packed.
        """
        turns = itertools.cycle(layouts or (packed,))
        return [
            (layout if updated or at not in sample.updated else packed)(self.backend, a)
            for at, (a, layout) in enumerate(zip(sample.inputs, turns, strict=False))
        ]

    def call(self, sample: Sample, arrays: Sequence[Any], out: Any = None) -> tuple[Any, ...]:
        """Run the operator: outputs, then updated arguments."""
        given = {} if out is None else {"out": out}
        return as_tuple(self.op.on(self.backend, *arrays, **given, **sample.params))

    def attempt(self, sample: Sample, arrays: Sequence[Any], out: Any = None) -> tuple[Any, ...]:
        """Run, then require unchanged inputs, the right dtypes and shapes, and right values."""
        results = self.call(sample, arrays, out)
        self.require_unchanged(sample, arrays)
        self.require_right(sample, results)
        return results

    def to_bytes(self, array: Any) -> bytes:
        """The values of a device array, bit by bit."""
        return self.backend.to_numpy(array).tobytes()

    # --- requirements ----------------------------------------------------------------------

    def require_unchanged(
        self, sample: Sample, arrays: Sequence[Any], *, all_of: bool = False
    ) -> None:
        """Inputs that are not updated (with ``all_of``: all) hold what they held."""
        for at, (name, before) in enumerate(zip(self.op.inputs, sample.inputs, strict=True)):
            if at not in sample.updated or all_of:
                after = self.backend.to_numpy(arrays[at]).astype(before.dtype)
                require(after.tobytes() == before.tobytes(), f"modified its input {name!r}")

    def require_right(self, sample: Sample, results: Sequence[Any]) -> None:
        """Results (None: not wanted) have their dtype and shape and lie within the bound."""
        refs, bounds = expectation(sample, precision_of(self.backend, self.dtype))
        names = self.op.result_names(sample.signature)
        specs = [
            *sample.result_specs(),
            *((sample.inputs[i].shape, sample.inputs[i].dtype) for i in sample.updated),
        ]
        require(len(results) == len(names), f"gave {len(results)} results, expected {len(names)}")
        for name, got, spec, ref, bound in zip(names, results, specs, refs, bounds, strict=True):
            if got is not None:
                require(
                    (tuple(got.shape), got.dtype) == spec,
                    f"{name} is {got.dtype} {got.shape}, expected {spec[1]} {spec[0]}",
                )
                self._require_close(name, self.backend.to_numpy(got), ref, bound)

    def _require_close(self, name: str, got: Array, ref: Array, bound: Array) -> None:
        if not got.size:
            return
        ratio, at = worst_ratio(got, ref, bound)
        self.worst = max(self.worst, ratio)
        if ratio > 1:
            error = float(np.abs(got.astype(np.float64)[at] - ref[at]))
            where = f"{name}{[int(i) for i in at]}" if at else name
            message = f"{where} is {got[at]!r}, expected {ref[at]!r}"
            raise CaseFailed(
                f"{message}: error {error:.3g} exceeds {bound[at]:.3g}", error, float(bound[at])
            )


def as_tuple(results: Any) -> tuple[Any, ...]:
    """Results as a tuple, whatever their number."""
    return results if isinstance(results, tuple) else (results,)


def expectation(
    sample: Sample, precision: str = "fp32"
) -> tuple[tuple[Array, ...], tuple[Array, ...]]:
    """The oracle's results and the largest allowed errors."""
    refs = tuple(r.astype(np.float64) for r in oracle(sample, precision))
    params = oracle_params(sample.params)
    with np.errstate(all="ignore"):
        bounds = sample.op.error.bound(refs, widened(sample.inputs), params, sample.floating)
    return refs, tuple(np.broadcast_to(b, r.shape) for b, r in zip(bounds, refs, strict=True))


def worst_ratio(got: Array, ref: Array, bound: Array) -> tuple[float, tuple[Any, ...]]:
    """Largest error in units of ``bound`` and where; infinite where NaN or infinity disagree."""
    with np.errstate(all="ignore"):
        error = np.abs(got.astype(np.float64) - ref)
        ratio = np.where(error == 0, 0.0, error / bound)
        # A reference beyond the dtype's range must come out as the infinity it rounds to.
        limit = ref.astype(got.dtype) if got.dtype.kind == "f" else ref
    agree = (got == limit) | (np.isnan(got) & np.isnan(ref))
    finite = np.isfinite(got) & np.isfinite(ref)
    ratio = np.where(agree, 0.0, np.where(finite, ratio, np.inf))
    at = np.unravel_index(int(np.argmax(ratio)), ratio.shape)
    return float(ratio[at]), at
