"""Where the library is looked for, and what is said where it is not there."""

from __future__ import annotations

import os

import pytest

from nnkernels.backends.native import library, load
from nnkernels.errors import BackendUnavailableError


@pytest.fixture
def package(tmp_path, monkeypatch):
    """The module as if it were ``tmp_path/nnkernels/backends/native/library.py``."""
    folder = tmp_path / "nnkernels" / "backends" / "native"
    folder.mkdir(parents=True)
    monkeypatch.setattr(library, "__file__", str(folder / "library.py"))
    monkeypatch.delenv(library.PATH_VARIABLE, raising=False)
    return folder


@pytest.fixture
def sources(package):
    """Its checkout."""
    folder = package.parents[2]
    (folder / "CMakePresets.json").touch()
    (folder / "build" / "release").mkdir(parents=True)
    return folder


def place(folder, time):
    path = folder / library.NAME
    path.touch()
    os.utime(path, (time, time))
    return path


def test_an_installed_one_lies_beside_the_module(package):
    assert list(library.paths()) == [package / library.NAME]
    assert library.find() is None
    place(package, 1)
    assert library.find() == package / library.NAME


def test_of_a_checkout_the_newest_one_is_taken(package, sources):
    assert library.find() is None
    built = place(sources / "build" / "release", 10)
    assert library.find() == built
    beside = place(package, 20)
    assert library.find() == beside
    place(sources / "build" / "release", 30)
    assert library.find() == built


def test_what_is_asked_for_is_taken_whether_it_is_there_or_not(package, monkeypatch):
    place(package, 1)
    monkeypatch.setenv(library.PATH_VARIABLE, "/nowhere.so")
    assert str(library.find()) == "/nowhere.so"


def test_an_installation_says_that_it_found_no_compiler_and_the_remedy(package):
    with pytest.raises(BackendUnavailableError) as caught:
        load()
    assert str(caught.value) == (
        "backend 'native' is not available: its C++ library was not built, for want of a C++ "
        "compiler that works when nnkernels was installed; install one (Debian: apt install g++) "
        "and run in the sources of nnkernels: NNKERNELS_REQUIRE_NATIVE=1 pip install "
        "--force-reinstall --no-deps ."
    )


def test_a_checkout_says_how_it_is_built(package, sources):
    with pytest.raises(BackendUnavailableError) as caught:
        load()
    assert str(caught.value) == (
        "backend 'native' is not available: its C++ library was not built; run in the checkout: "
        "cmake --preset release && cmake --build --preset release --target native (or pip "
        "install -e .)"
    )
    assert "in the checkout: cmake --preset release" in str(library._refused(sources, "is old"))
