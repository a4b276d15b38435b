"""Named arrays and text in one file: safetensors, with every byte of it under a checksum.

The file is an ordinary safetensors file [1]. Its ``__metadata__`` holds, beside the caller's own
text, ``nnkernels.format`` (the version of these rules), ``nnkernels.sha256.NAME`` for every tensor
(over its bytes) and ``nnkernels.sha256``, the seal (over the header's text without the seal's own
64 characters). The reader trusts nothing: the header is checked against fixed limits and against
the size of the file before any memory is taken for a tensor, and every checksum is compared.

[1] https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from io import BufferedReader
from typing import Any, NamedTuple, NoReturn

import numpy as np
from numpy.typing import NDArray

from nnkernels.errors import CheckpointError, DTypeError, InputError
from nnkernels.files import as_path, write_atomically

Array = NDArray[Any]
StrPath = str | os.PathLike[str]

DTYPES: Mapping[str, np.dtype[Any]] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "I64": np.dtype("<i8"),
    "U8": np.dtype("u1"),
    "BOOL": np.dtype("?"),
}
MAX_HEADER_BYTES = 16 << 20
MAX_TENSORS = 10_000
MAX_RANK = 8
MAX_NAME_LENGTH = 256
MAX_METADATA = 1_000

_CODES = {dtype.name: code for code, dtype in DTYPES.items()}
_METADATA = "__metadata__"
_RESERVED = "nnkernels."
_FORMAT_KEY = _RESERVED + "format"
_SEAL_KEY = _RESERVED + "sha256"
_SEAL_START = f'"{_SEAL_KEY}":"'.encode()
_SEAL_LENGTH = 64
_FORMAT = "nnkernels.tensors/"
_VERSION = 1

# A tensor of rank MAX_RANK and its checksum take 26 tokens of JSON.
_MAX_TOKENS = 30 * MAX_TENSORS
_MAX_DEPTH = 3
_MAX_INT = 2**63 - 1
# Possessive, and an unterminated string counts as one: linear in the header, whatever it holds.
_TOKEN = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)|[\[\]{},]', re.DOTALL)
_FOREIGN = {
    b"\x80": "a pickle, which can run code and is never loaded",
    b"PK": "a zip archive (torch.save or np.savez)",
    b"\x93NUMPY": "a NumPy .npy file",
    b"\x89HDF": "an HDF5 file",
}


class TensorInfo(NamedTuple):
    """What the header says of one tensor; ``begin`` and ``end`` count bytes of the data part."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    begin: int
    end: int
    sha256: str


class Header(NamedTuple):
    """The tensors of a file by name, in name order, and the caller's metadata."""

    tensors: dict[str, TensorInfo]
    metadata: dict[str, str]


class _Refused(Exception):
    """Why a file is refused, as the end of a sentence; the path is added at the door."""


def save_tensors(path: StrPath, tensors: Mapping[str, Array], metadata: Mapping[str, str]) -> None:
    """Write ``tensors`` and ``metadata`` to ``path``, atomically; equal input gives equal bytes.

    Args:
        path: file to create or replace (see :func:`nnkernels.files.write_atomically`).
        tensors: arrays of float64, float32, int64, uint8 or bool, of rank 0 to 8 and any layout or
            byte order, by name (1 to 256 printable characters); at most 10,000.
        metadata: text by key, at most 1,000 entries; keys must not start with ``nnkernels.``. All
            names, shapes and metadata together take at most 16 MiB in the file.

    Raises:
        DTypeError: an argument, an array or a text of the wrong type.
        InputError: a name, a key or a size beyond what is said above.
        CheckpointError: the file cannot be written; what was at ``path`` before is intact.
    """
    metadata = _checked_metadata(metadata)
    arrays = _checked_tensors(tensors)
    header, data = _serialized(arrays, _described(arrays, metadata))
    if len(header) > MAX_HEADER_BYTES:
        raise InputError(
            f"save_tensors: metadata: with names and shapes it takes {len(header)} bytes, "
            f"expected at most {MAX_HEADER_BYTES}; save less text or fewer tensors"
        )
    write_atomically(path, [len(header).to_bytes(8, "little"), header, data], error=CheckpointError)


def load_tensors(path: StrPath) -> tuple[dict[str, Array], dict[str, str]]:
    """Read what :func:`save_tensors` wrote: the arrays, by name in name order, and the metadata.

    The arrays are writable, C-contiguous and bit for bit those saved. Nothing is created or
    changed on disk, nothing in the file is executed.

    Raises:
        DTypeError: ``path`` is no path.
        CheckpointError: the file is missing, damaged in any byte, not written by nnkernels, or
            written by a newer version; the message says which.
    """
    with _opened("load_tensors", path) as file:
        header = _read_header(file)
        in_file_order = sorted(header.tensors, key=lambda name: header.tensors[name][2:4])
        arrays = {name: _read_tensor(file, name, header.tensors[name]) for name in in_file_order}
    return {name: arrays[name] for name in header.tensors}, header.metadata


def read_header(path: StrPath) -> Header:
    """Read and check the header of a tensor file only: names, dtypes, shapes and metadata.

    The size of the file and the header's checksum are verified, the tensors' bytes are not.
    Raises as :func:`load_tensors`.
    """
    with _opened("read_header", path) as file:
        return _read_header(file)


# Writing


def _checked_tensors(tensors: Mapping[str, Array]) -> dict[str, Array]:
    if not isinstance(tensors, Mapping):
        raise DTypeError(
            f"save_tensors: tensors must map names to arrays, got {type(tensors).__name__}"
        )
    if len(tensors) > MAX_TENSORS:
        raise InputError(
            f"save_tensors: tensors: expected at most {MAX_TENSORS}, got {len(tensors)}; "
            "join small arrays into larger ones"
        )
    arrays = {name: _plain_copy(name, array) for name, array in tensors.items()}
    return dict(sorted(arrays.items()))


def _plain_copy(name: str, array: Array) -> Array:
    """A C-contiguous little-endian copy: what is hashed stays what is written."""
    if not _is_name(name):
        raise InputError(
            f"save_tensors: tensors: a name must be 1 to {MAX_NAME_LENGTH} printable characters "
            f"other than {_METADATA!r}, got {name!r}"
        )
    code = _CODES.get(array.dtype.name) if isinstance(array, np.ndarray) else None
    if code is None:
        got = getattr(array, "dtype", type(array).__name__)
        raise DTypeError(
            f"save_tensors: tensor {name!r} must be a NumPy array of {', '.join(_CODES)}, got "
            f"{got}; convert it with numpy.asarray(x, dtype)"
        )
    if array.ndim > MAX_RANK:
        raise InputError(
            f"save_tensors: tensor {name!r} must have rank 0 to {MAX_RANK}, got {array.ndim}; "
            "reshape it"
        )
    copy = np.array(array, dtype=DTYPES[code], order="C", copy=True, subok=False)
    # A bool made by a view may hold bytes other than 0 and 1, which the reader refuses.
    return np.asarray(copy.view(np.uint8) != 0) if code == "BOOL" else copy


def _checked_metadata(metadata: Mapping[str, str]) -> Mapping[str, str]:
    if not isinstance(metadata, Mapping) or not all(map(_is_text, _flat(metadata))):
        raise DTypeError("save_tensors: metadata must map text to text (Unicode str both)")
    if len(metadata) > MAX_METADATA:
        raise InputError(
            f"save_tensors: metadata: expected at most {MAX_METADATA} entries, got {len(metadata)};"
            " put several values into one JSON text"
        )
    reserved = [key for key in metadata if key.startswith(_RESERVED)]
    if reserved:
        raise InputError(
            f"save_tensors: metadata: the key {reserved[0]!r} starts with {_RESERVED!r}, which is "
            "reserved; rename it"
        )
    return metadata


def _flat(metadata: Mapping[Any, Any]) -> Iterator[Any]:
    for pair in metadata.items():
        yield from pair


def _described(arrays: Mapping[str, Array], metadata: Mapping[str, str]) -> dict[str, str]:
    """``metadata`` with the format, the tensors' checksums and room for the seal."""
    described = {**metadata, _FORMAT_KEY: f"{_FORMAT}{_VERSION}", _SEAL_KEY: "-" * _SEAL_LENGTH}
    for name, array in arrays.items():
        described[f"{_SEAL_KEY}.{name}"] = hashlib.sha256(_raw_bytes(array)).hexdigest()
    return dict(sorted(described.items()))


def _serialized(arrays: dict[str, Array], metadata: dict[str, str]) -> tuple[bytes, memoryview]:
    """The header and the data of the safetensors file.

    safetensors orders metadata differently in every call, so it lays out the tensors only and the
    header is put together here.
    """
    from safetensors.numpy import save  # only a save needs it, so that imports stay light

    blob = save(arrays)
    start = 8 + int.from_bytes(blob[:8], "little")
    header = {_METADATA: metadata, **json.loads(blob[8:start])}
    text = json.dumps(header, separators=(",", ":")).encode("ascii")
    return _sealed(text + b" " * (-len(text) % 8)), memoryview(blob)[start:]


def _sealed(text: bytes) -> bytes:
    start = _seal_position(text)
    return text[:start] + _seal(text).encode("ascii") + text[start + _SEAL_LENGTH :]


# Reading


@contextmanager
def _opened(function: str, path: StrPath) -> Iterator[BufferedReader]:
    """``path`` open for reading; every reason to refuse it becomes a CheckpointError."""
    target = as_path(function, path)
    shown = f"{function}: cannot load {str(target)!r}"
    try:
        with open(target, "rb", opener=_open_without_waiting) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise _Refused("it is not a regular file; give the path of one")
            yield file
    except _Refused as reason:
        raise CheckpointError(f"{shown}: {reason}") from None
    except OSError as cause:
        raise CheckpointError(f"{shown}: {cause.strerror}; check the path") from cause
    except MemoryError as cause:
        raise CheckpointError(f"{shown}: not enough memory for its tensors; free some") from cause


def _open_without_waiting(path: str, flags: int) -> int:
    # A named pipe without a writer would block for ever.
    return os.open(path, flags | os.O_NONBLOCK)


def _damaged(what: str) -> _Refused:
    return _Refused(f"it is damaged ({what}); use an intact copy")


def _read_header(file: BufferedReader) -> Header:
    size = os.fstat(file.fileno()).st_size
    text = _header_text(file, size)
    entries = _parsed(text)
    stored = _stored_metadata(entries.pop(_METADATA, None))
    if len(entries) > MAX_TENSORS:
        raise _damaged(f"{len(entries)} tensors, at most {MAX_TENSORS} are allowed")
    tensors = {name: _tensor_info(name, entries[name], stored) for name in sorted(entries)}
    _check_layout(tensors, size - 8 - len(text))
    if _seal(text) != stored.get(_SEAL_KEY):
        raise _damaged("the header does not match its checksum")
    own = {key: value for key, value in stored.items() if not key.startswith(_RESERVED)}
    return Header(tensors, own)


def _header_text(file: BufferedReader, size: int) -> bytes:
    start = file.read(8)
    length = int.from_bytes(start, "little")
    if len(start) < 8 or length > min(size - 8, MAX_HEADER_BYTES):
        for magic, kind in _FOREIGN.items():
            if start.startswith(magic):
                raise _Refused(f"it is {kind}; give a file that nnkernels saved")
        raise _damaged(
            f"truncated or no safetensors file: a header of {length} bytes in a file of {size}"
        )
    text = file.read(length)
    if len(text) < length or not text.startswith(b"{"):
        raise _damaged("truncated or no safetensors file: the header is not a JSON object")
    return text


def _parsed(text: bytes) -> dict[str, Any]:
    _check_size_of_json(text)
    try:
        entries: dict[str, Any] = json.loads(
            text.decode("utf-8"),
            object_pairs_hook=_unique,
            parse_float=_refuse_number,
            parse_constant=_refuse_number,
        )
    except ValueError as cause:
        raise _damaged(f"the header is not valid JSON: {cause}") from None
    return entries


def _check_size_of_json(text: bytes) -> None:
    """Refuse, before memory is taken, JSON that is deeper or has more parts than any header."""
    depth = 0
    for count, token in enumerate(_TOKEN.finditer(text)):
        first = text[token.start()]
        depth += (first in b"[{") - (first in b"]}")
        if depth > _MAX_DEPTH or count > _MAX_TOKENS:
            raise _damaged("the header is nested too deeply or has too many entries")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) < len(pairs):
        raise _damaged("the header holds a key twice")
    return result


def _refuse_number(text: str) -> NoReturn:
    raise _damaged(f"the header holds {text[:20]} where only integers belong")


def _stored_metadata(metadata: Any) -> dict[str, str]:
    """``metadata``, as text by text, when its format is one that this version reads."""
    if not isinstance(metadata, dict) or _FORMAT_KEY not in metadata:
        raise _Refused("it was not written by nnkernels; give a file that nnkernels saved")
    if not all(map(_is_text, _flat(metadata))):
        raise _damaged("the metadata is not all text")
    version = re.fullmatch(re.escape(_FORMAT) + r"([1-9][0-9]{0,8})", metadata[_FORMAT_KEY])
    if version is None:
        raise _damaged(f"unknown format {metadata[_FORMAT_KEY][:40]!r}")
    if int(version[1]) > _VERSION:
        raise _Refused(
            f"it was written by a newer version (format {version[1]}, this one reads {_VERSION}); "
            "upgrade nnkernels"
        )
    return metadata


def _tensor_info(name: str, entry: Any, metadata: Mapping[str, str]) -> TensorInfo:
    if not _is_name(name):
        raise _damaged(f"tensor name {name[:40]!r}")
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise _damaged(f"tensor {name!r} is not described by dtype, shape and data_offsets")
    code, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(code, str) or code not in DTYPES:
        raise _damaged(f"tensor {name!r} has an unknown dtype")
    if not _is_shape(shape) or len(shape) > MAX_RANK:
        raise _damaged(f"tensor {name!r} has an impossible shape")
    if not _is_shape(offsets) or len(offsets) != 2:
        raise _damaged(f"tensor {name!r} has impossible offsets")
    _check_byte_count(name, DTYPES[code].itemsize, shape, offsets)
    checksum = metadata.get(f"{_SEAL_KEY}.{name}", "")
    return TensorInfo(DTYPES[code], tuple(shape), offsets[0], offsets[1], checksum)


def _is_shape(value: Any) -> bool:
    # type() and not isinstance(): true and false are int as well.
    return isinstance(value, list) and all(type(n) is int and 0 <= n <= _MAX_INT for n in value)


def _check_byte_count(name: str, itemsize: int, shape: list[int], offsets: list[int]) -> None:
    # NumPy refuses an empty array too when its other dimensions multiply beyond the limit.
    if itemsize * math.prod(n or 1 for n in shape) > _MAX_INT:
        raise _damaged(f"tensor {name!r} has an impossible shape")
    if itemsize * math.prod(shape) != offsets[1] - offsets[0]:
        raise _damaged(f"the shape of tensor {name!r} does not fit its bytes")


def _check_layout(tensors: Mapping[str, TensorInfo], available: int) -> None:
    """Tensors must follow each other without hole, overlap or rest, up to the end of the file."""
    position = 0
    for name, info in sorted(tensors.items(), key=lambda item: item[1][2:4]):
        if info.begin != position:
            raise _damaged(f"a hole or an overlap before tensor {name!r}")
        position = info.end
    if position != available:
        raise _damaged(f"its tensors take {position} bytes, the file holds {available}")


def _read_tensor(file: BufferedReader, name: str, info: TensorInfo) -> Array:
    """The next tensor of ``file``, which stands at its first byte."""
    array = np.empty(info.shape, info.dtype)
    raw = _raw_bytes(array)
    if file.readinto(raw) != raw.nbytes:
        raise _damaged(f"truncated in tensor {name!r}")
    if hashlib.sha256(raw).hexdigest() != info.sha256:
        raise _damaged(f"tensor {name!r} does not match its checksum")
    if info.dtype == np.bool_ and np.any(array.view(np.uint8) > 1):
        raise _damaged(f"tensor {name!r} of bool holds other bytes than 0 and 1")
    return array


# Shared by both


def _seal_position(text: bytes) -> int:
    # Inside any other string of JSON the quotes would be escaped.
    return text.find(_SEAL_START) + len(_SEAL_START)


def _seal(text: bytes) -> str:
    """SHA-256 of the header's text, less the characters that hold the seal."""
    start = _seal_position(text)
    digest = hashlib.sha256(memoryview(text)[:start])
    digest.update(memoryview(text)[start + _SEAL_LENGTH :])
    return digest.hexdigest()


def _raw_bytes(array: Array) -> memoryview:
    """The bytes of a C-contiguous array, of any rank and size, without a copy."""
    return array.reshape(-1).view(np.uint8).data


def _is_text(value: Any) -> bool:
    """Whether ``value`` is a str that UTF-8 can hold (a lone surrogate cannot)."""
    if not isinstance(value, str):
        return False
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _is_name(name: Any) -> bool:
    return (
        isinstance(name, str)
        and 1 <= len(name) <= MAX_NAME_LENGTH
        and name.isprintable()
        and name != _METADATA
    )
