"""Third-party backends: found without being loaded, kept apart when they are broken."""

from __future__ import annotations

import gc
import os
import re
import subprocess
import sys
import threading
import weakref

import numpy as np
import pytest

import nnkernels
from nnkernels import ops, plugins
from nnkernels.errors import BackendError, BackendUnavailableError, InputError, UnknownNameError
from nnkernels.testing import VerificationError, verify

BROKEN = {
    "raising": "nnk_raises:load",
    "leaving": "nnk_exits:load",
    "numpy": "nnk_usurps:load",
    "text": "nnk_wrong_object:load",
    "number": "nnk_wrong_object:NUMBER",
    "absent": "nnk_wrong_object:nothing",
    "misnamed": "nnk_wrong_object:misnamed",
    "asleep": "nnk_wrong_object:asleep",
    "driverless": "nnk_wrong_object:driverless",
}

REASONS = {
    "raising": ("broken-plugins", "RuntimeError", "libfast.so is missing"),
    "leaving": ("broken-plugins", "SystemExit", "this plug-in leaves"),
    "text": ("broken-plugins", "'a backend, honestly'", "not a Backend"),
    "number": ("broken-plugins", "TypeError"),
    "absent": ("broken-plugins", "AttributeError", "nothing"),
    "misnamed": ("broken-plugins", "calls itself 'numpy'"),
    "asleep": ("not available", "the device sleeps; wake it"),
    "driverless": ("broken-plugins", "OSError", "no such driver"),
}


def is_loaded(module: str) -> bool:
    return module in sys.modules


# --- loading nothing unasked -------------------------------------------------------------------

PROBE = """
import sys
import nnkernels, numpy
from nnkernels import ops
assert ops.relu(numpy.array([-1.0, 2.0])).tolist() == [0.0, 2.0]
with nnkernels.use("numpy"):
    ops.tanh(numpy.zeros(2))
print(sorted(name for name in sys.modules if name.startswith("nnk_")))
"""


def test_importing_and_using_nnkernels_loads_no_plugin(install):
    """Not even one that would hang: installing one changes nothing until it is named."""
    install("broken-plugins", **BROKEN)
    folder = install("hanging-plugin", hanging="nnk_hangs:load")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), *sys.path])}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", PROBE],
        env=environment,
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr


def test_auto_chooses_among_the_builtin_backends_only(install):
    install("good-plugin", good="nnk_good:load")
    assert nnkernels.get_backend("auto").name in ("numba", "numpy")
    assert not is_loaded("nnk_good")


def test_sources_reads_metadata_only(install):
    install("broken-plugins", **BROKEN)
    claims = plugins.sources()
    assert set(BROKEN) <= set(claims)
    assert [c.origin for c in claims["numpy"]] == ["nnkernels", "broken-plugins"]
    assert not any(is_loaded(t.partition(":")[0]) for t in BROKEN.values())


# --- a plug-in that works ----------------------------------------------------------------------


def test_a_plugin_works_by_name(install):
    install("good-plugin", good="nnk_good:load")
    good = nnkernels.get_backend("good")
    assert good.coverage()["relu"] == "own"
    assert nnkernels.get_backend("good") is good
    assert plugins.availability()["good"] is None
    with nnkernels.use("good"):
        assert ops.relu(np.array([-1.0, 2.0])).tolist() == [0.0, 2.0]
    verify("good", operators=["relu", "sigmoid"], quick=True).check()


def test_a_plugin_takes_settings_and_gives_kernels(install):
    install("good-plugin", good="nnk_good:load")
    assert nnkernels.get_backend("good(threads=1)").name == "good(threads=1)"
    mixed = nnkernels.get_backend("numpy[relu=good]")
    assert mixed.resolve("relu", {}).kernel.origin == "nnk_good:relu"


def test_an_entry_point_may_be_a_backend_itself(install, monkeypatch):
    folder = install("good-plugin", ready="nnk_good:READY")
    source = (folder / "nnk_good.py").read_text()
    (folder / "nnk_good.py").write_text(
        source + '\nREADY = Backend("ready", HOST, kernels, Interpreter)\n'
    )
    assert nnkernels.get_backend("ready").name == "ready"


def test_two_threads_get_the_same_backend(install):
    install("good-plugin", good="nnk_good:load")
    barrier, found = threading.Barrier(8), []

    def load() -> None:
        barrier.wait(10)
        found.append(plugins.load("good"))

    threads = [threading.Thread(target=load) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert len(found) == 8 and len(set(map(id, found))) == 1


# --- plug-ins that do not ----------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(REASONS))
def test_a_broken_plugin_says_why_when_it_is_named(install, name):
    install("broken-plugins", **BROKEN)
    with pytest.raises(BackendError) as caught:
        nnkernels.get_backend(name)
    assert all(part in str(caught.value) for part in (repr(name), *REASONS[name]))


def test_the_error_of_a_broken_plugin_keeps_its_cause(install):
    install("broken-plugins", **BROKEN)
    with pytest.raises(BackendError) as caught:
        nnkernels.get_backend("raising")
    assert isinstance(caught.value.__cause__, RuntimeError)


def test_availability_shows_each_reason_and_disturbs_nobody(install):
    install("broken-plugins", **BROKEN)
    install("good-plugin", good="nnk_good:load")
    reasons = plugins.availability()
    assert reasons["good"] is None and reasons["numpy"] is None and reasons["reference"] is None
    for name, parts in REASONS.items():
        assert all(part in reasons[name] for part in parts)


def test_an_unavailable_device_is_told_apart(install):
    install("broken-plugins", **BROKEN)
    with pytest.raises(BackendUnavailableError):
        nnkernels.get_backend("asleep")


def test_a_failure_is_kept_not_retried(install):
    folder = install("broken-plugins", raising="nnk_raises:load")
    with pytest.raises(BackendError):
        plugins.load("raising")
    (folder / "nnk_raises.py").write_text("load = None")
    with pytest.raises(BackendError, match="libfast"):
        plugins.load("raising")


class Tracked:
    """Something that lives in a caller's frame."""


def test_a_kept_failure_does_not_keep_the_frames_of_its_callers(install):
    install("broken-plugins", raising="nnk_raises:load")

    def caller() -> weakref.ref[Tracked]:
        local = Tracked()
        with pytest.raises(BackendError):
            plugins.load("raising")
        return weakref.ref(local)

    caller()
    alive = caller()
    with pytest.raises(BackendError):
        plugins.load("raising")
    gc.collect()
    assert alive() is None


def test_an_unknown_name_suggests_the_nearest(install):
    install("good-plugin", good="nnk_good:load")
    with pytest.raises(UnknownNameError, match="Did you mean 'good'"):
        nnkernels.get_backend("goood")


# --- clashes -----------------------------------------------------------------------------------


def test_a_builtin_name_stays_with_nnkernels(install):
    install("usurper", numpy="nnk_usurps:load")
    plugins._loaded.clear()
    assert plugins.load("numpy").priority < 100
    assert not is_loaded("nnk_usurps")


def test_a_claim_on_a_builtin_name_is_listed_as_an_error_naming_both(install):
    install("usurper", numpy="nnk_usurps:load")
    reason = plugins.availability()["numpy (usurper)"]
    assert "'numpy' is claimed by nnkernels and usurper" in reason


def test_two_distributions_claiming_one_name_are_an_error_naming_both(install):
    install("first-dist", good="nnk_good:load")
    install("second-dist", good="nnk_good:load")
    with pytest.raises(BackendError) as caught:
        nnkernels.get_backend("good")
    assert "first-dist" in str(caught.value) and "second-dist" in str(caught.value)
    assert not is_loaded("nnk_good")
    assert plugins.availability()["good"] == str(caught.value)


# --- wrong results -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["relu", "tanh", "sigmoid", "identity"])
def test_wrong_results_are_found_by_verify(install, name):
    install("wrong-plugin", wrong="nnk_wrong_results:load")
    report = verify("wrong", operators=[name], quick=True)
    with pytest.raises(VerificationError) as caught:
        report.check()
    assert f"{name} [" in str(caught.value)


@pytest.fixture
def registered(monkeypatch):
    """What is registered, and forgotten after the test."""
    monkeypatch.setattr(plugins, "_registered", {})
    monkeypatch.setattr(plugins, "_loaded", dict(plugins._loaded))
    return plugins.register


def test_a_backend_is_registered_for_this_process(registered):
    def load():
        numpy = plugins.load("numpy")
        return nnkernels.Backend("mine", numpy.device, numpy.kernels, numpy.executor)

    registered("mine", load, origin="a notebook")
    assert nnkernels.get_backend("mine").name == "mine"
    assert plugins.availability()["mine"] is None


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("numpy", "'numpy' is taken by nnkernels; choose another name for that of here"),
        ("native", "is taken by nnkernels"),
        ("a b", "cannot be read"),
        ("mine(threads=1)", "the name must be a word"),
        ("mine:1", "the name must be a word"),
    ],
)
def test_names_that_cannot_be_registered(registered, name, message):
    with pytest.raises(InputError, match=re.escape(message)):
        registered(name, lambda: None, origin="here")
    assert plugins._registered == {}


def test_names_that_are_taken_cannot_be_registered(registered, install):
    install("good-plugin", good="nnk_good:load")
    registered("mine", lambda: None, origin="first")
    for name, owner in (("mine", "first"), ("good", "good-plugin")):
        with pytest.raises(InputError, match=f"is taken by {owner}"):
            registered(name, lambda: None, origin="second")
