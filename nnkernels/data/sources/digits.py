"""``digits``: scikit-learn's 1,797 images of 8 x 8 pixels (UCI optical recognition of digits)."""

from __future__ import annotations

import numpy as np

from nnkernels.data.dataset import Dataset, FloatType
from nnkernels.data.tables import from_xy
from nnkernels.errors import missing_extra


def load(*, dtype: FloatType, seed: int, test_fraction: float = 0.2) -> Dataset:
    """Pixels ``[rows, 64]`` in [0, 1] and digits, split into two parts by the seed.

    Raises:
        MissingExtraError: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise missing_extra("load('digits')", "scikit-learn", "sklearn") from None
    pixels, digits = load_digits(return_X_y=True)
    return from_xy(
        "digits",
        np.asarray(pixels) / 16,
        np.asarray(digits),
        dtype=dtype,
        seed=seed,
        task="classification",
        test_fraction=test_fraction,
        source="scikit-learn load_digits",
    )
