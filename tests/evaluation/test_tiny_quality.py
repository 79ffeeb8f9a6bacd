"""The bar of the small cascade: which figures pass, from which pictures they come, and what the command says."""

import importlib.util
import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest

from cassr_jax.evaluation import cascades
from cassr_jax.evaluation.comparison import Measured
from cassr_jax.restoration import Restoration
from tests.evaluation.fake_cascade import fake_cascade
from tests.evaluation.narrow_backbones import install_narrow_networks
from tests.evaluation.pair_folders import write
from tests.evaluation.test_tiles import picture

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


def found(gains: tuple[float, ...], blurred: float = 0.3, **values: float) -> list[Measured]:
    """A reference of LPIPS 0.3, a result that is better by each of `gains`, and a blur between; DISTS likewise."""
    measured = []
    for i, gain in enumerate(gains):
        result = {"lpips": 0.3 - gain, "dists": 0.3 - gain, "niqe": 6.0, "psnr_y": 25.0} | values
        reference = {"lpips": 0.3, "dists": 0.3, "niqe": 6.0, "psnr_y": 25.0}
        rows = {"bicubic": dict.fromkeys(reference, 0.6), "reference": reference, "result": result}
        rows["blur"] = reference | {"lpips": blurred}
        measured.append(Measured(str(i), rows))
    return measured


@pytest.mark.parametrize(
    ("gains", "passed"),
    [
        ((0.03, 0.05), [True, True]),  # 0.04, two standard errors 0.02
        ((0.0, 0.05), [False, False]),  # 0.025, two standard errors 0.05
        ((0.0, 0.0), [False, False]),
        ((-0.03, -0.05), [False, False]),
    ],
)
def test_on_tiles_the_result_must_beat_its_reference_beyond_doubt(program, gains, passed):
    lines = program.judge("light", program.ON_TILES, found(gains))
    assert [line.passed for line in lines] == passed
    assert lines[0].gain == pytest.approx(np.mean(gains))
    assert lines[0].error == pytest.approx(np.std(gains, ddof=1) / math.sqrt(2))


@pytest.mark.parametrize(
    ("case", "passed"),
    [
        (found((0.03, 0.04, 0.05)), [True, True, True, True, True]),
        (found((0.017, 0.018, 0.019)), [False, True, True, True, True]),
        (found((0.03, 0.04, 0.05), blurred=0.262), [True, False, True, True, True]),
        (found((0.03, 0.04, 0.05), niqe=6.1), [True, True, True, False, True]),
        (found((0.03, 0.04, 0.05), psnr_y=24.9), [True, True, True, True, False]),
    ],
    ids=["all", "too little", "no more than a blur", "less natural", "less faithful"],
)
def test_on_real_pairs(program, case, passed):
    lines = program.judge("real pairs", program.ON_PAIRS, case)
    assert [line.passed for line in lines] == passed
    assert lines[1].against == ("blur" if not passed[1] else lines[1].against)


def test_a_peer_and_the_own_first_stage(program):
    case = found((0.03, 0.04, 0.05))
    for measured, niqe in zip(case, (5.95, 5.95, 5.95), strict=True):
        measured.values["peer"] = {"lpips": 0.27, "dists": 0.25, "niqe": niqe, "psnr_y": 24.0}
    lines = program.judge("real pairs", program.against_peer("peer"), case)
    assert [line.passed for line in lines] == [True, False, True, True]
    own = program.judge("light", program.OWN_FIRST_STAGE, found((-0.05, -0.07)))  # 0.36, 40 % below 0.6
    assert [line.passed for line in own] == [True, True]
    assert not program.judge("light", program.OWN_FIRST_STAGE, found((-0.07, -0.07)))[0].passed


@pytest.fixture
def cascade(monkeypatch):
    """A cascade that repeats pixels, judged by narrow networks. Lists the sides of the pictures that it restores."""
    sides: list[int] = []

    def restore(lr: np.ndarray, *, seed: int, scale: float, reference_weight: float) -> Restoration:
        sides.append(lr.shape[0])
        large = lr.repeat(int(scale), 0).repeat(int(scale), 1)
        return Restoration(large, large, large)

    loaded = fake_cascade(restore)
    monkeypatch.setattr(cascades.cassr_jax, "load", lambda *_, **__: loaded, raising=False)
    monkeypatch.setattr(cascades, "make_autoencode", lambda _: lambda image: image)
    install_narrow_networks(monkeypatch)
    return sides


def test_from_photographs_and_pairs_to_a_verdict(program, cascade, tmp_path, capsys):
    """A cascade that returns its input enlarged gains nothing: what must gain is missed, what must not lose is met."""
    image = picture(512, 512, [(0, 0), (0, 1)], size=256)
    write(tmp_path / "photos", "a.png", image)
    write(tmp_path / "real" / "hr", "x.png", image)
    write(tmp_path / "real" / "lr", "x.png", np.ascontiguousarray(image[::4, ::4]))
    write(tmp_path / "real" / "hr", "y.png", image[::-1])
    write(tmp_path / "real" / "lr", "y.png", np.ascontiguousarray(image[::-4, ::4]))
    out = tmp_path / "out"
    options = ["--tiles", "2", "--crops", "1", "--preset", "light", "--output", str(out)]
    given = ["--photos", str(tmp_path / "photos"), "--pairs", str(tmp_path / "real"), *options]
    assert program.main(given) == 1
    assert cascade == [64, 64, 128, 128, 128]
    report = json.loads((out / "quality.json").read_text())
    verdicts = {(line["set"], line["bar"]["measure"], line["against"]): line["passed"] for line in report["lines"]}
    assert verdicts["light", "lpips", "reference"] is verdicts["light", "dists", "reference"] is False
    assert verdicts["real pairs", "niqe", "reference"] is verdicts["real pairs", "psnr_y", "reference"] is True
    text = capsys.readouterr().out
    assert text.splitlines()[-1] == "2 of 7 met"
    assert "| reference, blurred 0.5 |" in text
    assert "light: 2 tiles, 1 crops" in text
    assert (out / "quality.md").read_text().rstrip().splitlines() == text.splitlines()[:-1]
    cascade.clear()
    assert program.main(given) == 1
    assert not cascade  # every value was kept


def test_a_mistake_is_one_line_and_exit_code_2(program, cascade, capsys, tmp_path):
    with pytest.raises(SystemExit, match="2"):
        program.main(["--photos", str(tmp_path), "--tiles", "0", "--output", str(tmp_path)])
    assert "--tiles" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):  # the cascade's own row has that name
        program.main(["--pairs", str(tmp_path), "--results", "result=FOLDER", "--output", str(tmp_path)])
    assert "'result=FOLDER', expected NAME=DIR with a name that is none of bicubic" in capsys.readouterr().err
    assert program.main(["--photos", str(tmp_path / "none"), "--output", str(tmp_path / "out")]) == 2
    assert "none" in capsys.readouterr().err
