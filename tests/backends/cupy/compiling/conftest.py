"""Sources of a few lines instead of the real ones, and a compiler that counts."""

from __future__ import annotations

import pytest

from nnkernels.backends.cupy import sources

SCALE = """
#if NNK_STORAGE == 2
typedef double T;
#else
typedef float T;
#endif
extern "C" __global__ void __launch_bounds__(256) scale(T* x, T factor, unsigned n) {
  const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) x[i] *= factor;
}
"""


@pytest.fixture
def device_folder(tmp_path, monkeypatch):
    """A folder of modules in the place of the package's own: ``scale`` and ``wrong``."""
    folder = tmp_path / "csrc" / "device"
    folder.mkdir(parents=True)
    (folder / "scale.cu").write_text(SCALE)
    (folder / "wrong.cu").write_text('extern "C" __global__ void wrong() { missing(); }\n')
    monkeypatch.setattr(sources, "DEVICE", folder)
    for cached in (sources.amalgamated, sources.module_names, sources.signatures):
        cached.cache_clear()
    yield folder
    for cached in (sources.amalgamated, sources.module_names, sources.signatures):
        cached.cache_clear()


class NVRTCError(RuntimeError):
    """As CuPy's."""


class FakeNvrtc:
    """As much of ``cupy.cuda.nvrtc`` as compiling needs; "compiles" to the text itself."""

    NVRTCError = NVRTCError

    def __init__(self, version=(13, 0), supported=(75, 80, 90)):
        self.version, self.supported = version, supported
        self.compiled = []
        self.alive = {}

    def getVersion(self):
        return self.version

    def getSupportedArchs(self):
        return self.supported

    def createProgram(self, source, name, headers, include_names):
        number = len(self.compiled) + len(self.alive) + 1
        self.alive[number] = (source, name)
        return number

    def compileProgram(self, program, options):
        source, name = self.alive[program]
        self.compiled.append((name, options))
        if "missing()" in source:
            raise NVRTCError("NVRTC_ERROR_COMPILATION (6)")
        self.alive[program] = (source, name, options)

    def getProgramLog(self, program):
        return "wrong.cu(1): error: identifier 'missing' is undefined\n"

    def getCUBIN(self, program):
        return repr(self.alive[program]).encode()

    def getPTX(self, program):
        return b"// ptx\n" + repr(self.alive[program]).encode()

    def destroyProgram(self, program):
        del self.alive[program]


@pytest.fixture
def nvrtc():
    return FakeNvrtc()
