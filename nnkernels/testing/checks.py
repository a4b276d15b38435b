"""The checks of the conformance suite; each yields cases, a description and a function to run.

All of them are generated from the operator's declaration, so a new operator is covered as soon as
it is declared.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from nnkernels.dispatch import bind
from nnkernels.errors import OutputError
from nnkernels.spec import Array
from nnkernels.testing import layouts
from nnkernels.testing.layouts import packed
from nnkernels.testing.samples import Sample, rounded, single_plan
from nnkernels.testing.subject import CaseFailed, Subject, as_tuple, require

Case = tuple[str, Callable[[], object]]
Check = Callable[[Subject], Iterator[Case]]


def check_values(subject: Subject) -> Iterator[Case]:
    """Right within the bound: all parameters, ragged shapes, one element; inputs unchanged."""
    for plans in ("two" if subject.quick else "all", "single"):
        for sample in subject.samples(plans):
            yield str(sample), partial(_attempt, subject, sample)


def _attempt(subject: Subject, sample: Sample) -> None:
    subject.attempt(sample, subject.place(sample))


def check_empty(subject: Subject) -> Iterator[Case]:
    """No elements where the signature allows it: results of the right shape."""
    for sample in subject.samples("empty"):
        yield str(sample), partial(_attempt, subject, sample)


def check_special(subject: Subject) -> Iterator[Case]:
    """Declared special values: alone, and at both ends and inside of ordinary ones."""
    if not subject.op.special:
        return
    sample = subject.small()[0]
    dims = single_plan(sample.signature, sample.params, 1)
    elementwise = sample.signature.inputs[0].dims == ("...",)
    for x, y in subject.op.special:
        for size in (1, 67):
            shape = (size, *(1 for d in dims if d != "..." and d not in sample.params))
            yield f"x={x} in {shape}", partial(_special, subject, sample, np.full(shape, x), y)
        if elementwise:
            yield f"x={x} among others", partial(_special_among, subject, sample, x, y)


def _special(subject: Subject, sample: Sample, x: Array, y: float) -> None:
    array = packed(subject.backend, rounded(x, subject.dtype))
    got = subject.backend.to_numpy(subject.call(sample, [array])[0])
    require(
        np.array_equal(got, np.full_like(got, y), equal_nan=True), f"{got.flat[0]}, expected {y}"
    )


def _special_among(subject: Subject, sample: Sample, x: float, y: float) -> None:
    values = np.resize(sample.inputs[0], 67)
    places = [0, 31, 66]
    values[places] = x
    got = subject.backend.to_numpy(subject.call(sample, [packed(subject.backend, values)])[0])
    want = np.full(len(places), y, got.dtype)
    require(np.array_equal(got[places], want, equal_nan=True), f"{got[places]}, expected {y}")
    require(not np.isnan(np.delete(got, places)).any(), "NaN spread to other elements")


def check_layouts(subject: Subject) -> Iterator[Case]:
    """Right for inputs of any order, stride, alignment and byte order, also of different ones."""
    chosen = {**layouts.VIEWS, **(layouts.HOST_ONLY if subject.host else {})}
    for name, layout in chosen.items():
        for sample in subject.small():
            same = layouts.repeated(sample) if name == "zero-stride" else sample
            updated = name not in layouts.NOT_WRITABLE
            yield f"{name} {same}", partial(_layout, subject, same, [layout], updated)
            if len(same.inputs) > 1:
                mixed = partial(_layout, subject, same, [packed, layout], updated)
                yield f"packed and {name} {same}", mixed


def _layout(subject: Subject, sample: Sample, chosen: list[layouts.Layout], updated: bool) -> None:
    subject.attempt(sample, subject.place(sample, *chosen, updated=updated))


# --- outputs -----------------------------------------------------------------------------------


def _garbage(subject: Subject, sample: Sample, layout: layouts.Layout = packed) -> list[Any]:
    """Arrays for the outputs, filled with what a kernel must overwrite."""
    return [
        layout(subject.backend, np.full(shape, layouts.FILLER[dtype.kind], dtype))
        for shape, dtype in sample.result_specs()
    ]


def _given(outs: list[Any]) -> Any:
    return outs[0] if len(outs) == 1 else tuple(outs)


def check_out(subject: Subject) -> Iterator[Case]:
    """``out=`` is filled and returned: packed, column-major and strided, its gaps untouched."""
    for sample in subject.small() if subject.small()[0].signature.outputs else ():
        for name, layout in (("packed", packed), ("fortran", layouts.fortran)):
            yield f"{name} out, {sample}", partial(_into, subject, sample, layout)
        yield f"strided out, {sample}", partial(_into_strided, subject, sample)


def _into(subject: Subject, sample: Sample, layout: layouts.Layout) -> None:
    outs = _garbage(subject, sample, layout)
    results = subject.attempt(sample, subject.place(sample), _given(outs))
    same = all(r is o for r, o in zip(results[: len(outs)], outs, strict=True))
    require(same, "returned another array than out")


def _into_strided(subject: Subject, sample: Sample) -> None:
    fill = [np.full(s, layouts.FILLER[d.kind], d) for s, d in sample.result_specs()]
    bases = [packed(subject.backend, layouts.spread(a)) for a in fill]
    outs = [b[layouts.spread_index(a.ndim)] for a, b in zip(fill, bases, strict=True)]
    subject.attempt(sample, subject.place(sample), _given(outs))
    for base in bases:
        values = np.array(subject.backend.to_numpy(base))
        filler = layouts.FILLER[values.dtype.kind]
        values[layouts.spread_index(values.ndim)] = filler
        untouched = np.array_equal(
            values, np.full_like(values, filler), equal_nan=values.dtype.kind == "f"
        )
        require(untouched, "wrote between the elements of a strided out")


def check_aliased(subject: Subject) -> Iterator[Case]:
    """Row-wise operators may write over exactly one input of the same shape and dtype."""
    for sample in subject.small():
        for position, argument in enumerate(sample.signature.outputs):
            for at, source in enumerate(sample.signature.inputs):
                same = (argument.dims, argument.kind) == (source.dims, source.kind)
                if sample.signature.rowwise and same and at not in sample.updated:
                    name = subject.op.inputs[at]
                    yield f"out is {name}", partial(_over, subject, sample, position, at)


def _over(subject: Subject, sample: Sample, position: int, at: int) -> None:
    arrays, outs = subject.place(sample), _garbage(subject, sample)
    outs[position] = arrays[at]
    results = subject.call(sample, arrays, _given(outs))
    subject.require_right(sample, results)
    arrays[at] = packed(subject.backend, sample.inputs[at])
    subject.require_unchanged(sample, arrays)


def check_optional(subject: Subject) -> Iterator[Case]:
    """With several outputs each may be None: the others are still right."""
    for sample in subject.small():
        count = len(sample.signature.outputs)
        for missing in range(count) if count > 1 else ():
            yield f"out[{missing}] is None, {sample}", partial(_without, subject, sample, missing)


def _without(subject: Subject, sample: Sample, missing: int) -> None:
    outs = _garbage(subject, sample)
    outs[missing] = None
    subject.attempt(sample, subject.place(sample), tuple(outs))


# --- refusals ----------------------------------------------------------------------------------


def check_refused(subject: Subject) -> Iterator[Case]:
    """An ``out`` or updated argument that cannot be used is refused before anything is written."""
    sample = subject.small()[0]
    faults = {**_bad_outs(subject, sample), **_bad_updates(subject, sample)}
    for name, make in faults.items():
        yield name, partial(_refused, subject, sample, make)


Fault = Callable[[], tuple[list[Any], Any]]


def _refused(subject: Subject, sample: Sample, make: Fault) -> None:
    arrays, out = make()
    outs = [o for o in as_tuple(out) if o is not None]
    before = [subject.to_bytes(o) for o in outs]
    try:
        subject.call(sample, arrays, out)
    except OutputError:
        pass
    else:
        raise CaseFailed("accepted, expected OutputError")
    require(before == [subject.to_bytes(o) for o in outs], "wrote to the array it refused")
    subject.require_unchanged(sample, arrays, all_of=True)


def _bad_outs(subject: Subject, sample: Sample) -> dict[str, Fault]:
    if not sample.signature.outputs:
        return {}
    faults: dict[str, Fault] = {
        "out of wrong shape": partial(_out_replaced, subject, sample, _wrong_shape),
        "out of wrong dtype": partial(_out_replaced, subject, sample, _wrong_dtype),
        "too many outs": lambda: (
            subject.place(sample),
            tuple(_garbage(subject, sample)) + tuple(_garbage(subject, sample)[:1]),
        ),
    }
    if subject.host:
        faults["read-only out"] = partial(_out_replaced, subject, sample, _read_only)
        for at, array in enumerate(sample.inputs):
            if _can_overlap(sample, array):
                name = f"out overlapping {subject.op.inputs[at]}"
                faults[name] = partial(_overlapping, subject, sample, at)
    return faults


def _out_replaced(
    subject: Subject, sample: Sample, change: Callable[[Array], Array]
) -> tuple[list[Any], Any]:
    first, *others = _garbage(subject, sample)
    bad = subject.backend.asarray(change(np.array(subject.backend.to_numpy(first))))
    return subject.place(sample), _given([bad, *others])


def _wrong_shape(array: Array) -> Array:
    return np.zeros((*array.shape, 2), array.dtype)


def _wrong_dtype(array: Array) -> Array:
    return array.astype(np.float32 if array.dtype != np.float32 else np.float64)


def _read_only(array: Array) -> Array:
    array.flags.writeable = False
    return array


def _can_overlap(sample: Sample, array: Array) -> bool:
    shape, dtype = sample.result_specs()[0]
    return array.dtype == dtype and array.size > 1 and int(np.prod(shape)) > 1


def _overlapping(subject: Subject, sample: Sample, at: int) -> tuple[list[Any], Any]:
    (shape, dtype), *_ = sample.result_specs()
    arrays, outs = subject.place(sample), _garbage(subject, sample)
    source, count = sample.inputs[at], int(np.prod(shape))
    base = np.zeros(max(source.size, count + 1), dtype)
    arrays[at] = base[: source.size].reshape(source.shape)
    outs[0] = base[1 : 1 + count].reshape(shape)
    arrays[at][...] = source
    return arrays, _given(outs)


def _bad_updates(subject: Subject, sample: Sample) -> dict[str, Fault]:
    """Read-only targets, and targets that share memory with another argument."""
    faults: dict[str, Fault] = {}
    for at in sample.updated if subject.host else ():
        name = subject.op.inputs[at]
        faults[f"read-only {name}"] = partial(_read_only_target, subject, sample, at)
    return faults


def _read_only_target(subject: Subject, sample: Sample, at: int) -> tuple[list[Any], Any]:
    arrays = subject.place(sample)
    arrays[at] = _read_only(np.array(sample.inputs[at]))
    return arrays, None


def check_shared_update(subject: Subject) -> Iterator[Case]:
    """An updated argument that is another argument too is refused, and nothing is modified."""
    sample = subject.small()[0]
    for at in sample.updated if subject.host else ():
        for other, array in enumerate(sample.inputs):
            same = (array.shape, array.dtype) == (sample.inputs[at].shape, sample.inputs[at].dtype)
            if other != at and same:
                names = f"{subject.op.inputs[other]} is {subject.op.inputs[at]}"
                yield names, partial(_shared, subject, sample, at, other)


def _shared(subject: Subject, sample: Sample, at: int, other: int) -> None:
    inputs = list(sample.inputs)
    inputs[other] = inputs[at]
    same = replace(sample, inputs=tuple(inputs))
    arrays = subject.place(same)
    arrays[other] = arrays[at]
    _refused(subject, same, lambda: (arrays, None))


# --- repetition --------------------------------------------------------------------------------


def check_determinism(subject: Subject) -> Iterator[Case]:
    """The same call twice gives the same bits."""
    for sample in subject.small():
        yield str(sample), partial(_twice, subject, sample)


def _twice(subject: Subject, sample: Sample) -> None:
    first = _bits(subject, subject.call(sample, subject.place(sample)))
    for _ in range(2):
        again = _bits(subject, subject.call(sample, subject.place(sample)))
        require(first == again, "the same call gave other bits")


def _bits(subject: Subject, results: tuple[Any, ...]) -> list[bytes]:
    return [subject.to_bytes(r) for r in results]


def check_bind(subject: Subject) -> Iterator[Case]:
    """A bound call gives the bits of the checked one.

    It leaves floating-point warnings to the caller's ``numpy.errstate``, here to nobody.
    """
    for sample in subject.small():
        yield str(sample), partial(_bound, subject, sample)


def _bound(subject: Subject, sample: Sample) -> None:
    checked = _bits(subject, subject.call(sample, subject.place(sample)))
    call = bind(subject.op, *subject.place(sample), backend=subject.backend, **sample.params)
    for _ in range(1 if sample.updated else 2):
        with np.errstate(all="ignore"):
            results = as_tuple(call())
        require(_bits(subject, results) == checked, "the bound call gave other bits")


CHECKS: Mapping[str, Check] = {
    "values": check_values,
    "empty": check_empty,
    "special": check_special,
    "layout": check_layouts,
    "out": check_out,
    "aliased": check_aliased,
    "optional": check_optional,
    "refused": check_refused,
    "shared-update": check_shared_update,
    "determinism": check_determinism,
    "bind": check_bind,
}
