"""All examples, one after the other."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence

from nnkernels.backend import Backend
from nnkernels.data.sources.mnist import find
from nnkernels.dispatch import get_backend
from nnkernels.errors import InputError, unknown
from nnkernels.files import as_path
from nnkernels.reproduce import mnist as digits
from nnkernels.reproduce import operators, perceptron, small_networks
from nnkernels.reproduce.figures import Figure, Progress, Section, published

EXAMPLES: dict[str, tuple[str, Callable[[Backend], list[Figure]]]] = {
    "Matrix product": ("matmul", operators.matmul),
    "Parameter count": ("parameter_count", small_networks.parameter_count),
    "Cross-entropy": ("categorical_cross_entropy_one_row", operators.cross_entropies),
    "Perceptron step": ("perceptron_step", operators.perceptron_step),
    "Perceptron rule": ("perceptron_step", perceptron.learning),
    "Dense layer": ("dense_layer_relu_batching", operators.dense_layer),
    "2-3-1 network": ("toy_mlp", small_networks.toy_mlp),
    "Learning rates": ("learning_rate", small_networks.learning_rates),
}
"""By title: the entry of the published figures that names the source, and what computes ours."""

GIVE_MNIST = "give the folder of MNIST's IDX files with --mnist DIR or NNKERNELS_MNIST=DIR"


def reproduce(
    backend: str | Backend = "auto",
    *,
    mnist: str | os.PathLike[str] | None = None,
    full: bool = False,
    dtypes: Sequence[str] = digits.DTYPES,
    progress: Progress | None = None,
) -> Iterator[Section]:
    """Compute every published figure on ``backend``; sections come as they are finished.

    Args:
        backend: a name or a Backend; everything runs on it.
        mnist: folder with MNIST's IDX files; by default that in ``NNKERNELS_MNIST``, or what was
            downloaded before. Where there is none, the sections of MNIST come as skipped.
        full: the MNIST network for all 500 epochs instead of 3.
        dtypes: of the MNIST network's runs, ``float64`` and ``float32``.
        progress: told how far the MNIST network is.

    Raises:
        InputError: ``full`` without MNIST, ``mnist`` is no folder, or an unknown dtype.
        DatasetError: the files in ``mnist`` cannot be used.
        BackendUnavailableError: the backend cannot work here.
    """
    chosen = get_backend(backend)
    for dtype in dtypes:
        if dtype not in digits.DTYPES:
            raise unknown("dtype", dtype, digits.DTYPES)
    if mnist is not None and not as_path("reproduce: mnist", mnist).is_dir():
        raise InputError(f"reproduce: no such folder as {str(mnist)!r}; {GIVE_MNIST}")
    folder = find(mnist)
    if full and folder is None:
        raise InputError(f"reproduce: all epochs need the data; {GIVE_MNIST}")
    return _sections(chosen, folder, full, dtypes, progress)


def _sections(
    backend: Backend,
    folder: str | os.PathLike[str] | None,
    full: bool,
    dtypes: Sequence[str],
    progress: Progress | None,
) -> Iterator[Section]:
    for title, (entry, compute) in EXAMPLES.items():
        yield Section(title, published()[entry]["source"], tuple(compute(backend)))
    source = published()["mnist_mlp"]["source"]
    for dtype in dtypes:
        title = f"MNIST network, {dtype}"
        if folder is None:
            yield Section(title, source, (), f"no data; {GIVE_MNIST}")
        else:
            figures = digits.trace(backend, folder, dtype, full=full, progress=progress)
            skipped = "" if full else "epochs 20 to 499; --full runs them"
            yield Section(title, source, tuple(figures), skipped)
