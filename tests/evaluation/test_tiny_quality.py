"""The bar of the small cascade: which figures pass, from which pictures they come, and what the command says."""

import importlib.util
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from cassr_jax.evaluation import cascades
from cassr_jax.evaluation.measures import make_measure
from tests.evaluation.test_tiles import picture
from tests.models.test_perceptual import narrow

PATH = Path(__file__).parents[2] / "benchmarks" / "tiny_quality.py"


@pytest.fixture(scope="module")
def program():
    spec = importlib.util.spec_from_file_location("tiny_quality", PATH)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["tiny_quality"] = module  # where dataclasses look for their annotations
    spec.loader.exec_module(module)
    yield module
    del sys.modules["tiny_quality"]


def means(lpips: float, dists: float, niqe: float, psnr_y: float) -> dict[str, dict[str, float]]:
    bicubic = {"lpips": 0.5, "dists": 0.4, "niqe": 8.0, "psnr_y": 25.0}
    result = {"lpips": lpips, "dists": dists, "niqe": niqe, "psnr_y": psnr_y}
    return {name: {"bicubic": bicubic[name], "reference": 0.0, "result": result[name]} for name in bicubic}


@pytest.mark.parametrize(
    ("preset", "figures", "passed"),
    [
        ("light", (0.32, 0.29, 7.9, 23.6), [True, True, True, True]),
        ("light", (0.33, 0.31, 8.0, 23.4), [False, False, False, False]),
        ("realesrgan", (0.37, 0.33, 7.9, 26.0), [True, True, True, True]),
        ("realesrgan", (0.38, 0.35, 9.0, 23.4), [False, False, False, False]),
    ],
)
def test_the_bar(program, preset, figures, passed):
    lines = program.judge(preset, means(*figures))
    assert [line.measure for line in lines] == ["lpips", "dists", "niqe", "psnr_y"]
    assert [line.passed for line in lines] == passed
    assert lines[0].change == pytest.approx(figures[0] / 0.5 - 1)
    assert lines[3].change == pytest.approx(figures[3] - 25)


def test_from_photographs_to_a_verdict(program, monkeypatch, tmp_path, capsys):
    """A cascade that returns its input enlarged: nothing is gained, so what must gain fails, and PSNR passes."""
    seeds = []

    def restore(lr: np.ndarray, *, seed: int, scale: float) -> SimpleNamespace:
        seeds.append(seed)
        large = lr.repeat(int(scale), 0).repeat(int(scale), 1)
        return SimpleNamespace(bicubic=large, reference=large, result=large)

    monkeypatch.setattr(cascades.cassr_jax, "load", lambda *_, **__: SimpleNamespace(restore=restore), raising=False)
    monkeypatch.setattr(program, "make_measure", lambda: make_measure(narrow("alexnet"), narrow("vgg16")))
    image = picture(256, 512, [(0, 0), (0, 1)], size=256)
    (tmp_path / "photos").mkdir()
    cv2.imwrite(str(tmp_path / "photos" / "a.png"), image[..., ::-1])
    arguments = ["--photos", str(tmp_path / "photos"), "--limit", "2", "--crops", "0", "--preset", "light"]
    assert program.main([*arguments, "--output", str(tmp_path / "quality.json")]) == 1
    assert seeds == [0, 1]
    report = json.loads((tmp_path / "quality.json").read_text())
    assert {line["measure"]: line["passed"] for line in report["lines"]} == {
        "lpips": False,
        "dists": False,
        "psnr_y": True,
    }
    tiles = report["pictures"]["light"]["tiles"]
    assert {tile["name"] for tile in tiles} == {"a.png@0,0", "a.png@0,256"}
    found = report["lines"][2]["result"]
    assert found == pytest.approx(np.mean([tile["result"]["psnr_y"] for tile in tiles]))
    assert capsys.readouterr().out.splitlines()[-1] == "1 of 3 met"


def test_a_mistake_is_one_line_and_exit_code_2(program, capsys, tmp_path):
    assert program.main(["--photos", str(tmp_path), "--limit", "0"]) == 2
    assert "--limit 0" in capsys.readouterr().err
