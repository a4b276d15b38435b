from __future__ import annotations

import hashlib

import pytest

from nnkernels.backends.cupy.compiling import compiler
from nnkernels.backends.cupy.compiling.compiler import Target, compile_module, target_for
from nnkernels.errors import BackendError, InputError, UnknownNameError

pytestmark = pytest.mark.usefixtures("device_folder")


@pytest.mark.parametrize(
    ("capability", "target"),
    [(80, "sm_80"), (90, "sm_90"), (86, "compute_80"), (120, "compute_90")],
)
def test_a_gpu_gets_its_own_code_or_the_newest_ptx_that_it_can_run(nvrtc, capability, target):
    assert str(target_for(nvrtc, capability)) == target


def test_a_gpu_that_is_too_old_is_refused_with_the_remedy(nvrtc):
    with pytest.raises(BackendError, match=r"sm_75 and newer, this GPU is sm_70; .*cuda12"):
        target_for(nvrtc, 70)


def test_targets_by_name(nvrtc):
    assert compiler.parse_target(nvrtc, "sm_90") == Target(90)
    assert compiler.parse_target(nvrtc, "compute_80") == Target(80, virtual=True)
    assert Target(90).suffix == "cubin" and Target(80, virtual=True).suffix == "ptx"


@pytest.mark.parametrize("name", ["sm_91", "90", "sm_90a", "SM_90", ""])
def test_an_unknown_target_is_refused_with_those_there_are(nvrtc, name):
    with pytest.raises(InputError, match=r"NVRTC 13\.0 compiles for sm_75, sm_80, sm_90"):
        compiler.parse_target(nvrtc, name)


def test_a_module_is_compiled_with_the_flags_of_its_storage_and_target(nvrtc):
    compile_module(nvrtc, "scale", "float64", Target(90))
    compile_module(nvrtc, "scale", "float16", Target(80, virtual=True))
    common = ("--std=c++17", "-ftz=true")
    assert nvrtc.compiled == [
        ("scale.cu", (*common, "-DNNK_STORAGE=2", "-arch=sm_90")),
        ("scale.cu", (*common, "-DNNK_STORAGE=3", "-arch=compute_80")),
    ]
    assert nvrtc.alive == {}


def test_the_byte_that_cupy_cuts_off_a_cubin_is_restored_and_ptx_left_alone(nvrtc):
    assert compile_module(nvrtc, "scale", "float32", Target(90)).endswith(b")\0")
    assert compile_module(nvrtc, "scale", "float32", Target(90, virtual=True)).endswith(b")")


def test_an_error_names_module_storage_target_compiler_and_has_the_log(nvrtc):
    message = (
        r"(?s)module 'wrong' does not compile for float16 arrays on sm_90: .*another NVRTC than "
        r"13\.0 .*nnkernels\[cuda13\].*:\nwrong.cu\(1\): error: identifier 'missing' is undefined$"
    )
    with pytest.raises(BackendError, match=message):
        compile_module(nvrtc, "wrong", "float16", Target(90))
    assert nvrtc.alive == {}


def test_unknown_modules_and_storages_are_refused(nvrtc):
    with pytest.raises(UnknownNameError, match="kernel module 'scales'"):
        compile_module(nvrtc, "scales", "float32", Target(90))
    with pytest.raises(UnknownNameError, match="storage type 'int8'"):
        compile_module(nvrtc, "scale", "int8", Target(90))


# --- the real one ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real():
    nvrtc = pytest.importorskip("cupy").cuda.nvrtc
    try:
        nvrtc.getVersion()
    except Exception as error:
        pytest.skip(f"no NVRTC: {error}")
    return nvrtc


def test_the_real_compiler_makes_whole_elf_files_the_same_every_time(real):
    target = Target(compiler.supported(real)[-1])
    cubins = [compile_module(real, "scale", "float32", target) for _ in range(2)]
    assert cubins[0].startswith(b"\x7fELF")
    assert len({hashlib.sha256(each).digest() for each in cubins}) == 1
    assert len(cubins[0]) == _elf_size(cubins[0])
    assert compile_module(real, "scale", "float64", target) != cubins[0]


def _elf_size(data: bytes) -> int:
    """Where the last of section contents, section headers and program headers ends."""
    header = {name: int.from_bytes(data[at : at + size], "little") for name, at, size in _ELF}
    ends = [header["phoff"] + header["phentsize"] * header["phnum"]]
    ends.append(header["shoff"] + header["shentsize"] * header["shnum"])
    return max(ends)


_ELF = (
    ("phoff", 32, 8),
    ("shoff", 40, 8),
    ("phentsize", 54, 2),
    ("phnum", 56, 2),
    ("shentsize", 58, 2),
    ("shnum", 60, 2),
)


def test_the_real_compiler_makes_ptx(real):
    oldest = compiler.supported(real)[0]
    text = compile_module(real, "scale", "float32", Target(oldest, virtual=True)).decode()
    assert f".target sm_{oldest}" in text and ".entry scale(" in text and "\0" not in text


def test_the_real_compiler_gives_its_log(real):
    with pytest.raises(BackendError, match=r'identifier "missing" is undefined'):
        compile_module(real, "wrong", "float32", Target(compiler.supported(real)[0]))
