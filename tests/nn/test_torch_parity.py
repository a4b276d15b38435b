"""Training a whole small network follows PyTorch in float64."""

from __future__ import annotations

import numpy as np
import pytest

from nnkernels.nn import (
    MLP,
    SGD,
    Activation,
    Adam,
    AdamW,
    BatchNorm,
    Linear,
    RMSprop,
    Trainer,
)

torch = pytest.importorskip("torch")

RNG = np.random.default_rng(0)
X = RNG.normal(size=(40, 5))
LABELS = RNG.integers(0, 3, 40)
VALUES = RNG.normal(size=(40, 3))

OPTIMIZERS = {
    "sgd": (SGD(0.1, weight_decay=0.01), lambda p: torch.optim.SGD(p, 0.1, weight_decay=0.01)),
    "momentum": (SGD(0.1, momentum=0.9), lambda p: torch.optim.SGD(p, 0.1, momentum=0.9)),
    "nesterov": (
        SGD(0.1, momentum=0.9, nesterov=True),
        lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, nesterov=True),
    ),
    "rmsprop": (RMSprop(0.01), lambda p: torch.optim.RMSprop(p, 0.01)),
    "adam": (Adam(0.01, weight_decay=0.1), lambda p: torch.optim.Adam(p, 0.01, weight_decay=0.1)),
    "adamw": (AdamW(0.01), lambda p: torch.optim.AdamW(p, 0.01)),
}


def classifier():
    """Batch normalisation, two activations, cross-entropy.

    Nothing stands between a bias and a normalisation that takes it out again: its gradient would be
    rounding noise, which Adam scales up to full steps.
    """
    hidden = [Linear(8), Activation("gelu"), BatchNorm(), Linear(6), Activation("tanh")]
    model = MLP([5, *hidden, Linear(3)], dtype="float64", seed=1)
    layers = [
        *(torch.nn.Linear(5, 8), torch.nn.GELU(), torch.nn.BatchNorm1d(8)),
        *(torch.nn.Linear(8, 6), torch.nn.Tanh(), torch.nn.Linear(6, 3)),
    ]
    return model, layers, torch.nn.CrossEntropyLoss(), LABELS


def regressor():
    model = MLP([5, 8, 3], activation="silu", norm="layer", loss="mse", dtype="float64", seed=1)
    layers = [torch.nn.Linear(5, 8), torch.nn.LayerNorm(8), torch.nn.SiLU(), torch.nn.Linear(8, 3)]
    return model, layers, torch.nn.MSELoss(), VALUES


def copy_to(model, layers):
    """The same parameters in PyTorch, which stores weights transposed."""
    net = torch.nn.Sequential(*layers).double()
    arrays = iter(model.parameters.values())
    with torch.no_grad():
        for target, source in zip(net.parameters(), arrays, strict=True):
            target.copy_(torch.from_numpy(source.T if source.ndim == 2 else source))
    return net


@pytest.mark.parametrize("make", [classifier, regressor])
@pytest.mark.parametrize(("ours", "theirs"), OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_twenty_steps_follow_pytorch(make, ours, theirs):
    model, layers, criterion, y = make()
    net = copy_to(model, layers)
    optimizer, losses = theirs(net.parameters()), []
    for _ in range(5):
        total = 0.0
        for start in range(0, 40, 10):
            optimizer.zero_grad()
            rows = slice(start, start + 10)
            loss = criterion(net(torch.from_numpy(X[rows])), torch.from_numpy(y[rows]))
            loss.backward()
            torch.nn.utils.clip_grad_norm_(net.parameters(), 0.5)
            optimizer.step()
            total += loss.item() / 4
        losses.append(total)

    trainer = Trainer(model, ours, clip_norm=0.5)
    history = trainer.fit(X, y, epochs=5, batch_size=10, shuffle=False, progress=False)

    np.testing.assert_allclose(history["loss"], losses, rtol=1e-10)
    for array, tensor in zip(model.parameters.values(), net.parameters(), strict=True):
        want = tensor.detach().numpy()
        np.testing.assert_allclose(array, want.T if array.ndim == 2 else want, rtol=0, atol=1e-10)
    net.eval()
    with torch.no_grad():
        np.testing.assert_allclose(trainer.outputs(X), net(torch.from_numpy(X)), atol=1e-9)
