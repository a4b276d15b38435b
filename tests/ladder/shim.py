"""Kernels compiled for the host by g++ with AddressSanitizer and UBSan, run by a child process.

``shim/cuda_host_shim.h`` gives the sources threads, barriers and warps. The child takes a job on
its standard input and prints a line before every case, so that a sanitizer that ends it leaves
behind which case it was.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ladder import cases
from ladder.cases import Case
from ladder.trials import Trial, multiply

from nnkernels.backends.cupy import sources
from nnkernels.backends.cupy.launching import Launch, Product, packed_arguments

HEADER = Path(__file__).parent / "shim" / "cuda_host_shim.h"
MESSAGE_BYTES = 500

OPTIONS = (
    "-std=c++17",
    "-O1",
    "-g1",
    "-w",
    "-fPIC",
    "-shared",
    "-Wl,-Bsymbolic",  # the C library has an `advance` and a `step` of its own
    "-ffp-contract=off",
    "-fsanitize=address,undefined",
    "-fno-sanitize-recover=undefined",
)


class Failure(NamedTuple):
    """A case that went wrong, and how."""

    case: str
    what: str


# --- building -----------------------------------------------------------------------------------


def launcher(signature: sources.Signature) -> str:
    """C++ that runs one kernel on an array of pointers to its arguments."""
    types = [
        f"{'const ' if p.const else ''}{p.type}{'*' if p.pointer else ''}"
        for p in signature.parameters
    ]
    arguments = ", ".join(f"*({t}*)arguments[{i}]" for i, t in enumerate(types))
    return (
        f'extern "C" void launch_{signature.name}(const unsigned* shape, void** arguments, '
        f"unsigned seed, char* message) {{\n"
        f"  const auto fault = shim::launch([=] {{ {signature.name}({arguments}); }},\n"
        f"      {{shape[0], shape[1], 1}}, shape[2], shape[3], shape[4], seed);\n"
        f'  snprintf(message, {MESSAGE_BYTES}, "%s", fault.c_str());\n}}\n'
    )


def build(text: str, module: str, storage: str, folder: Path) -> Path:
    """The library of a module's source for one storage type; compiled if it is not there.

    Raises:
        subprocess.CalledProcessError: g++ refuses it.
    """
    launchers = "".join(map(launcher, sources.signatures(module).values()))
    program = f"{text}\n{launchers}"
    made_of = (HEADER.read_text(), program, storage, *OPTIONS)
    key = hashlib.sha256("\0".join(made_of).encode()).hexdigest()[:16]
    library = folder / f"{module}-{storage}-{key}.so"
    if not library.exists():
        source, made = library.with_suffix(".cpp"), library.with_suffix(f".{os.getpid()}")
        source.write_text(program)
        storage_option = f"-DNNK_STORAGE={sources.STORAGES[storage]}"
        command = ["g++", *OPTIONS, storage_option, "-include", str(HEADER), str(source)]
        subprocess.run(
            [*command, "-o", str(made)], check=True, capture_output=True, text=True, timeout=300
        )
        made.replace(library)
    return library


# --- the child ----------------------------------------------------------------------------------


class Shim:
    """Runs trials with libraries that are loaded.

    Args:
        libraries: paths by module.
        seed: chooses the order of threads and blocks.
    """

    def __init__(self, libraries: Mapping[str, str], seed: int) -> None:
        self.libraries = {module: ctypes.CDLL(path) for module, path in libraries.items()}
        self.seed = seed

    def run(self, trial: Trial) -> str:
        """Run all launches; a fault of the shim, or nothing."""
        for item in trial.launches:
            if isinstance(item, Product):
                multiply(item)
            elif fault := self._launch(item, trial.tail):
                return fault
        return ""

    def _launch(self, launch: Launch, tail: bool) -> str:
        function = getattr(self.libraries[launch.module], f"launch_{launch.kernel}")
        values = [_holder(argument) for argument in packed_arguments(launch)]
        pointers = (ctypes.c_void_p * len(values))(*(v.ctypes.data for v in values))
        blocks = launch.grid[0] * launch.grid[1]
        part = (blocks - 1, 1) if tail else (0, blocks)
        shape = (ctypes.c_uint * 5)(*launch.grid, launch.block, *part)
        message = ctypes.create_string_buffer(MESSAGE_BYTES)
        function(shape, pointers, ctypes.c_uint(self.seed), message)
        return message.value.decode()


def _holder(argument: Any) -> np.ndarray:
    """An array of one element that holds an argument: a number, or an address."""
    if isinstance(argument, np.ndarray):
        return np.array(argument.data.ptr, np.uint64)
    return np.array(argument)


def yield_memory() -> None:
    """Where memory runs out, as in an endless loop over it, Linux ends this process first."""
    score = Path("/proc/self/oom_score_adj")
    if score.exists():
        score.write_text("1000")


def child(job: Mapping[str, Any]) -> None:
    """Run a job's cases; print its progress and every failure, a JSON line each."""
    wanted = set(job["cases"])
    chosen = [case for case in cases.host_cases() if str(case) in wanted]
    for seed in job["seeds"]:
        shim = Shim(job["libraries"], seed)
        for case in chosen:
            print(json.dumps({"begins": str(case)}), flush=True)
            trial = case.build(job["storage"])
            fault = shim.run(trial)
            found = [fault] if fault else trial.faults()
            for what in found:
                print(json.dumps({"case": str(case), "what": f"seed {seed}: {what}"}), flush=True)
            if found and job["stop"]:
                return


# --- the parent ---------------------------------------------------------------------------------


@functools.cache
def sanitizer() -> str:
    """The path of AddressSanitizer's library."""
    found = subprocess.run(
        ["g++", "-print-file-name=libasan.so"], check=True, capture_output=True, text=True
    )
    return found.stdout.strip()


def run_cases(
    libraries: Mapping[str, Path],
    storage: str,
    chosen: Iterable[Case],
    seeds: Sequence[int],
    *,
    stop: bool = False,
    timeout: float = 600,
) -> list[Failure]:
    """Run cases in a child; what failed, the end of the child included.

    Args:
        libraries: compiled modules.
        storage: the storage type.
        chosen: which cases.
        seeds: of orders, which all cases run in.
        stop: at the first failure.
        timeout: seconds for all of them.

    Raises:
        subprocess.TimeoutExpired: the child did not end.
    """
    job = {
        "libraries": {module: str(path) for module, path in libraries.items()},
        "storage": storage,
        "cases": [str(case) for case in chosen],
        "seeds": list(seeds),
        "stop": stop,
    }
    environment = {
        **os.environ,
        "LD_PRELOAD": sanitizer(),
        "ASAN_OPTIONS": "detect_leaks=0:abort_on_error=0",
        "OPENBLAS_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    done = subprocess.run(
        [sys.executable, "-m", "ladder.shim"],
        input=json.dumps(job),
        capture_output=True,
        text=True,
        env=environment,
        timeout=timeout,
    )
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    failures = [Failure(line["case"], line["what"]) for line in lines if "case" in line]
    if done.returncode:
        last = next((line["begins"] for line in reversed(lines) if "begins" in line), "the start")
        failures.append(Failure(last, _first_complaint(done.stderr, done.returncode)))
    return failures


def _first_complaint(stderr: str, returncode: int) -> str:
    lines = [line for line in stderr.splitlines() if "ERROR" in line or "runtime error" in line]
    if not lines and returncode < 0:
        return f"the child was ended by signal {-returncode}"
    return (lines or stderr.splitlines() or ["the child ended"])[0][:300]


if __name__ == "__main__":
    yield_memory()
    child(json.loads(sys.stdin.read()))
