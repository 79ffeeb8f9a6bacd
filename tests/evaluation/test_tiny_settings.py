"""The choice of settings: what is tried, by which pictures, and what is chosen."""

import json
import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from cassr_jax.config import CascadeConfig
from cassr_jax.evaluation.comparison import Measured
from tests.evaluation.narrow_backbones import install_narrow_networks
from tests.evaluation.pair_folders import write
from tests.evaluation.test_tiles import picture

PROGRAM = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "tiny_settings.py"), run_name="tiny_settings")
GLOBALS = PROGRAM["main"].__wrapped__.__globals__


def measured(values: dict[str, tuple[float, float]]) -> list[Measured]:
    return [Measured("a", {name: {"lpips": lpips, "dists": dists} for name, (lpips, dists) in values.items()})]


def test_the_lowest_sum_of_both_distances_is_chosen_and_never_the_first_stage_alone():
    found = measured({"share 0": (0.3, 0.3), "share 0.5": (0.32, 0.2), "share 1": (0.1, 0.1), "sigma 0.3": (0.0, 0.0)})
    assert PROGRAM["best"](found, "share") == "0.5"
    assert PROGRAM["best"](found, "sigma") == "0.3"
    assert PROGRAM["best"](measured({"colour fix none": (0, 0), "colour fix adain": (1, 1)}), "colour fix") == "adain"


def test_the_sums_of_both_distances_are_compared_with_the_choice_by_picture():
    values = {"share 0": (0.3, 0.3), "share 0.5": (0.32, 0.2), "sigma 0.3": (0.0, 0.0)}
    found = measured(values) + measured(values | {"share 0": (0.4, 0.3)})
    assert PROGRAM["behind"](found, "share", "0.5").splitlines() == [
        "| minus share 0.5 | LPIPS + DISTS ↓ |",
        "|---|---|",
        "| share 0 | +0.1300 ± 0.0500 (0) |",
    ]


def test_every_setting_is_tried_on_both_kinds_of_damage(monkeypatch, tmp_path, capsys):
    """The first stage makes noise and the second an enlargement; the choice is that of the values written."""
    configs: list[CascadeConfig] = []

    def load(source, change):
        configs.append(change(CascadeConfig()))

        def reference(lr: np.ndarray, **_) -> np.ndarray:
            return np.random.default_rng(0).integers(0, 256, (4 * lr.shape[0], 4 * lr.shape[1], 3), np.uint8)

        def restore(lr: np.ndarray, *, reference_weight: float, **_) -> SimpleNamespace:
            assert reference_weight == 0
            return SimpleNamespace(reference=reference(lr), result=lr.repeat(4, 0).repeat(4, 1))

        return SimpleNamespace(reference=reference, restore=restore, check=lambda **_: None)

    install_narrow_networks(monkeypatch)
    monkeypatch.setattr(GLOBALS["cassr_jax"], "load", load)
    monkeypatch.setitem(GLOBALS, "fingerprint", lambda *_: "the same")
    write(tmp_path / "photos", "a.png", picture(256, 256, [(0, 0)], size=256))
    given = ["--photos", str(tmp_path / "photos"), "--output", str(tmp_path / "out"), "--tiles", "1"]
    assert PROGRAM["main"](given) == 0
    choices = json.loads((tmp_path / "out" / "choices.json").read_text())
    (file,) = (tmp_path / "out").glob("shares_*/values.jsonl")
    values = [json.loads(line)["values"] for line in file.read_text().splitlines()]
    assert len(values) == 2
    for kind, rows in (("share", ("0", "0.25", "0.5", "0.75")), ("sigma", ("0.3", "0.5", "1"))):
        sums = {row: sum(of[f"{kind} {row}"][name] for of in values for name in ("lpips", "dists")) for row in rows}
        assert sums.get(choices[kind], -1) <= min(sums.values())
    assert [config.first_stages["rrdbnet"].reference_weight for config in configs] == [0, 0]
    fixes = [config.first_stages["rrdbnet"].color_fix for config in configs]
    assert fixes == ["none", choices["color_fix"]]
    text = capsys.readouterr().out
    for name in ("colour fix adain", "share 0.25", "share 1", "sigma 0.3", "sigma 1"):
        assert f"| {name} |" in text
    assert text.count("| LPIPS + DISTS ↓ |") == 3
    assert sorted(path.name for path in (tmp_path / "out" / "tiles").iterdir()) == ["light", "realesrgan"]
    configs.clear()
    assert PROGRAM["main"](given) == 0
    assert not configs  # every value was kept


def test_photographs_that_are_not_there_are_named(tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        PROGRAM["main"](["--output", str(tmp_path)])
    assert PROGRAM["main"](["--photos", str(tmp_path / "none"), "--output", str(tmp_path / "out")]) == 2
    assert "none" in capsys.readouterr().err
