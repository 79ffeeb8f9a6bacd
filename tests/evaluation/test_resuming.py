"""A comparison that is taken up again: every value comes back as it was, and a lost file costs only its picture.

Prompts for each picture decide the values, so they are a part of the comparison.
"""

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import cassr_jax
from cassr_jax.config import CascadeConfig
from cassr_jax.errors import InputError
from cassr_jax.evaluation import __main__ as command
from cassr_jax.evaluation import cascades
from cassr_jax.evaluation.comparison import Measured, compare
from cassr_jax.evaluation.measures import Undefined, Values
from cassr_jax.evaluation.pairing import find_cases
from cassr_jax.restoration import Restoration
from tests.evaluation.fake_cascade import fake_cascade
from tests.evaluation.narrow_backbones import install_narrow_networks
from tests.evaluation.pair_folders import arguments, write


def values_by_picture(found: list[Measured]) -> dict[str, dict[str, Values]]:
    return {m.name: {program: dict(values) for program, values in m.values.items()} for m in found}


def test_values_that_are_no_numbers_come_back_as_they_were(folders, tmp_path):
    """NaN where a measure is not defined, infinity for the PSNR of a perfect picture; the file is JSON throughout."""
    cases, _ = find_cases(folders / "hr", None, {"peer": folders / "peer"})
    kinds = [math.nan, math.inf, -math.inf]

    def measure(truth: np.ndarray, pictures: Sequence[np.ndarray]) -> tuple[list[Values], Undefined]:
        return [{"x": kinds[measured.pop()], "y": 0.25} for _ in pictures], {"x": "too small"}

    measured = [2, 1, 0]
    first = compare(cases, None, measure, tmp_path / "out", {})
    lines = (tmp_path / "out" / "values.jsonl").read_text().splitlines()
    assert len([json.loads(line, parse_constant=pytest.fail) for line in lines]) == 3
    again = compare(cases, None, measure, tmp_path / "out", {})
    assert not measured
    np.testing.assert_equal(values_by_picture(again), values_by_picture(first))
    assert [m.values["peer"]["x"] for m in again[1:]] == kinds[1:]
    assert math.isnan(again[0].values["peer"]["x"])


def test_a_file_that_is_gone_costs_only_its_picture(folders, tmp_path):
    cases, _ = find_cases(folders / "hr", None, {"peer": folders / "peer"})

    def measure(truth: np.ndarray, pictures: Sequence[np.ndarray]) -> tuple[list[Values], Undefined]:
        return [{"psnr_y": 20.0} for _ in pictures], {}

    lost = replace(cases[1], hr=folders / "hr" / "gone.png")
    found = compare([cases[0], lost, cases[2]], None, measure, tmp_path / "out", {})
    assert [bool(m.values) for m in found] == [True, False, True]
    assert "gone.png: cannot be read" in found[1].left_out
    again = compare(cases, None, measure, tmp_path / "out", {})  # the file is there again
    assert all(m.values for m in again)
    again = compare([cases[0], lost, cases[2]], None, measure, tmp_path / "out", {})
    assert "gone.png: cannot be read" in again[1].left_out


def test_a_report_after_a_restart_is_the_same_report(folders, truths, monkeypatch):
    """A picture too small to judge has no LPIPS, a perfect one an infinite PSNR."""
    install_narrow_networks(monkeypatch)
    write(folders / "hr", "small.png", truths["a"][:3, :3])
    write(folders / "peer", "small.png", truths["a"][:3, :3])
    given = ["--hr", str(folders / "hr"), "--results", f"peer={folders / 'peer'}", "--output", str(folders / "out")]
    names = ("table.md", "values.csv", "comparison.json")
    assert command.main(given) == 0
    first = [(folders / "out" / name).read_text() for name in names]
    assert "inf" in first[1]
    assert command.main(given) == 0
    assert [(folders / "out" / name).read_text() for name in names] == first


def test_a_measure_of_a_set_counts_the_set(folders, monkeypatch):
    install_narrow_networks(monkeypatch)
    given = ["--hr", str(folders / "hr"), "--results", f"peer={folders / 'peer'}", "--output", str(folders / "out")]
    assert command.main([*given, "--vgg16"]) == 0
    mean = json.loads((folders / "out" / "comparison.json").read_text())["means"]["peer"]["frechet_vgg16"]
    assert (mean["pictures"], mean["standard_error"]) == (3, None)


def test_a_damaged_value_is_named(tmp_path, folders):
    cases, _ = find_cases(folders / "hr", None, {"peer": folders / "peer"})
    (tmp_path / "values.jsonl").write_text(json.dumps({"name": "a", "values": {"peer": {"x": "3"}}}) + "\n")
    with pytest.raises(InputError, match=r"values.jsonl, line 1: not the values of a picture \(a value is '3'\)"):
        compare(cases, None, lambda *_: ([], {}), Path(tmp_path), {})


@pytest.mark.parametrize("rows", [[], ["--baselines"]], ids=["plain", "with the sceptic's rows"])
def test_each_picture_has_its_own_prompt(folders, monkeypatch, capsys, rows):
    seen: list[str] = []

    def restore(lr: np.ndarray, *, prompt: str, **options) -> Restoration:
        seen.append(prompt)
        large = lr.repeat(4, 0).repeat(4, 1)
        return Restoration(large, large, large)

    loaded = fake_cascade(restore)
    monkeypatch.setattr(cassr_jax, "load", lambda *_, **__: loaded)
    monkeypatch.setattr(cascades, "make_autoencode", lambda _: lambda picture: picture)
    install_narrow_networks(monkeypatch)
    prompts = folders / "prompts.tsv"
    given = arguments(folders, "--prompts", str(prompts), *rows)
    prompts.write_text("a\tone\nb\ttwo\n")
    assert command.main(given) == 2
    assert "prompts.tsv: has no prompt for c, expected one for every picture" in capsys.readouterr().err
    prompts.write_text("a\tone\nb\ttwo\nc\tthree\n")
    assert command.main(given) == 0
    assert seen == ["one", "two", "three"]
    settings = json.loads((folders / "out" / "comparison.json").read_text())["settings"]
    assert settings["prompts"] == {"a": "one", "b": "two", "c": "three"}
    prompts.write_text("a\tone\nb\ttwo\nc\tfour\n")
    assert command.main(given) == 2
    assert "settings.json: prompts is" in capsys.readouterr().err


def test_pictures_are_restored_together_as_long_as_their_options_are_the_same(folders, monkeypatch):
    """A picture that cannot be read, and one whose prompt is refused, keep their places among the others."""
    groups: list[list[str]] = []

    def restore_many(pictures: Iterable[np.ndarray], *, prompt: str, **_: object) -> Iterator[Restoration]:
        if prompt == "bad":
            raise InputError("no such prompt")
        groups.append([])

        def made() -> Iterator[Restoration]:
            for lr in pictures:
                groups[-1].append(prompt)
                large = lr.repeat(4, 0).repeat(4, 1)
                yield Restoration(large, large, large, seconds=2.0)

        return made()

    loaded = SimpleNamespace(restore_many=restore_many, check=lambda **_: None, config=CascadeConfig())
    monkeypatch.setattr(cassr_jax, "load", lambda *_, **__: loaded)
    case = find_cases(folders / "hr", folders / "lr", {})[0][0]
    prompts = {"a": "one", "b": "one", "c": "", "d": "one", "e": "two", "f": "bad", "g": "bad", "h": ""}
    cases = [
        replace(case, name=name, prompt=prompt, **({} if prompt else {"hr": folders / "gone.png"}))
        for name, prompt in prompts.items()
    ]
    load = partial(cascades.load_restore, {"config": "tiny", "activation": None})
    found = compare(cases, load, lambda hr, made: ([{"x": 1.0} for _ in made], {}), folders / "out", {})
    assert groups == [["one"] * 3, ["two"]]
    assert {m.name: m.seconds for m in found if m.values} == dict.fromkeys("abde", 2.0)
    left_out = {m.name: m.left_out for m in found if not m.values}
    assert all(left_out[name].endswith("a.png: no such prompt") for name in "fg")
    assert all("gone.png" in left_out[name] for name in "ch")
    lines = (folders / "out" / "values.jsonl").read_text().splitlines()
    assert [json.loads(line)["name"] for line in lines] == list(prompts)


def test_prompts_are_for_pictures_that_are_restored(folders, capsys):
    given = ["--hr", str(folders / "hr"), "--results", f"peer={folders / 'peer'}", "--output", str(folders / "out")]
    with pytest.raises(SystemExit, match="2"):
        command.main([*given, "--prompts", "p.tsv"])
    assert "--prompts is given without --lr" in capsys.readouterr().err
