"""The command line of the comparison: what it takes, and what it refuses."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from benchmarks.peers import catalogue, mnist, npbench
from benchmarks.peers.session import INTERRUPTED, Plan, run
from nnkernels.bench.harness.networks import NETWORKS
from nnkernels.bench.select import parse
from nnkernels.cli._app import USAGE, check_target
from nnkernels.errors import InputError, NnkernelsError
from nnkernels.names import split_names

PROGRAM = "python -m benchmarks.peers"
TABLES = ("consecutive", "shuffled")

DESCRIPTION = """\
Time nnkernels' training steps beside PyTorch's, JAX's, scikit-learn's and those
of the textbooks' NumPy: the same networks, weights and batches, every candidate
in a process of its own, in turns. Before it is timed, each one's first update
is compared with float64: a wrong one is not timed.

  W1  784-64-32-10, sigmoid, squared error, SGD, batches of 32
  W2  784-512-512-10, relu, softmax cross-entropy, Adam, 128
  W3  1024-4096-4096-1000, relu, softmax cross-entropy, momentum, 512
  W4  20-64-64-1, tanh, mean squared error, Adam, 256

The peers come with: python -m pip install '.[peers]'
"""

EXAMPLES = """\
examples:
  python -m benchmarks.peers --quick                    a fast look, smaller networks
  python -m benchmarks.peers -k "W1 or W4" --threads 1
  python -m benchmarks.peers --candidates nnkernels,jax-loop --json run.json
  python -m benchmarks.peers --npbench ~/npbench -k "mlp or softmax"
  python -m benchmarks.peers --busy -k W1               beside a busy process
  python -m benchmarks.peers --mnist-target             seconds to 98 % on MNIST

OPENBLAS_CORETYPE and OPENBLAS_L2_SIZE slow NumPy down where they are set:
  env -u OPENBLAS_CORETYPE -u OPENBLAS_L2_SIZE python -m benchmarks.peers

exit codes: 0 measured; 1 nnkernels was wrong or failed; 2 bad arguments
"""


class Parser(argparse.ArgumentParser):
    """Answers a mistake with one line."""

    def error(self, message: str) -> NoReturn:
        """Print it and exit."""
        self.exit(USAGE, f"{PROGRAM}: {message}; see '{PROGRAM} --help'\n")


def parser() -> Parser:
    """All options."""
    made = Parser(
        prog=PROGRAM,
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    mode = made.add_mutually_exclusive_group()
    mode.add_argument(
        "--npbench",
        type=Path,
        metavar="DIR",
        help="add the CPU forms of NPBench's mlp and softmax, from a checkout of spcl/npbench",
    )
    mode.add_argument(
        "--busy",
        action="store_true",
        help="instead: nnkernels beside a process that keeps one CPU busy",
    )
    mode.add_argument(
        "--mnist-target",
        action="store_true",
        help=f"instead: seconds of training to {100 * mnist.TARGET:.0f} %% on MNIST, whose folder "
        f"the variable {mnist.VARIABLE} names, beside PyTorch and JAX",
    )
    made.add_argument(
        "-k", dest="expression", metavar="EXPR", help="workloads: words, and, or, not, ( )"
    )
    made.add_argument(
        "--candidates",
        metavar="NAMES",
        default="",
        help="of the training steps only these, separated by commas: "
        f"{', '.join(catalogue.names())}",
    )
    made.add_argument(
        "--backend",
        action="append",
        default=[],
        metavar="NAME",
        help=f"of nnkernels; may be repeated (default: {catalogue.PREFERRED}; where that is "
        "missing, numpy)",
    )
    made.add_argument(
        "--threads",
        type=int,
        nargs="+",
        metavar="N",
        help="numbers of threads (default: 1 2; with --mnist-target: 2)",
    )
    made.add_argument(
        "--table",
        choices=TABLES,
        help="only batches that are consecutive slices, or that are gathered from shuffled epochs "
        "(default: both)",
    )
    made.add_argument(
        "--rounds",
        type=int,
        metavar="N",
        help="samples of every candidate; with --mnist-target, trainings from other weights "
        "(default: 6 and 3; quick: 2 and 1)",
    )
    made.add_argument(
        "--quick",
        action="store_true",
        help="short rounds, and smaller workloads: a look, not a measurement",
    )
    made.add_argument("--json", type=Path, metavar="FILE", help="write everything that was found")
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; the exit code. No mistake of the user's becomes a traceback."""
    try:
        options = parser().parse_args(arguments)
        return run(plan(options, list(sys.argv[1:] if arguments is None else arguments)))
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else USAGE
    except NnkernelsError as error:
        print(f"{PROGRAM}: {' '.join(str(error).split())}", file=sys.stderr)
        return USAGE
    except KeyboardInterrupt:
        return INTERRUPTED


def plan(options: argparse.Namespace, argv: list[str]) -> Plan:
    """The options, checked, with their defaults.

    Raises:
        InputError: one that cannot be used, or that the mode would ignore.
    """
    _check_mode(options)
    check_target("--json", options.json)
    if options.npbench is not None:
        npbench.check_checkout(options.npbench)
    if options.mnist_target:
        mnist.folder()
    found = catalogue.choose(split_names(options.candidates), options.backend)
    return Plan(
        argv=argv,
        mode="busy" if options.busy else "mnist" if options.mnist_target else "steps",
        workloads=_workloads(options),
        tables=(options.table,) if options.table else TABLES,
        candidates=_candidates(options, found),
        threads=_threads(options),
        samples=_samples(options),
        quick=options.quick,
        npbench=options.npbench,
        json=options.json,
    )


def _check_mode(options: argparse.Namespace) -> None:
    """Refuse options that the mode has no use for."""
    useless: dict[str, Any] = {}
    if options.busy:
        useless = {"--candidates": options.candidates, "--table": options.table}
    if options.mnist_target:
        useless = {"-k": options.expression, "--table": options.table}
    for name, value in useless.items():
        if value:
            mode = "--busy" if options.busy else "--mnist-target"
            raise InputError(f"{name} has no meaning with {mode}; leave one of them out")
    chosen = split_names(options.candidates)
    if options.backend and chosen and catalogue.OURS not in chosen:
        raise InputError("--backend has no meaning where --candidates leaves nnkernels out")


def _workloads(options: argparse.Namespace) -> list[str]:
    known = [network.name for network in NETWORKS["default"]]
    if options.npbench is not None:
        known += npbench.WORKLOADS
    if options.expression is None:
        return known
    matches = parse(options.expression)
    found = [
        name for name in known if matches(lambda word, name=name: word.lower() in name.lower())
    ]
    if not found:
        raise InputError(f"-k {options.expression!r} matches none of {', '.join(known)}")
    return found


def _candidates(
    options: argparse.Namespace, found: list[catalogue.Candidate]
) -> list[catalogue.Candidate]:
    if options.busy:
        return [candidate for candidate in found if candidate.kind == "ours"]
    return mnist.choose(found) if options.mnist_target else found


def _threads(options: argparse.Namespace) -> list[int]:
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    default = [2] if options.mnist_target else [1, 2]
    counts = options.threads or [count for count in default if count <= (usable or 1)] or [1]
    for count in counts:
        if not 1 <= count <= (usable or 1):
            raise InputError(f"--threads {count}: this process may use 1 to {usable}")
    if options.busy and len(set(counts)) < 2:
        raise InputError("--busy compares numbers of threads: give two, as in --threads 1 2")
    return sorted(set(counts))


def _samples(options: argparse.Namespace) -> int:
    if options.rounds is None:
        full, quick = (3, 1) if options.mnist_target else (6, 2)
        return quick if options.quick else full
    if options.rounds < 1:
        raise InputError(f"--rounds {options.rounds}: give 1 or more")
    return options.rounds
