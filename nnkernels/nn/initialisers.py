"""Initial values of weights.

``fan_in`` and ``fan_out`` are a weight's numbers of rows and columns.

Sources: Glorot and Bengio (2010); He et al. (2015); ``torch.nn.init``.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from nnkernels.errors import InputError, unknown
from nnkernels.spec import Array

Initialiser = Callable[[np.random.Generator, int, int], Array]


def zeros(rng: np.random.Generator, fan_in: int, fan_out: int) -> Array:
    """All zero."""
    return np.zeros((fan_in, fan_out))


def normal(rng: np.random.Generator, fan_in: int, fan_out: int) -> Array:
    """Standard normal."""
    return rng.standard_normal((fan_in, fan_out))


def uniform(rng: np.random.Generator, fan_in: int, fan_out: int) -> Array:
    """Uniform within ``±1/sqrt(fan_in)``: the default of ``torch.nn.Linear``."""
    return _within(rng, fan_in, fan_out, 1 / math.sqrt(max(fan_in, 1)))


def glorot_uniform(rng: np.random.Generator, fan_in: int, fan_out: int) -> Array:
    """Uniform within ``±sqrt(6 / (fan_in + fan_out))``."""
    return _within(rng, fan_in, fan_out, math.sqrt(6 / max(fan_in + fan_out, 1)))


def glorot_normal(rng: np.random.Generator, fan_in: int, fan_out: int) -> Array:
    """Normal with variance ``2 / (fan_in + fan_out)``."""
    return rng.standard_normal((fan_in, fan_out)) * math.sqrt(2 / max(fan_in + fan_out, 1))


def he_uniform(rng: np.random.Generator, fan_in: int, fan_out: int) -> Array:
    """Uniform within ``±sqrt(6 / fan_in)``."""
    return _within(rng, fan_in, fan_out, math.sqrt(6 / max(fan_in, 1)))


def he_normal(rng: np.random.Generator, fan_in: int, fan_out: int) -> Array:
    """Normal with variance ``2 / fan_in``."""
    return rng.standard_normal((fan_in, fan_out)) * math.sqrt(2 / max(fan_in, 1))


def _within(rng: np.random.Generator, fan_in: int, fan_out: int, limit: float) -> Array:
    return rng.uniform(-limit, limit, (fan_in, fan_out))


INITIALISERS: dict[str, Initialiser] = {
    f.__name__: f
    for f in (zeros, normal, uniform, glorot_uniform, glorot_normal, he_uniform, he_normal)
}


def get_initialiser(name: str) -> Initialiser:
    """The initialiser called ``name``."""
    if not isinstance(name, str):
        raise InputError(
            f"initialiser must be a name, got {type(name).__name__}; arrays of your own are given "
            "as MLP(..., parameters={'linear0.weight': ...})"
        )
    if name not in INITIALISERS:
        raise unknown("initialiser", name, INITIALISERS)
    return INITIALISERS[name]


def default_for(activation: str | None) -> str:
    """He for the rectifier family, Glorot for everything else."""
    rectifiers = ("relu", "leaky_relu", "elu", "gelu", "silu", "softplus")
    return "he_normal" if activation in rectifiers else "glorot_uniform"
