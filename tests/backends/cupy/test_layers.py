from __future__ import annotations

import warnings

import pytest

from nnkernels.backends.cupy import layers as layers_module
from nnkernels.backends.cupy.layers import BUDGET_S, Layers, LayerWarning, Outcome
from nnkernels.errors import InputError

IDENTITY = {"device": "a GPU", "driver": "13000"}


@pytest.fixture(autouse=True)
def unpinned(monkeypatch):
    monkeypatch.delenv(layers_module.VARIABLE, raising=False)


class Checks:
    """Self-checks that say what they are told, and count."""

    def __init__(self, **found):
        self.found = {"cubin": "", "lt": "", "graph": "", **found}
        self.ran = []

    def __call__(self, name):
        def check(left):
            self.ran.append(name)
            found = self.found[name]
            if isinstance(found, Exception):
                raise found
            return found if isinstance(found, Outcome) else Outcome(found, 0.01)

        return check

    def layers(self, folder, **kwargs):
        return Layers(IDENTITY, {n: self(n) for n in self.found}, folder=folder, **kwargs)


def test_a_layer_is_checked_once_and_the_verdict_kept(tmp_path):
    checks = Checks()
    layers = checks.layers(tmp_path)
    assert layers.verdicts()["cubin"].state == "unchecked"
    assert layers.on("plain") and layers.on("cubin") and layers.on("cubin")
    assert checks.ran == ["cubin"]
    again = Checks()
    assert again.layers(tmp_path).on("cubin")
    assert again.ran == []


def test_another_driver_is_checked_again(tmp_path):
    Checks().layers(tmp_path).on("cubin")
    checks = Checks()
    other = Layers({**IDENTITY, "driver": "13010"}, {"cubin": checks("cubin")}, folder=tmp_path)
    assert other.on("cubin")
    assert checks.ran == ["cubin"]


@pytest.mark.parametrize(
    ("found", "reason"),
    [("gelu disagrees with NumPy", "gelu disagrees"), (RuntimeError("lost"), "RuntimeError: lost")],
)
def test_a_layer_that_fails_is_switched_off_with_one_warning(tmp_path, found, reason):
    layers = Checks(lt=found).layers(tmp_path)
    with pytest.warns(LayerWarning, match=reason) as caught:
        assert not layers.on("lt")
        assert not layers.on("lt")
        layers.switch_off("lt", "again")
    assert len(caught) == 1
    assert layers.verdicts()["lt"].state == "off"
    assert reason in layers.verdicts()["lt"].reason
    assert layers.on("cubin")


def test_a_layer_that_was_switched_off_stays_off_silently(tmp_path):
    with pytest.warns(LayerWarning):
        Checks(cubin="bad").layers(tmp_path).on("cubin")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not Checks().layers(tmp_path).on("cubin")


def test_the_graph_needs_lt(tmp_path):
    checks = Checks(lt="bad")
    with pytest.warns(LayerWarning):
        assert not checks.layers(tmp_path).on("graph")
    assert checks.ran == ["lt"]


def test_a_layer_beyond_the_budget_stays_off_unchecked(tmp_path):
    checks = Checks(cubin=Outcome("", BUDGET_S))
    layers = checks.layers(tmp_path)
    assert layers.on("cubin")
    assert not layers.on("lt")
    assert checks.ran == ["cubin"]
    assert layers.verdicts()["lt"].state == "unchecked"


def test_layers_are_pinned_by_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv(layers_module.VARIABLE, "plain, lt")
    checks = Checks()
    layers = checks.layers(tmp_path)
    assert layers.on("lt") and not layers.on("cubin") and not layers.on("graph")
    assert checks.ran == []
    assert "pinned" in layers.verdicts()["cubin"].reason
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_layer_is_refused(tmp_path):
    with pytest.raises(InputError, match="there is no layer 'cubins'"):
        Checks().layers(tmp_path, pinned="plain,cubins")


def test_a_damaged_record_is_checked_again(tmp_path):
    Checks().layers(tmp_path).on("cubin")
    (record,) = tmp_path.iterdir()
    record.write_bytes(b'{"cubin": {"state": "per')
    checks = Checks()
    assert checks.layers(tmp_path).on("cubin")
    assert checks.ran == ["cubin"]


def test_a_folder_that_cannot_be_written_costs_a_check_only(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    layers = Checks().layers(blocked / "layers")
    assert layers.on("cubin")


def test_a_failure_after_the_check_is_forgotten_with_the_process(tmp_path):
    layers = Checks().layers(tmp_path)
    assert layers.on("cubin")
    with pytest.warns(LayerWarning):
        layers.switch_off("cubin", "the device was lost")
    assert not layers.on("cubin")
    assert Checks().layers(tmp_path).on("cubin")
