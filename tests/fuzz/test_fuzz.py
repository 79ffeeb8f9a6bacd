"""Every reader of foreign bytes reads damaged files or refuses them; `python -m tests.fuzz` tries many more."""

import json
from pathlib import Path

import numpy as np
import pytest

from tests.fuzz.mutation import CHANGES, MOST, mutated
from tests.fuzz.running import CORPUS, TooSlow, attack, kept, run
from tests.fuzz.targets import TARGETS, Target, seeds_of


@pytest.mark.parametrize("name", TARGETS)
def test_sound_files_are_read_and_what_once_failed_is_taken(name, tmp_path):
    for number, data in enumerate([*seeds_of(TARGETS[name]), *kept(name)]):
        (folder := tmp_path / str(number)).mkdir()
        verdict = attack(TARGETS[name], data, folder)
        assert verdict in ((None, "read") if number else ("read",))


@pytest.mark.parametrize("name", TARGETS)
def test_damaged_files_are_read_or_refused(name):
    found = run(name, 400 // TARGETS[name].cost, seed=1)
    assert found.faults == {}
    assert found.inputs >= 50
    assert found.read > 0  # some must get through, or nothing but the first check is tried


@pytest.mark.slow
@pytest.mark.parametrize("name", TARGETS)
def test_many_damaged_files_are_read_or_refused(name):
    assert run(name, 20_000 // TARGETS[name].cost, seed=2).faults == {}


def test_everything_kept_belongs_to_a_target():
    assert {folder.name for folder in CORPUS.iterdir()} <= TARGETS.keys()
    assert sum(file.stat().st_size for file in CORPUS.rglob("*") if file.is_file()) < 2 << 20


def test_variants_follow_from_the_seed_and_every_change_is_made():
    seeds = [b'{"a": 1, "b": [true, "x"]}' * 20, bytes(range(256)) * 2]
    first, again = ([mutated(np.random.default_rng(seed), seeds) for seed in range(200)] for _ in range(2))
    assert first == again
    assert len(set(first)) > 190
    for change in CHANGES:
        made = {bytes(change(np.random.default_rng(n), bytearray(seeds[0]), seeds[1])) for n in range(50)}
        assert made - {seeds[0]}, change.__name__
    assert len(mutated(np.random.default_rng(0), [bytes(MOST * 2)])) <= MOST


def test_faults_are_seen(tmp_path):
    def broken(data: bytes, folder: Path) -> None:
        json.loads(data)["a"]

    def endless(data: bytes, folder: Path) -> None:
        raise TooSlow

    assert attack(Target(broken, lambda folder: []), b"[]", tmp_path).startswith("TypeError at test_fuzz.py:")
    assert attack(Target(endless, lambda folder: []), b"", tmp_path) == "took more than 5 s"
