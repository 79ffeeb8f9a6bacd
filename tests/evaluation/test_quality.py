"""The evaluation command: right numbers in the right places, from pictures on disk to the report."""

import json
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

import cassr_jax
from cassr_jax.evaluation import quality
from cassr_jax.evaluation.fidelity import psnr
from cassr_jax.evaluation.measures import COLUMNS, make_measure, spread, table
from cassr_jax.evaluation.sheet import contact_sheet
from tests.evaluation.test_tiles import picture
from tests.models.test_perceptual import GOLDEN, narrow


@pytest.fixture(scope="module")
def measure():
    return make_measure(narrow("alexnet"), narrow("vgg16"))


def values(**changes: float) -> dict[str, float]:
    return dict.fromkeys(COLUMNS, 0.5) | changes


def test_measures_of_several_pictures_against_one_truth(measure):
    (picture, _), (truth, _) = GOLDEN["pictures"]
    result, perfect = measure(truth, [picture, truth])
    assert result["lpips"] == pytest.approx(GOLDEN["narrow.lpips.alexnet"][0], rel=2e-5)
    assert result["dists"] == pytest.approx(GOLDEN["narrow.dists"][0], rel=2e-5)
    assert (result["psnr_y"], result["ssim_y"]) == pytest.approx(tuple(GOLDEN["fidelity"][0]))
    assert result["psnr_rgb"] == pytest.approx(psnr(picture, truth))
    assert perfect == {
        "lpips": pytest.approx(0, abs=1e-6),
        "dists": pytest.approx(0, abs=1e-5),
        "psnr_y": np.inf,
        "ssim_y": pytest.approx(1),
        "psnr_rgb": np.inf,
    }


def test_spread_is_that_of_a_sample():
    assert spread([1, 3]) == (2, pytest.approx(2**0.5))
    assert spread([7]) == (7, 0)


def test_the_table_compares_result_and_reference_picture_by_picture():
    reference = [values(lpips=0.4, psnr_y=20.0), values(lpips=0.6, psnr_y=22.0)]
    result = [values(lpips=0.3, psnr_y=21.0), values(lpips=0.75, psnr_y=25.0)]
    lines = [
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in table({"reference": reference, "result": result}).splitlines()
    ]
    titles = lines[0]
    rows = {line[0]: dict(zip(titles, line, strict=True)) for line in lines[2:]}
    assert set(rows) == {"reference", "result", "result - reference", "result better"}
    assert rows["reference"]["LPIPS ↓"] == "0.5000 ± 0.1414"
    assert rows["result - reference"]["LPIPS ↓"] == "+0.0250 ± 0.1250"
    assert rows["result - reference"]["PSNR-Y ↑"] == "+2.00 ± 1.00"
    assert rows["result better"]["LPIPS ↓"] == "1 of 2"
    assert rows["result better"]["PSNR-Y ↑"] == "2 of 2"
    assert rows["result better"]["DISTS ↓"] == "0 of 2"


def test_contact_sheet_places_and_shrinks():
    red, blue = np.zeros((2, 64, 32, 3), np.uint8)
    red[..., 0], blue[..., 2] = 255, 255
    sheet = contact_sheet([[red, blue], [np.full((512, 1024, 3), 9, np.uint8), red]])
    assert sheet.shape == (516, 516, 3)
    assert (sheet[:64, :32] == red).all()
    assert (sheet[:64, 260:292] == blue).all()
    assert (sheet[260:388, :256] == 9).all()
    assert (sheet[388:, :256] == 255).all()


@pytest.fixture
def cascade(monkeypatch, measure):
    """A cascade that enlarges; its result is the reference with the seed added. Returns the options it was given."""
    seen: list[dict] = []

    def restore(lr: np.ndarray, *, seed: int, scale: float, **options) -> SimpleNamespace:
        seen.append({"seed": seed, "scale": scale, **options})
        large = lr.repeat(4, 0).repeat(4, 1)
        return SimpleNamespace(bicubic=large, reference=large // 2, result=large // 2 + np.uint8(seed))

    monkeypatch.setattr(cassr_jax, "load", lambda *_, **__: SimpleNamespace(restore=restore), raising=False)
    monkeypatch.setattr(quality, "make_measure", lambda: measure)
    return seen


def test_from_photographs_to_a_report(tmp_path, capsys, cascade):
    (tmp_path / "photos").mkdir()
    image = picture(256, 512, [(0, 0), (0, 1)], size=256)
    cv2.imwrite(str(tmp_path / "photos" / "a.png"), image[..., ::-1])
    output = tmp_path / "out"
    options = ["--tiles", "2", "--steps", "3", "--output", str(output)]
    assert quality.main(["--photos", str(tmp_path / "photos"), *options]) == 0
    assert cascade == [{"seed": seed, "scale": 4, "steps": 3} for seed in (0, 1)]
    report = json.loads((output / "quality.json").read_text())
    assert {record["name"] for record in report["pictures"]} == {"a.png@0,0", "a.png@0,256"}
    psnrs = [record["values"]["result"]["psnr_rgb"] for record in report["pictures"]]
    assert report["summary"]["result"]["psnr_rgb"]["mean"] == pytest.approx(np.mean(psnrs))
    assert report["settings"]["preset"] == "light"
    assert (output / "quality.md").read_text() == capsys.readouterr().out
    sheet = cv2.imread(str(output / "sheet.png"))[..., ::-1]
    assert sheet.shape == (516, 1036, 3)
    top, left = map(int, report["pictures"][1]["name"].split("@")[1].split(","))
    assert (sheet[260:516, 780:] == image[top : top + 256, left : left + 256]).all()


def test_a_person_s_mistake_is_one_line_and_exit_code_2(tmp_path, capsys, cascade):
    assert quality.main(["--photos", str(tmp_path / "none"), "--output", str(tmp_path)]) == 2
    assert quality.main(["--photos", str(tmp_path), "--tiles", "0", "--output", str(tmp_path)]) == 2
    error = capsys.readouterr().err.splitlines()
    assert len(error) == 2
    assert "none" in error[0]
    assert "--tiles" in error[1]
