"""From a public call to a kernel: choose the backend, check, allocate, run.

The result of checking one combination of operator, backend, shapes, dtypes and parameters is kept
as a :class:`Plan`, so that only the first such call pays for it.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from typing import Any, NamedTuple

import numpy as np

from nnkernels import plugins, spec
from nnkernels import signature as sig
from nnkernels.backend import Backend, Kernel
from nnkernels.errors import (
    BackendError,
    DeviceMismatchError,
    DTypeError,
    InputError,
    LabelError,
    NnkernelsError,
    OutputError,
    ShapeError,
)
from nnkernels.names import BackendName, parse_backend
from nnkernels.spec import Array, Op

_current: ContextVar[Backend | None] = ContextVar("nnkernels_backend", default=None)
_MAX_PLANS = 4096


# --- choosing a backend ------------------------------------------------------------------------


@functools.lru_cache(maxsize=256)
def _named(name: str) -> Backend:
    parsed: BackendName = parse_backend(name)
    base = _auto() if parsed.base == "auto" else plugins.load(parsed.base)
    if parsed.device is not None:
        base = _on_device(base, parsed.device)
    if parsed.settings:
        base = base.configure(**parsed.settings)
    return base.replace(**{op: _swap_value(v) for op, v in parsed.swaps.items()})


def _on_device(backend: Backend, device: str) -> Backend:
    if backend.select is None:
        raise InputError(f"backend {backend.name} has one device only; drop ':{device}'")
    return backend.select(device)


def _swap_value(value: str) -> Any:
    if ":" not in value:
        return value
    module, _, attribute = value.partition(":")
    try:
        return functools.reduce(getattr, attribute.split("."), importlib.import_module(module))
    except (Exception, SystemExit) as error:  # whatever the user's module does when it is imported
        raise InputError(
            f"kernel {value!r} cannot be imported: {type(error).__name__}: {error}"
        ) from error


def _auto() -> Backend:
    """The available host backend with the highest priority: the documented rule of ``auto``."""
    found = []
    for name in plugins.builtin_names():
        with contextlib.suppress(BackendError):
            backend = plugins.load(name)
            if backend.device.name == "cpu":
                found.append(backend)
    return max(found, key=lambda b: b.priority)


def get_backend(
    name: str | Backend = "auto",
    *,
    threads: int | None = None,
    precision: str | None = None,
    strict: bool | None = None,
) -> Backend:
    """The backend called ``name``, with settings if given.

    Args:
        name: ``"auto"``, ``"numpy"``, ``"cupy:1"`` (a device), ``"numpy(threads=1)"`` (settings),
            ``"numpy[relu=mypkg.kernels:relu]"`` (swapped kernels), any of these combined, or a
            Backend. ``auto`` is the available CPU backend with the highest priority; a GPU is used
            only when it is named.
        threads: CPU threads of its kernels.
        precision: ``"fp32"``, ``"tf32"``, ``"bf16"`` or ``"fp16"``, where the backend offers it.
        strict: refuse kernels of the fallback backend.

    Raises:
        UnknownNameError: no such backend (with the nearest match).
        BackendUnavailableError: it cannot work here; the message has the reason and the remedy.
    """
    if not isinstance(name, (str, Backend)):
        raise InputError(f"get_backend: name must be a text or a Backend, got {name!r}")
    backend = name if isinstance(name, Backend) else _named(name)
    if threads is None and precision is None and strict is None:
        return backend
    return backend.configure(threads=threads, precision=precision, strict=strict)


@contextlib.contextmanager
def use(backend: str | Backend) -> Iterator[Backend]:
    """Run the operators called inside the ``with`` block on ``backend``."""
    chosen = get_backend(backend)
    token = _current.set(chosen)
    try:
        yield chosen
    finally:
        _current.reset(token)


def _default_for(arrays: Sequence[Any]) -> Backend:
    """NumPy serves NumPy arrays; arrays of another device are served by the backend owning it."""
    for array in arrays:
        if type(array).__module__.partition(".")[0] == "cupy":
            return get_backend(f"cupy:{array.device.id}")
    return _numpy()


@functools.cache
def _numpy() -> Backend:
    return plugins.load("numpy")


# --- a checked call ----------------------------------------------------------------------------


class Plan(NamedTuple):
    """What checking found out about calls of one operator with given shapes and dtypes."""

    op: Op[Any, Any]
    backend: Backend
    kernel: Kernel | None
    params: Mapping[str, Any]
    signature: sig.Signature
    dims: sig.Dims
    outputs: tuple[tuple[tuple[int, ...], np.dtype[Any]], ...]
    work: tuple[tuple[tuple[int, ...], np.dtype[Any]], ...]
    checked_values: tuple[int, ...]
    updated: tuple[int, ...]
    simple: bool
    """One output, nothing updated, a kernel that takes any strides: the fast path."""


_plans: dict[Any, Plan] = {}


class Dispatcher:
    """Fills the slot through which operators are called."""

    def call(
        self, op: Op[Any, Any], backend: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Check, allocate and run ``op``; returns its outputs, or the updated arguments."""
        out = kwargs.pop("out", None) if kwargs else None
        plan, arrays = _prepare(op, backend, args, kwargs)
        if out is None:
            outs = _allocate(plan)
        elif plan.simple and _separate(plan, arrays, out):
            outs = (out,)
        else:
            outs = _check_out(plan, arrays, out)
        _run(plan, arrays, outs)
        return outs[0] if plan.simple else _results(plan, arrays, outs)

    def get_backend(self, name: str) -> Backend:
        """See :func:`get_backend`."""
        return get_backend(name)


def _results(plan: Plan, arrays: Sequence[Any], outs: tuple[Any, ...]) -> Any:
    """What a call returns: the outputs, then the updated arguments; a single one by itself."""
    results = (*outs, *[arrays[i] for i in plan.updated])
    return results[0] if len(results) == 1 else results


def bind(
    op: str | Op[Any, Any],
    *args: Any,
    out: Any = None,
    backend: str | Backend | None = None,
    **params: Any,
) -> Callable[[], Any]:
    """Check a call once and return a function without arguments that repeats it on these arrays.

    The returned function runs the kernel and nothing else (no checks, no allocation), and returns
    the same output arrays every time. Values of labels and scalars are checked only now, and
    floating-point warnings are the caller's (``numpy.errstate``).
    """
    op = spec.get_op(op) if isinstance(op, str) else op
    chosen = None if backend is None else get_backend(backend)
    plan, arrays = _prepare(op, chosen, args, params)
    outs = _allocate(plan) if out is None else _check_out(plan, arrays, out)
    _check_updated(plan, arrays, outs)
    result = _results(plan, arrays, outs)
    if plan.kernel is None or not (plan.backend.strided or _all_packed(arrays, outs)):

        def checked() -> Any:
            _run(plan, arrays, outs)
            return result

        return checked
    function, keywords = plan.kernel.function, _keywords(plan, outs)

    def call() -> Any:
        function(*arrays, **keywords)
        return result

    return call


def _prepare(
    op: Op[Any, Any], backend: Backend | None, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Plan, tuple[Array, ...]]:
    host = True
    for a in args:
        if type(a) is not np.ndarray:
            host = False
    if backend is None:
        backend = _current.get() or (_numpy() if host else _default_for(args))
    if host:
        plan = _lookup(_key(op, backend, args, kwargs))
        if plan is not None:
            if plan.checked_values:
                _check_values(plan, args)
            return plan, args
    args, params = _gather_arguments(op, args, kwargs)
    arrays = _normalise(op, backend, args, params)
    for name in op.updates:
        if arrays[op.inputs.index(name)] is not args[op.inputs.index(name)]:
            raise DTypeError(
                f"{op.name}: {name} is updated in place: give an array of a float dtype"
            )
    key = _key(op, backend, arrays, params)
    if not all(type(a) is np.ndarray for a in arrays):
        key = (*key, "device arrays")  # never to be taken for a host call, whose checks it skipped
    plan = _lookup(key) or _remember(key, _plan(op, backend, arrays, params))
    _check_values(plan, arrays)
    return plan, arrays


def _key(
    op: Op[Any, Any], backend: Backend, arrays: Sequence[Any], params: Mapping[str, Any]
) -> Any:
    shapes = tuple([(a.shape, a.dtype) for a in arrays])
    if not params:
        return op, backend, shapes
    # With their types: True and 1.0 equal 1, and yet are refused where a whole number is asked for.
    return op, backend, shapes, tuple([(k, v, type(v)) for k, v in params.items()])


def _lookup(key: Any) -> Plan | None:
    try:
        return _plans.get(key)
    except TypeError:  # an unhashable parameter, refused by name when the plan is made
        return None


def _remember(key: Any, plan: Plan) -> Plan:
    if len(_plans) >= _MAX_PLANS:
        _plans.clear()
    _plans[key] = plan
    return plan


def _gather_arguments(
    op: Op[Any, Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Array arguments in the operator's order, wherever they were given, and the parameters."""
    if len(args) > len(op.inputs):
        raise InputError(f"{op.name}: takes arrays {op.inputs}, got {len(args)}")
    params = dict(kwargs)
    gathered = list(args)
    for name in op.inputs[len(args) :]:
        if name not in params:
            raise InputError(f"{op.name}: argument {name!r} is missing")
        gathered.append(params.pop(name))
    return tuple(gathered), params


def _normalise(
    op: Op[Any, Any], backend: Backend, args: tuple[Any, ...], given: Mapping[str, Any]
) -> tuple[Array, ...]:
    """Arrays of the backend's device with native dtypes; lists and numbers become arrays."""
    arrays = [_as_array(op, n, backend, a) for n, a in zip(op.inputs, args, strict=True)]
    literal = [not (hasattr(a, "dtype") or hasattr(a, "__array__")) for a in args]
    kinds = _likely_kinds(op, arrays, literal, given)
    floating = next(
        (
            a.dtype.newbyteorder("=")
            for a, kind, is_literal in zip(arrays, kinds, literal, strict=True)
            if kind == "float" and not is_literal
        ),
        np.dtype("float64"),
    )
    return tuple(
        _convert(op, name, array, kind, floating, literal=is_literal)
        for name, array, kind, is_literal in zip(op.inputs, arrays, kinds, literal, strict=True)
    )


def _likely_kinds(
    op: Op[Any, Any], arrays: Sequence[Any], literal: Sequence[bool], given: Mapping[str, Any]
) -> list[sig.Kind]:
    """Kinds of the first alternative whose ranks and kinds fit, else of the first one."""
    alternatives = op.signatures({**op.params, **given})
    for signature in alternatives:
        triples = zip(signature.inputs, arrays, literal, strict=True)
        if all(_could_be(a, array, is_literal) for a, array, is_literal in triples):
            return [a.kind for a in signature.inputs]
    return [a.kind for a in alternatives[0].inputs]


def _could_be(argument: sig.Argument, array: Any, literal: bool) -> bool:
    if not argument.accepts_rank(len(array.shape)):
        return False
    if argument.kind == "float":
        return array.dtype.kind == "f" or literal
    return argument.kind != "int" or array.dtype.kind in "iu"


def _as_array(op: Op[Any, Any], name: str, backend: Backend, value: Any) -> Any:
    if type(value) is np.ndarray and backend.device.owns(value):
        return value
    if backend.device.owns(value) and not isinstance(value, np.ndarray):
        return value
    if not _host_like(value) or not backend.device.owns(np.empty(0)):
        if isinstance(value, (int, float)):
            return backend.device.asarray(np.asarray(value))
        raise DeviceMismatchError(
            f"{op.name}: {name} is a {type(value).__name__}, not an array of {backend.name}'s "
            f"device ({backend.device.name}); move it there with backend.asarray({name})"
        )
    return _plain(op, name, value)


def _host_like(value: Any) -> bool:
    return not hasattr(value, "__cuda_array_interface__")


def _plain(op: Op[Any, Any], name: str, value: Any) -> Array:
    """A base-class NumPy array of a list, number, matrix, DataFrame, CPU tensor, ..."""
    if isinstance(value, np.ma.MaskedArray):
        if np.ma.is_masked(value):
            raise InputError(f"{op.name}: {name} has masked elements; fill them: x.filled(...)")
        value = value.data
    try:
        array = np.asarray(value)
    except NnkernelsError:
        raise  # an array of another device that refuses to be copied silently
    except Exception as error:  # __array__ is foreign code
        raise InputError(f"{op.name}: {name} cannot become an array: {error}") from error
    if array.dtype.kind not in "fiub":
        raise DTypeError(
            f"{op.name}: {name} has dtype {array.dtype}; give numbers, for example "
            "numpy.asarray(x, dtype='float32')"
        )
    return array


def _convert(
    op: Op[Any, Any],
    name: str,
    array: Any,
    kind: sig.Kind,
    floating: np.dtype[Any],
    *,
    literal: bool,
) -> Any:
    dtype = array.dtype
    if kind == "float":
        if literal or (not dtype.isnative and dtype.newbyteorder("=") in sig.FLOAT_DTYPES):
            return array.astype(floating if literal else dtype.newbyteorder("="))
        if dtype not in sig.FLOAT_DTYPES:
            raise _bad_dtype(op, name, dtype, " or ".join(d.name for d in sig.FLOAT_DTYPES))
        if dtype != floating:
            raise DTypeError(
                f"{op.name}: {name} is {dtype}, other arguments are {floating}; nothing is cast "
                f"silently: {name}.astype('{floating}')"
            )
        return array
    want = sig.KIND_DTYPES[kind]
    if dtype == want:
        return array
    if kind == "scalar" and dtype.kind in "fiu":
        return array.astype(want)
    if kind in ("int", "counter") and dtype.kind in "iu":
        return _to_int64(op, name, array)
    if kind == "mask" and literal:
        return array.astype(want)
    raise _bad_dtype(op, name, dtype, want.name)


def _bad_dtype(op: Op[Any, Any], name: str, got: np.dtype[Any], want: str) -> DTypeError:
    first = want.partition(" ")[0]
    return DTypeError(f"{op.name}: {name} must be {want}, got {got}: {name}.astype('{first}')")


def _to_int64(op: Op[Any, Any], name: str, array: Any) -> Any:
    if array.dtype == np.uint64 and array.size and array.max() > np.iinfo(np.int64).max:
        raise LabelError(f"{op.name}: {name} holds {array.max()}, beyond int64")
    return array.astype(np.int64)


def _plan(
    op: Op[Any, Any], backend: Backend, arrays: Sequence[Any], given: Mapping[str, Any]
) -> Plan:
    params = op.full_params(given)
    shapes = [tuple(a.shape) for a in arrays]
    signature, dims = _match(op, [a.dtype for a in arrays], shapes, params)
    resolution = backend.resolve(op.name, params)
    floating = _floating(op, signature, arrays, params)
    kernel = resolution.kernel
    workspace = sig.parse_arguments(kernel.workspace) if kernel else ()
    return Plan(
        op,
        backend,
        kernel,
        params,
        signature,
        dims,
        _arrays_of(op, signature.outputs, dims, floating),
        _arrays_of(op, workspace, dims, floating),
        tuple(i for i, a in enumerate(signature.inputs) if a.interval and a.kind != "float"),
        tuple(op.inputs.index(name) for name in op.updates),
        simple=len(signature.outputs) == 1 and not op.updates,
    )


def _arrays_of(
    op: Op[Any, Any], arguments: Sequence[sig.Argument], dims: sig.Dims, floating: np.dtype[Any]
) -> tuple[tuple[tuple[int, ...], np.dtype[Any]], ...]:
    specs = tuple((sig.shape_of(a, dims), a.dtype(floating)) for a in arguments)
    for shape, dtype in specs:
        if sig.size(shape) * dtype.itemsize > sys.maxsize:
            raise InputError(f"{op.name}: an array of shape {shape} is beyond any memory")
    return specs


def _floating(
    op: Op[Any, Any], signature: sig.Signature, arrays: Sequence[Any], params: Mapping[str, Any]
) -> np.dtype[Any]:
    for argument, array in zip(signature.inputs, arrays, strict=True):
        if argument.kind == "float":
            given: np.dtype[Any] = array.dtype
            return given
    name = params.get("dtype", "float32")
    for dtype in sig.FLOAT_DTYPES:
        if dtype.name == name:
            return dtype
    raise DTypeError(f"{op.name}: dtype must be float32 or float64, got {name!r}")


def _match(
    op: Op[Any, Any],
    dtypes: Sequence[np.dtype[Any]],
    shapes: Sequence[tuple[int, ...]],
    params: Mapping[str, Any],
) -> tuple[sig.Signature, sig.Dims]:
    failures: list[tuple[sig.Signature, sig.Mismatch]] = []
    for signature in op.signatures(params):
        kinds = [a.kind for a in signature.inputs]
        checked = [(k, d.kind) for k, d in zip(kinds, dtypes, strict=True) if k in ("float", "int")]
        if any((kind == "float") != (got == "f") for kind, got in checked):
            continue
        try:
            return signature, signature.solve(shapes, params)
        except sig.Mismatch as error:
            failures.append((signature, error))
    if not failures:
        raise DTypeError(f"{op.name}: dtypes {[str(d) for d in dtypes]} fit none of {op.signature}")
    signature, first = failures[0]
    raise ShapeError(
        f"{op.name}: {op.inputs[first.index]} has shape {shapes[first.index]}, expected "
        f"{first.expected} (signature {_signature_text(op, signature)})"
    )


def _signature_text(op: Op[Any, Any], signature: sig.Signature) -> str:
    inputs = ", ".join(f"{n}{a}" for n, a in zip(op.inputs, signature.inputs, strict=True))
    return f"{inputs} -> {', '.join(str(a) for a in signature.outputs)}"


def _check_values(plan: Plan, arrays: Sequence[Any]) -> None:
    for index in plan.checked_values:
        argument = plan.signature.inputs[index]
        values = plan.backend.to_numpy(arrays[index])
        assert argument.interval is not None
        if values.size and not argument.interval.contains(values.min(), values.max(), plan.dims):
            raise _bad_value(plan, index, argument, values)


def _bad_value(
    plan: Plan, index: int, argument: sig.Argument, values: Array
) -> LabelError | InputError:
    assert argument.interval is not None
    low, high = argument.interval.bounds(plan.dims)
    name = plan.op.inputs[index]
    if values.ndim == 0:
        return InputError(f"{plan.op.name}: {name} must lie in {argument.interval}, got {values}")
    where = np.argwhere(~((values >= low) & (values < high)))
    at = tuple(int(i) for i in where[0]) if len(where) else ()
    return LabelError(
        f"{plan.op.name}: {name}{list(at)} is {values[at]}, must lie in [{low:g}, {high:g}); "
        f"{len(where)} of {values.size} are out of range"
    )


# --- outputs -----------------------------------------------------------------------------------


def _allocate(plan: Plan) -> tuple[Any, ...]:
    empty = plan.backend.device.empty
    return tuple([empty(shape, dtype) for shape, dtype in plan.outputs])


def _separate(plan: Plan, arrays: Sequence[Any], out: Any) -> bool:
    """Whether ``out`` is plainly right: a writable array that fits and shares no memory."""
    shape, dtype = plan.outputs[0]
    if type(out) is not np.ndarray or out.shape != shape or out.dtype != dtype:
        return False
    if not out.flags.writeable:
        return False
    for array in arrays:  # noqa: SIM110  # a loop: this is the fast path
        if np.may_share_memory(out, array):
            return False
    return True


def _check_out(plan: Plan, arrays: Sequence[Any], out: Any) -> tuple[Any, ...]:
    outs = out if isinstance(out, tuple) else (out,)
    if len(outs) != len(plan.outputs):
        count = len(plan.outputs)
        raise OutputError(f"{plan.op.name}: out must be {count} arrays, got {len(outs)}")
    for position, (array, (shape, dtype)) in enumerate(zip(outs, plan.outputs, strict=True)):
        if array is None and len(outs) > 1:
            continue
        if not plan.backend.device.owns(array):
            raise DeviceMismatchError(
                f"{plan.op.name}: out is a {type(array).__name__}, not an array of device "
                f"{plan.backend.device.name}"
            )
        if isinstance(array, np.ma.MaskedArray):
            raise OutputError(f"{plan.op.name}: out is a masked array; give out.data")
        if array.shape != shape or array.dtype != dtype:
            raise OutputError(
                f"{plan.op.name}: out must have shape {shape} and dtype {dtype}, got {array.shape} "
                f"{array.dtype}"
            )
        if isinstance(array, np.ndarray):
            _check_memory(plan, array, arrays, "out", plan.signature.rowwise)
            _check_memory(plan, array, outs[:position], "out", False)
    return outs


def _check_memory(
    plan: Plan, target: Array, others: Sequence[Any], what: str, in_place: bool
) -> None:
    """Refuse a target that cannot be written, or that shares memory it must not share."""
    if not target.flags.writeable:
        raise OutputError(f"{plan.op.name}: {what} is read-only; give a writable array")
    for other in others:
        if other is None or not np.may_share_memory(target, other):
            continue
        if in_place and _same_memory(target, other):
            continue
        if np.shares_memory(target, other):
            raise OutputError(
                f"{plan.op.name}: {what} overlaps another argument; give separate memory"
                + (", or exactly that argument" if in_place else "")
            )


def _same_memory(a: Array, b: Array) -> bool:
    return a is b or (
        a.ctypes.data == b.ctypes.data
        and (a.shape, a.strides, a.dtype) == (b.shape, b.strides, b.dtype)
    )


# --- running -----------------------------------------------------------------------------------


def _check_updated(plan: Plan, arrays: Sequence[Any], outs: tuple[Any, ...]) -> None:
    for index in plan.updated:
        target = arrays[index]
        if isinstance(target, np.ndarray):
            others = [*arrays[:index], *arrays[index + 1 :], *outs]
            _check_memory(plan, target, others, plan.op.inputs[index], False)


def _run(plan: Plan, arrays: Sequence[Any], outs: tuple[Any, ...]) -> None:
    if plan.updated:
        _check_updated(plan, arrays, outs)
    try:
        if plan.kernel is None:
            _run_composed(plan, arrays, outs)
        elif plan.backend.strided or _all_packed(arrays, outs):
            with np.errstate(all="ignore"):
                plan.kernel.function(*arrays, **_keywords(plan, outs))
        else:
            _run_contiguous(plan, arrays, outs)
    except (NnkernelsError, MemoryError):
        raise
    except Exception as error:
        origin = plan.kernel.origin if plan.kernel else "its composition"
        raise BackendError(
            f"{plan.op.name} on {plan.backend.name} failed in {origin}: "
            f"{type(error).__name__}: {error}"
        ) from error


def _keywords(plan: Plan, outs: tuple[Any, ...]) -> dict[str, Any]:
    keywords = dict(plan.params)
    if outs:
        keywords["out"] = outs[0] if len(outs) == 1 else outs
    if plan.work:
        empty = plan.backend.device.empty
        keywords["work"] = tuple(empty(shape, dtype) for shape, dtype in plan.work)
    return keywords


def _all_packed(arrays: Sequence[Any], outs: Sequence[Any]) -> bool:
    return all(_packed(a) for a in (*arrays, *outs) if a is not None)


def _packed(array: Any) -> bool:
    flags = array.flags
    return bool(flags.c_contiguous and getattr(flags, "aligned", True))


def _run_contiguous(plan: Plan, arrays: Sequence[Any], outs: tuple[Any, ...]) -> None:
    """Run a kernel that wants packed arrays on copies, and copy back what it wrote."""
    packed = [a if _packed(a) else a.copy(order="C") for a in arrays]
    targets = tuple(
        o if o is None or _packed(o) else plan.backend.device.empty(o.shape, o.dtype) for o in outs
    )
    assert plan.kernel is not None
    with np.errstate(all="ignore"):
        plan.kernel.function(*packed, **_keywords(plan, targets))
    written = [*zip(outs, targets, strict=True), *((arrays[i], packed[i]) for i in plan.updated)]
    for target, source in written:
        if target is not None and target is not source:
            target[...] = source


def _run_composed(plan: Plan, arrays: Sequence[Any], outs: tuple[Any, ...]) -> None:
    def call(name: str, *inputs: Any, **params: Any) -> Any:
        return spec.get_op(name).on(plan.backend, *inputs, **params)

    assert plan.op.composition is not None
    results = plan.op.composition(call, *arrays, **plan.params)
    results = results if isinstance(results, tuple) else (results,)
    for target, result in zip(outs, results, strict=True):
        if target is not None:
            target[...] = result


spec.slot.runtime = Dispatcher()
