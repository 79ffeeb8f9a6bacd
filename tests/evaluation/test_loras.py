"""The LoRAs that an evaluation is given."""

import argparse

import cassr_jax
from cassr_jax.choices import DISTILLED_LORAS
from cassr_jax.evaluation import cascades
from cassr_jax.loading import read_cascade
from tests.evaluation.fake_cascade import fake_cascade


def chosen(*arguments):
    parser = argparse.ArgumentParser()
    cascades.add_options(parser)
    return cascades.settings(parser.parse_args(arguments))


def test_they_reach_the_cascade_and_its_fingerprint(monkeypatch):
    loaded = []

    def load(source, **options):
        change = options["change"]
        loaded.append({} if change is None else change(read_cascade(source)[0]).loras)
        return fake_cascade(lambda picture, **_: picture)

    monkeypatch.setattr(cassr_jax, "load", load)
    given = [chosen(*arguments) for arguments in ([], ["--lora", "a=0.5"], ["--lora", "a=0.25"], ["--speed", "lcm"])]
    for each in given:
        cascades.load_restore(each)
    assert loaded == [{}, {"a": 0.5}, {"a": 0.25}, {DISTILLED_LORAS["lcm"]: 1.0}]
    assert len({cascades.fingerprint(each) for each in given}) == 4
