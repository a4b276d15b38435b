import hashlib
import io
import itertools
import json
import os
import pickle
import random
import resource
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import safetensors
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

import nnkernels.files
from nnkernels.errors import CheckpointError, DTypeError, InputError
from nnkernels.nn import tensorfile
from nnkernels.nn.tensorfile import load_tensors, read_header, save_tensors

ROOT = Path(nnkernels.files.__file__).parents[1]
DTYPES = ["float64", "float32", "int64", "uint8", "bool"]
SAMPLE = {
    "layer0.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
    "layer0.bias": np.array([0.5, -0.0, np.nan]),
    "step": np.array(7),
    "mask": np.array([True, False]),
    "bytes": np.array([255], dtype=np.uint8),
    "empty": np.zeros((0, 4)),
}
METADATA = {"model": '{"layers": [2, 3]}', "note": 'Grüße "\\ \n 😀'}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.safetensors"


@pytest.fixture
def saved(path):
    save_tensors(path, SAMPLE, METADATA)
    return path


def facts(tensors):
    """What must survive: dtype, shape and bits of every tensor."""
    return {name: (x.dtype.str, x.shape, x.tobytes()) for name, x in tensors.items()}


def contents(path):
    tensors, metadata = load_tensors(path)
    return facts(tensors), metadata


def run_python(*arguments):
    return subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OPENBLAS_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=280,
    )


def header_length(blob):
    return int.from_bytes(blob[:8], "little")


# Round trip


@st.composite
def arrays_of_any_layout(draw):
    dtype = np.dtype(draw(st.sampled_from(DTYPES)))
    shape = draw(npst.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4))
    count = int(np.prod(shape))
    if dtype.kind == "b":
        raw = draw(st.lists(st.booleans(), min_size=count, max_size=count))
        array = np.array(raw, dtype=bool).reshape(shape)
    else:  # any bits, so any NaN
        size = count * dtype.itemsize
        raw = draw(st.binary(min_size=size, max_size=size))
        array = np.frombuffer(raw, dtype).reshape(shape)
    for axis in range(array.ndim):
        step = draw(st.sampled_from([1, -1, 2, -2]))
        array = array[(slice(None),) * axis + (slice(None, None, step),)]
    if draw(st.booleans()):
        array = array.T
    if draw(st.booleans()):
        array = np.asfortranarray(array).reshape(array.shape)
    if draw(st.booleans()):
        array = np.broadcast_to(array, (2, *array.shape))
    return array.byteswap().view(array.dtype.newbyteorder()) if draw(st.booleans()) else array


@settings(max_examples=150, deadline=None)
@given(
    tensors=st.dictionaries(st.sampled_from("abcdé"), arrays_of_any_layout(), max_size=4),
    metadata=st.dictionaries(
        st.text(st.characters(exclude_categories=["Cs"])).filter(
            lambda key: not key.startswith("nnkernels.")
        ),
        st.text(st.characters(exclude_categories=["Cs"])),
        max_size=3,
    ),
)
def test_every_layout_comes_back_bit_for_bit(tmp_path_factory, tensors, metadata):
    path = tmp_path_factory.getbasetemp() / "round_trip.safetensors"
    before = facts(tensors)
    save_tensors(path, tensors, metadata)
    assert facts(tensors) == before
    loaded, loaded_metadata = load_tensors(path)
    native = {name: x.astype(x.dtype.newbyteorder("="), order="C") for name, x in tensors.items()}
    assert facts(loaded) == facts(native)
    assert loaded_metadata == metadata
    assert all(x.flags.carray and x.flags.owndata for x in loaded.values())


def test_order_is_by_name_and_the_file_does_not_depend_on_the_callers(path, tmp_path):
    save_tensors(path, SAMPLE, METADATA)
    other = tmp_path / "other"
    save_tensors(other, dict(reversed(SAMPLE.items())), dict(reversed(METADATA.items())))
    assert path.read_bytes() == other.read_bytes()
    assert list(load_tensors(path)[0]) == sorted(SAMPLE)


def test_other_programs_can_read_the_file(saved):
    assert facts(safetensors.numpy.load_file(saved)) == facts(SAMPLE)
    with safetensors.safe_open(saved, framework="numpy") as file:
        assert METADATA.items() <= file.metadata().items()
        digest = file.metadata()["nnkernels.sha256.step"]
    assert digest == hashlib.sha256(SAMPLE["step"].tobytes()).hexdigest()


def test_the_data_part_is_aligned_to_eight_bytes(path):
    for length in range(8):
        save_tensors(path, {"x": np.zeros(1)}, {"k": "v" * length})
        assert header_length(path.read_bytes()) % 8 == 0


def test_no_tensors_and_no_metadata_is_a_file_too(path):
    save_tensors(path, {}, {})
    assert load_tensors(path) == ({}, {})


def test_a_bool_made_of_other_bytes_is_saved_as_true(path):
    save_tensors(path, {"b": np.array([0, 1, 2], np.uint8).view(bool)}, {})
    assert load_tensors(path)[0]["b"].tobytes() == b"\0\1\1"


def test_the_greatest_allowed_file_can_be_loaded(path):
    tensors = {f"{i:0256d}": np.zeros((1,) * 8, np.uint8) for i in range(tensorfile.MAX_TENSORS)}
    metadata = {str(i): "[" * 1000 for i in range(tensorfile.MAX_METADATA)}
    save_tensors(path, tensors, metadata)
    assert contents(path) == (facts(tensors), metadata)


def test_the_header_can_be_read_alone(saved):
    header = read_header(saved)
    assert header.metadata == METADATA
    assert list(header.tensors) == sorted(SAMPLE)
    for name, info in header.tensors.items():
        assert (info.dtype, info.shape) == (SAMPLE[name].dtype, SAMPLE[name].shape)
        assert info.sha256 == hashlib.sha256(SAMPLE[name].tobytes()).hexdigest()


def test_reading_creates_and_changes_nothing(saved):
    before = (saved.read_bytes(), saved.stat().st_mtime_ns, list(saved.parent.iterdir()))
    load_tensors(saved)
    read_header(saved)
    assert (saved.read_bytes(), saved.stat().st_mtime_ns, list(saved.parent.iterdir())) == before


# What cannot be saved

X = np.zeros(2)


@pytest.mark.parametrize(
    ("tensors", "metadata", "error", "message"),
    [
        ([("a", X)], {}, DTypeError, "tensors must map names to arrays, got list"),
        ({"a": [1.0]}, {}, DTypeError, "tensor 'a' must be a NumPy array of float64.*got list"),
        ({"a": np.float64(1)}, {}, DTypeError, "tensor 'a'"),
        ({"a": X.astype(np.float16)}, {}, DTypeError, "got float16; convert"),
        ({"a": X.astype(complex)}, {}, DTypeError, "got complex128"),
        ({"a": np.array([None])}, {}, DTypeError, "got object"),
        ({"a": np.array(["text"])}, {}, DTypeError, "got <U4"),
        ({"a": np.zeros((1,) * 9)}, {}, InputError, "must have rank 0 to 8, got 9"),
        ({"": X}, {}, InputError, "1 to 256 printable characters"),
        ({"n" * 257: X}, {}, InputError, "1 to 256 printable"),
        ({"a\n": X}, {}, InputError, "printable"),
        ({"\ud800": X}, {}, InputError, "printable"),
        ({"__metadata__": X}, {}, InputError, "other than '__metadata__'"),
        ({1: X}, {}, InputError, "printable characters.*got 1"),
        (dict.fromkeys(map(str, range(10_001)), X), {}, InputError, "at most 10000, got 10001"),
        ({}, [("k", "v")], DTypeError, "metadata must map text to text"),
        ({}, {"k": 1}, DTypeError, "metadata must map text"),
        ({}, {1: "v"}, DTypeError, "metadata must map text"),
        ({}, {"k": b"v"}, DTypeError, "metadata must map text"),
        ({}, {"k": "\ud800"}, DTypeError, "metadata must map text"),
        ({}, {"nnkernels.format": "mine"}, InputError, "'nnkernels.format' starts with"),
        ({}, dict.fromkeys(map(str, range(1001)), ""), InputError, "at most 1000 entries"),
        ({}, {"k": "v" * (16 << 20)}, InputError, "expected at most 16777216; save less text"),
    ],
)
def test_bad_input_is_refused_and_the_old_file_stays(saved, tensors, metadata, error, message):
    before = saved.read_bytes()
    with pytest.raises(error, match=message):
        save_tensors(saved, tensors, metadata)
    assert saved.read_bytes() == before
    assert list(saved.parent.iterdir()) == [saved]


@pytest.mark.parametrize("function", [load_tensors, read_header, lambda p: save_tensors(p, {}, {})])
def test_a_path_of_the_wrong_type_is_refused(function):
    with pytest.raises(DTypeError, match="path must be a str"):
        function(3)


def test_a_full_disk_keeps_the_old_file(saved):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        with pytest.raises(CheckpointError, match=r"model.safetensors' \(8\d{5} bytes needed\)"):
            save_tensors(saved, {"big": np.zeros(100_000)}, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert contents(saved) == (facts(SAMPLE), METADATA)
    assert list(saved.parent.iterdir()) == [saved]


# Hostile files: each differs in one point from what forge() makes, which loads

DATA = np.array([1.0, 2.0], np.float32).tobytes() + b"\1\0"
SHA = {"a": hashlib.sha256(DATA[:8]).hexdigest(), "b": hashlib.sha256(DATA[8:]).hexdigest()}


def entry(dtype="F32", shape=(2,), offsets=(0, 8)):
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def forge(metadata=None, tensors=None, **changes):
    """JSON of a header for DATA; ``changes`` replace tensors, None takes one away."""
    metadata = {
        "nnkernels.format": "nnkernels.tensors/1",
        "nnkernels.sha256": "%SEAL%",
        "nnkernels.sha256.a": SHA["a"],
        "nnkernels.sha256.b": SHA["b"],
        **(metadata or {}),
    }
    tensors = {"a": entry(), "b": entry("BOOL", (2,), (8, 10)), **changes}
    header = {"__metadata__": metadata, **tensors}
    return json.dumps(header, separators=(",", ":"))


def packed(text, data=DATA):
    """A whole file around the header ``text``, sealed rightly, so that only the fault is wrong."""
    raw = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    seal = hashlib.sha256(raw.replace(b"%SEAL%", b"")).hexdigest().encode()
    raw = raw.replace(b"%SEAL%", seal)
    return len(raw).to_bytes(8, "little") + raw + data


def raw_file(length, rest=b""):
    return length.to_bytes(8, "little") + rest


def npz():
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a.npy", b"data")
    return buffer.getvalue()


def npy():
    buffer = io.BytesIO()
    np.save(buffer, np.zeros(3))
    return buffer.getvalue()


TINY = {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]}
HOSTILE = {
    "empty file": (b"", "truncated or no safetensors"),
    "seven bytes": (b"\0" * 7, "truncated or no safetensors"),
    "zero header": (raw_file(0), "not a JSON object"),
    "n = 2^63": (raw_file(2**63, b"{}"), "a header of 9223372036854775808 bytes"),
    "n = 2^64 - 1": (raw_file(2**64 - 1, b"{}"), "truncated or no safetensors"),
    "n beyond the file": (raw_file(100, b"{}"), "a header of 100 bytes in a file of 10"),
    "n beyond the cap": (raw_file(2**24 + 1, bytes(2**24 + 1)), "a header of 16777217"),
    "pickle": (pickle.dumps(SAMPLE), "a pickle, which can run code and is never loaded"),
    "zip": (npz(), "a zip archive"),
    "npy": (npy(), "a NumPy .npy file"),
    "hdf5": (b"\x89HDF\r\n\x1a\n" + bytes(99), "an HDF5 file"),
    "text": (b"just some text, not a model", "no safetensors file"),
    "foreign safetensors": (safetensors.numpy.save({"a": X}), "not written by nnkernels"),
    "foreign with metadata": (
        safetensors.numpy.save({"a": X}, {"format": "pt"}),
        "not written by nnkernels",
    ),
    "newer version": (
        packed(forge({"nnkernels.format": "nnkernels.tensors/2"})),
        "written by a newer version .*upgrade",
    ),
    "version 99": (
        packed(forge({"nnkernels.format": "nnkernels.tensors/99"})),
        "written by a newer version .*upgrade",
    ),
    "version 0": (packed(forge({"nnkernels.format": "nnkernels.tensors/0"})), "unknown format"),
    "other format": (packed(forge({"nnkernels.format": "nnkernels.result/1"})), "unknown format"),
    "header is a list": (packed("[]"), "not a JSON object"),
    "leading space": (packed(" " + forge()), "not a JSON object"),
    "two objects": (packed(forge() + "{}"), "not valid JSON: Extra data"),
    "invalid UTF-8": (packed(forge().encode() + b"\xff"), "not valid JSON"),
    "deep JSON": (packed('{"a":' * 100_000), "nested too deeply"),
    "deep list": (packed('{"a":' + "[" * 1_000_000), "nested too deeply"),
    "a million entries": (
        packed("{" + ",".join(f'"{i}":0' for i in range(1_000_000)) + "}"),
        "too many entries",
    ),
    "10,001 tensors": (
        packed(forge(**{str(i): TINY for i in range(9_999)})),
        "10001 tensors, at most 10000",
    ),
    "duplicate tensor": (
        packed(forge().replace('"a":', '"a":{"dtype":"F32"},"a":', 1)),
        "a key twice",
    ),
    "duplicate dtype": (
        packed(forge().replace('{"dtype":"F32"', '{"dtype":"F32","dtype":"F32"', 1)),
        "a key twice",
    ),
    "duplicate metadata": (
        packed(forge().replace('{"nn', '{"k":"1","k":"2","nn', 1)),
        "a key twice",
    ),
    "metadata not an object": (packed('{"__metadata__":[]}'), "not written by nnkernels"),
    "metadata of numbers": (packed(forge({"k": 1})), "metadata is not all text"),
    "metadata with a lone surrogate": (packed(forge({"k": "\ud800"})), "metadata is not all text"),
    "shape of floats": (packed(forge(a=entry(shape=[2.0]))), "holds 2.0 where only integers"),
    "shape of NaN": (packed(forge(a=entry(shape=[float("nan")]))), "holds NaN where only"),
    "shape of bool": (packed(forge(a=entry(shape=[2, True]))), "'a' has an impossible shape"),
    "shape is a number": (packed(forge(a=entry(shape=2))), "'a' has an impossible shape"),
    "negative shape": (packed(forge(a=entry(shape=[-2, -1]))), "'a' has an impossible shape"),
    "rank 9": (packed(forge(a=entry(shape=[2] + [1] * 8))), "'a' has an impossible shape"),
    "huge dimension": (packed(forge(a=entry(shape=[2**64]))), "'a' has an impossible shape"),
    "5,000-digit dimension": (
        packed(forge().replace("[2]", "[" + "9" * 5_000 + "]", 1)),
        "not valid JSON",
    ),
    "shape overflow": (packed(forge(a=entry(shape=[2**62, 2**62]))), "'a' has an impossible shape"),
    "shape overflow to the true size": (
        packed(forge(a=entry(shape=[2**62 + 2, 4]))),
        "'a' has an impossible shape",
    ),
    "huge dimensions beside a zero": (
        packed(forge(c=entry(shape=[2**62, 0, 4], offsets=[10, 10]))),
        "'c' has an impossible shape",
    ),
    "shape too large for its bytes": (packed(forge(a=entry(shape=[3]))), "'a' does not fit"),
    "dtype too wide for its bytes": (packed(forge(a=entry("F64"))), "'a' does not fit"),
    "unknown dtype": (packed(forge(a=entry("F16"))), "'a' has an unknown dtype"),
    "dtype is a list": (packed(forge(a=entry(["F32"]))), "'a' has an unknown dtype"),
    "offsets reversed": (packed(forge(a=entry(offsets=[8, 0]))), "'a' does not fit"),
    "offsets negative": (packed(forge(a=entry(offsets=[-8, 0]))), "impossible offsets"),
    "three offsets": (packed(forge(a=entry(offsets=[0, 8, 8]))), "impossible offsets"),
    "offsets beyond the file": (
        packed(forge(a=entry(shape=[2**40], offsets=[0, 2**42]))),
        "hole or an overlap before tensor 'b'",
    ),
    "hole": (
        packed(forge(b=entry("BOOL", [2], [9, 11])), DATA[:8] + b"\0" + DATA[8:]),
        "hole or an overlap before tensor 'b'",
    ),
    "overlap": (
        packed(forge(b=entry("BOOL", [2], [7, 9]))),
        "hole or an overlap before tensor 'b'",
    ),
    "trailing byte": (packed(forge(), DATA + b"\0"), "take 10 bytes, the file holds 11"),
    "missing byte": (packed(forge(), DATA[:-1]), "take 10 bytes, the file holds 9"),
    "entry is a list": (packed(forge(a=[1, 2])), "'a' is not described"),
    "entry without shape": (packed(forge(a={"dtype": "F32"})), "'a' is not described"),
    "entry with more": (packed(forge(a={**entry(), "more": 1})), "'a' is not described"),
    "empty name": (packed(forge(**{"": TINY})), "tensor name ''"),
    "name with control characters": (packed(forge(**{"\x1b[2J": TINY})), "tensor name"),
    "no checksum": (packed(forge(c=TINY)), "tensor 'c' does not match its checksum"),
    "data altered": (
        packed(forge(), b"\1" + DATA[1:]),
        "tensor 'a' does not match its checksum",
    ),
    "checksums swapped": (
        packed(forge({"nnkernels.sha256.a": SHA["b"], "nnkernels.sha256.b": SHA["a"]})),
        "does not match its checksum",
    ),
    "dtype of another meaning": (
        packed(forge()).replace(b'"F32"', b'"U8" ').replace(b'"shape":[2]', b'"shape":[8]', 1),
        "header does not match its checksum",
    ),
    "no seal": (
        packed(forge().replace('"nnkernels.sha256":', '"k":', 1)),
        "header does not match its checksum",
    ),
    "bool byte of 2": (
        packed(
            forge({"nnkernels.sha256.b": hashlib.sha256(b"\2\0").hexdigest()}), DATA[:8] + b"\2\0"
        ),
        "of bool holds other bytes than 0 and 1",
    ),
}


def test_a_forged_file_without_a_fault_loads(path):
    path.write_bytes(packed(forge({"k": "v"})))
    tensors, metadata = load_tensors(path)
    assert (tensors["a"].tolist(), tensors["b"].tolist()) == ([1.0, 2.0], [True, False])
    assert metadata == {"k": "v"}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_file_is_refused_for_its_fault(path, case):
    blob, message = HOSTILE[case]
    path.write_bytes(blob)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_tensors(path)
    assert str(caught.value).startswith(f"load_tensors: cannot load {str(path)!r}: it ")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300 + len(str(path))
    assert list(path.parent.iterdir()) == [path]


HEADER_START = b'{"__metadata__":{"nnkernels.format":"nnkernels.tensors/1","k":"'
GREEDY = {
    "escapes": lambda: HEADER_START + b'\\"' * (2**23 - 50) + b'"}}',
    "wide characters": lambda: HEADER_START + "😀".encode() * (2**22 - 50) + b'"}}',
    "one wide character": lambda: HEADER_START + b"\\ud83d\\ude00" + b"a" * (2**24 - 100) + b'"}}',
    "unterminated": lambda: b'{"' + b'\\"' * (2**23 - 50),
    "many strings": lambda: b"{" + b'"":"",' * (2**24 // 6 - 1) + b'"":""}',
    "many numbers": lambda: b'{"a":[' + b"0," * (2**23 - 10) + b"0]}",
    "one number": lambda: b'{"a":' + b"1" * (2**24 - 10) + b"}",
}


# Prints the refusal and the growth of the peak of the resident memory, in KiB.
PEAK_OF_LOADING = """
import sys
from nnkernels.nn.tensorfile import CheckpointError, load_tensors

def peak():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))

before = peak()
try:
    load_tensors(sys.argv[1])
except CheckpointError as error:
    print(error)
print(peak() - before)
"""


@pytest.mark.parametrize("case", GREEDY)
def test_a_header_at_the_cap_costs_little_memory(path, case):
    header = GREEDY[case]()
    assert len(header) <= tensorfile.MAX_HEADER_BYTES
    path.write_bytes(raw_file(len(header), header))
    child = run_python("-c", PEAK_OF_LOADING, str(path))
    assert child.returncode == 0, child.stderr
    message, kibibytes = child.stdout.splitlines()
    assert "it is damaged" in message
    assert int(kibibytes) < 120 << 10


def test_a_sparse_file_of_a_terabyte_takes_no_memory(path, monkeypatch):
    path.write_bytes(packed(forge(a=entry("U8", [2**40 - 10], [0, 2**40 - 10]), b=TINY), b""))
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size + 2**40 - 10)

    def refuse(shape, dtype):
        raise MemoryError(f"{shape} of {dtype}")

    monkeypatch.setattr(tensorfile.np, "empty", refuse)
    with pytest.raises(CheckpointError, match="not enough memory for its tensors"):
        load_tensors(path)


def test_a_file_that_shrinks_while_it_is_read_is_refused(saved, monkeypatch):
    read_header_first = tensorfile._read_header

    def then_cut(file):
        header = read_header_first(file)
        os.truncate(saved, 8)
        return header

    monkeypatch.setattr(tensorfile, "_read_header", then_cut)
    save_tensors(saved, {"big": np.zeros(100_000)}, {})
    with pytest.raises(CheckpointError, match="truncated in tensor 'big'"):
        load_tensors(saved)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("missing", "No such file"),
        ("folder", "Is a directory"),
        ("pipe", "it is not a regular file"),
        ("device", "it is not a regular file"),
        ("link to itself", "Too many levels"),
    ],
)
def test_what_is_no_file_is_refused_at_once(path, kind, message):
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path = Path("/dev/zero")
    elif kind == "link to itself":
        path.symlink_to(path)
    with pytest.raises(CheckpointError, match=message):
        load_tensors(path)


# Damage: any edit is refused or changes nothing


def refused_or_equal(path, blob, expected):
    path.write_bytes(blob)
    try:
        return contents(path) == expected
    except CheckpointError:
        return True


def test_every_byte_is_protected(saved):
    blob = saved.read_bytes()
    for position, flip in itertools.product(range(len(blob)), (0x01, 0x20, 0x80)):
        altered = bytearray(blob)
        altered[position] ^= flip
        saved.write_bytes(altered)
        with pytest.raises(CheckpointError):
            load_tensors(saved)


def test_every_truncation_is_refused(saved):
    blob = saved.read_bytes()
    for length in range(len(blob)):
        saved.write_bytes(blob[:length])
        with pytest.raises(CheckpointError):
            load_tensors(saved)


def mutated(blob, rng):
    """``blob`` with one random fault: bytes changed, removed, repeated, inserted or moved."""
    i, j = sorted(rng.randrange(len(blob) + 1) for _ in range(2))
    kind = rng.randrange(6)
    if kind < 2:
        count = rng.choice((1, 1, 2, 8))
        i = rng.randrange(len(blob))
        return blob[:i] + rng.randbytes(count) + blob[i + count :]
    if kind == 2:
        return blob[:i] + blob[j:]
    if kind == 3:
        return blob[:j] + blob[i:]
    if kind == 4:
        return blob[:i] + rng.randbytes(rng.randrange(1, 9)) + blob[i:]
    return blob[j:] + blob[i:j] + blob[:i]


@pytest.mark.parametrize(
    ("seed", "count"), [(1, 3_000), pytest.param(2, 200_000, marks=pytest.mark.slow)]
)
def test_random_damage_is_refused_or_changes_nothing(saved, seed, count):
    blob, expected, rng = saved.read_bytes(), contents(saved), random.Random(seed)
    for number in range(count):
        damaged = mutated(blob, rng)
        assert refused_or_equal(saved, damaged, expected), (seed, number, damaged)


# Kill -9 while saving, in processes of its own (this file run as a script)


def save_for_ever(path, step, size, acknowledge):
    while True:
        tensors = {"step": np.array(step), "weight": np.full(size, step, np.float32)}
        save_tensors(path, tensors, {"step": str(step)})
        os.write(acknowledge, step.to_bytes(8, "little"))
        step += 1


def killed_after(seconds, path, step, size):
    """Save from ``step`` on in a child, kill it; the last step whose save had returned."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        save_for_ever(path, step, size, writer)
    os.close(writer)
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    with os.fdopen(reader, "rb") as pipe:
        acknowledged = pipe.read()
    return int.from_bytes(acknowledged[-8:], "little")


def kill_loop(path, cycles):
    """Kill savers at random moments; how often a temporary file was left."""
    rng, step, orphans = random.Random(cycles), 0, 0
    save_tensors(path, {"step": np.array(0), "weight": np.zeros(1, np.float32)}, {"step": "0"})
    for cycle in range(cycles):
        size = (100, 30_000, 1_000_000)[cycle % 3]
        acknowledged = killed_after(rng.uniform(0.002, 0.03), path, step + 1, size)
        tensors, metadata = load_tensors(path)
        found = int(tensors["step"])
        assert metadata == {"step": str(found)}
        assert (tensors["weight"] == found).all()
        assert found >= max(step, acknowledged), (cycle, found, step, acknowledged)
        orphans += len(list(path.parent.iterdir())) > 1
        step = found
    save_tensors(path, {}, {})
    assert list(path.parent.iterdir()) == [path]
    return {"orphans": orphans, "steps": step}


@pytest.mark.parametrize("cycles", [60, pytest.param(2_000, marks=pytest.mark.slow)])
def test_kill_9_while_saving_never_corrupts_and_never_goes_back(path, cycles):
    child = run_python(__file__, str(path), str(cycles))
    assert child.returncode == 0, child.stderr
    outcome = json.loads(child.stdout)
    assert outcome["steps"] > 0
    assert outcome["orphans"] > 0  # else no kill fell into a save, and this test shows nothing


if __name__ == "__main__":
    print(json.dumps(kill_loop(Path(sys.argv[1]), int(sys.argv[2]))))
