"""The library: found, asked who it is, refused with the remedy; and what its tables declare."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from nnkernels import explain, plugins
from nnkernels import signature as sig
from nnkernels.backends._compiled import record
from nnkernels.backends.native import kernels, library, load
from nnkernels.errors import BackendUnavailableError
from nnkernels.spec import OPERATORS, get_op
from nnkernels.testing.samples import parameter_sets

ABI = f"long long nnk_abi(void) {{ return {library.ABI}; }}"
OURS = f'const char *nnk_sources(void) {{ return "{library.digest(library.CSRC)}"; }}'
NO_VARIANTS = "const char *nnk_variant(long long n, long long *runs) { return 0; }"
TWO_VARIANTS = """
const char *nnk_variant(long long number, long long *runs) {
  *runs = number == 1;
  return number == 0 ? "future" : number == 1 ? "plain" : 0;
}
"""


def compiled(folder: Path, *parts: str) -> Path:
    """A shared library of this C."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler")
    source, made = folder / "fake.c", folder / "fake.so"
    source.write_text("\n".join(parts))
    subprocess.run([compiler, "-shared", "-fPIC", "-o", made, source], check=True)
    return made


REFUSED = {
    "nothing": ((), "is no library of nnkernels: it has no nnk_abi"),
    "another interface": (
        (f"long long nnk_abi(void) {{ return {library.ABI + 1}; }}",),
        f"has the interface {library.ABI + 1}, this nnkernels has {library.ABI}",
    ),
    "no digest": ((ABI,), "is no library of nnkernels: it has no nnk_sources"),
    "other sources": (
        (ABI, 'const char *nnk_sources(void) { return "0123"; }'),
        "was built from other sources than this nnkernels has",
    ),
    "no variants": ((ABI, OURS), "is no library of nnkernels: it has no nnk_variant"),
    "none that runs": ((ABI, OURS, NO_VARIANTS), "has no code for this processor"),
}


@pytest.mark.parametrize(("parts", "why"), REFUSED.values(), ids=REFUSED)
def test_a_library_that_is_not_ours_is_refused_with_the_remedy(parts, why, tmp_path):
    path = compiled(tmp_path, *parts)
    with pytest.raises(BackendUnavailableError) as caught:
        library.Library(path)
    assert why in str(caught.value)
    assert str(path) in str(caught.value)
    assert library.remedy() in str(caught.value)


@pytest.mark.parametrize("text", [None, "", "no library"])
def test_what_is_no_library_is_refused(text, tmp_path, monkeypatch):
    path = tmp_path / "lib.so"
    if text is not None:
        path.write_text(text)
    monkeypatch.setenv(library.PATH_VARIABLE, str(path))
    with pytest.raises(BackendUnavailableError, match="cannot be opened") as caught:
        load()
    assert library.remedy() in str(caught.value)


def test_where_there_is_none_the_reason_is_one_sentence_with_the_remedy(tmp_path, monkeypatch):
    monkeypatch.delenv(library.PATH_VARIABLE, raising=False)
    monkeypatch.setattr(library, "paths", lambda: iter([tmp_path / library.NAME]))
    assert library.find() is None
    with pytest.raises(BackendUnavailableError, match=r"its C\+\+ library was not built.*pip"):
        load()


@pytest.mark.parametrize("asked", ["future", "avx10", "PLAIN"])
def test_an_instruction_set_that_cannot_be_used_is_refused(asked, tmp_path, monkeypatch):
    """Known to the library but not to the processor, or to neither."""
    path = compiled(tmp_path, ABI, OURS, TWO_VARIANTS)
    monkeypatch.setenv(library.VARIANT_VARIABLE, asked)
    with pytest.raises(BackendUnavailableError, match=r"choose one of: plain$"):
        library.Library(path)


@pytest.mark.parametrize("asked", ["", "plain"])
def test_the_best_instruction_set_that_runs_is_taken(asked, tmp_path, monkeypatch):
    path = compiled(tmp_path, ABI, OURS, TWO_VARIANTS)
    monkeypatch.setenv(library.VARIANT_VARIABLE, asked)
    opened = library.Library(path)
    assert opened.variant == "plain"
    assert opened.variants == {"future": False, "plain": True}


def test_an_unusable_library_is_exit_code_3(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "nnkernels", "verify", "native", "-k", "relu"],
        env={"PATH": "", "PYTHONPATH": ":".join(sys.path), library.PATH_VARIABLE: "/nowhere"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 3
    assert "'/nowhere' cannot be opened" in done.stderr


def test_the_digest_changes_with_every_source(tmp_path):
    for folder in ("host", "arithmetic"):
        shutil.copytree(library.CSRC / folder, tmp_path / folder)
    whole = library.digest(tmp_path)
    assert whole == library.digest(library.CSRC)
    seen = {whole}
    for path in sorted(tmp_path.rglob("*.*")):
        text = path.read_bytes()
        path.write_bytes(text + b"\n")
        seen.add(library.digest(tmp_path))
        path.write_bytes(text)
    assert len(seen) == 1 + len(list(tmp_path.rglob("*.*"))) > 20


# --- what it declares ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def opened(native) -> library.Library:
    path = library.find()
    assert path is not None
    return library.Library(path)


def test_it_says_what_it_was_built_with(opened):
    assert opened.compiler.split()[0] in ("GNU", "Clang", "AppleClang", "IntelLLVM")
    assert list(opened.variants)[-1] == "baseline"
    assert opened.variants["baseline"]
    assert opened.vector_bits in (128, 256, 512)


def test_there_are_no_kernels_of_a_variant_or_dtype_that_it_does_not_have(opened):
    ask = opened._function("nnk_kernels_of", library._Kernels, ctypes.c_char_p, ctypes.c_int64)
    for variant, dtype in ((b"avx10", 0), (b"", 0), (b"baseline", 2), (b"baseline", -1)):
        assert ask(variant, dtype).count == 0
    assert ask(b"baseline", 0).count == len(list(opened.declarations()))


def test_both_dtypes_declare_the_same(opened):
    fields = ("op", "arguments", "over", "makes", "alternative")
    rows = {
        dtype: [tuple(getattr(t.first[n], f) for f in fields) for n in range(t.count)]
        for dtype, t in opened.tables.items()
    }
    assert rows["float32"] == rows["float64"]
    assert len(rows["float32"]) > 80
    addresses = [t.first[n].call for t in opened.tables.values() for n in range(t.count)]
    assert all(addresses)


def test_only_known_operators_arrays_and_parameters_are_declared(opened):
    """Their layouts can be made for every alternative, and ``over`` is one of their dimensions."""
    parts = {"_own", "_packed", "_blas", "_sums", "_transpose"}
    for op_name, code, over, makes, alternative in opened.declarations():
        if op_name.startswith("_"):
            parts.remove(op_name)
            continue
        op = get_op(op_name)
        params = parameter_sets(op, np.dtype("float32"))[0]
        signatures = op.signatures(params)
        chosen = signatures if alternative is None else (signatures[alternative],)
        for signature in chosen:
            scratch = kernels.WORKSPACES.get(op_name, "")
            given = record.operands(op, signature, scratch, params)
            layout = record.lay_out(code, given, "float32", over)
            assert len(layout.fields) == len(code.parameters)
            outputs = set(record.output_names(op, signature))
            names = {a.name for a in sig.parse_arguments(scratch)}
            assert set(makes or ()) <= outputs | names, op_name
            labels = {d.rstrip("+") for a in given.arrays.values() for d in a.dims}
            assert over is None or over in labels, op_name
    assert not parts


def test_explain_tells_compiled_code_from_python(native):
    (choice,) = explain("softplus", native)
    assert (choice.kernel, choice.file) == ("compiled code of native", "")
    assert choice.why == "kernel of native"


def test_every_operator_of_the_catalogue_has_a_kernel(native):
    compiled_by_numba = set(plugins.load("numba").kernels)
    assert set(native.kernels) == compiled_by_numba
    own = {n for n, op in OPERATORS.items() if op.__module__.startswith("nnkernels.catalog.")}
    assert {n for n, why in native.coverage().items() if why == "fallback"} & own == set()
