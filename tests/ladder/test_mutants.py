"""Rung 8: planted defects, every one of which some rung must notice."""

from __future__ import annotations

import pytest
from ladder import climb, mutants, noticed
from ladder.needs import require_disassembler, require_host_compiler, require_nvrtc

NIGHTLY = 36
"""Mutants that are run each night."""

MINIMUM = 30
"""Mutants that the record must have at least."""

REMEDY = "python -m ladder.noticed"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    require_nvrtc()
    require_disassembler()
    require_host_compiler()
    return tmp_path_factory.mktemp("mutants")


def test_there_are_mutants_of_every_rule_and_file():
    found = mutants.all_mutants()
    assert {m.rule for m in found} == mutants.RULES
    assert {m.file for m in found} == set(mutants.files())


def test_keys_are_unique():
    keys = [m.key for m in mutants.all_mutants()]
    assert len(set(keys)) == len(keys)


def test_every_equivalent_mutant_is_there():
    assert not set(mutants.equivalent()) - {m.key for m in mutants.all_mutants()}


def test_the_record_is_of_the_sources_as_they_are_and_of_the_equivalent_as_listed():
    assert not [row for row in noticed.read() if not noticed.stands(row)], REMEDY


def test_the_record_says_what_became_of_every_mutant():
    verdicts = {*climb.RUNGS, *climb.NO_MUTANTS, noticed.EQUIVALENT}
    assert not [row for row in noticed.read() if row.rung not in verdicts]


def test_mutants_of_every_rule_and_file_were_noticed():
    rows = [row for row in noticed.read() if row.noticed]
    assert {row.rule for row in rows} == mutants.RULES
    assert {row.file for row in rows} == set(mutants.files())
    assert len(rows) >= MINIMUM


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("mutant", noticed.sample(NIGHTLY), ids=str)
def test_a_mutant_is_noticed_as_the_record_says(mutant, folder):
    assert climb.climb(mutant, folder).rung in climb.RUNGS


@pytest.mark.slow
@pytest.mark.hours
@pytest.mark.timeout(0)
@pytest.mark.parametrize("file", mutants.files())
def test_every_mutant_of_a_file_is_noticed_but_the_equivalent(file, folder):
    verdicts = {m: climb.climb(m, folder) for m in mutants.mutants_of(file)}
    known = mutants.equivalent()
    survived = {m.key: v for m, v in verdicts.items() if v.rung == climb.SURVIVED}
    listed = {key for key in known if key[0] == file}
    assert not set(survived) - listed, {k: survived[k] for k in set(survived) - listed}
    assert not listed - set(survived), "these are noticed, or the same code: take them off the list"
