"""Bundling a cascade into one folder."""

import os
from pathlib import Path

import numpy as np
import pytest
import yaml

import cassr_jax
from cassr_jax.commands import bundle
from cassr_jax.commands.running import INTERRUPTED
from cassr_jax.errors import InputError
from cassr_jax.files import write_json
from cassr_jax.loading import read_cascade
from cassr_jax.locks import claimed
from tests.random_cascade import random_params, write_random_cascade


def bundled(source: Path, output: Path) -> int:
    return bundle.main(["--config", str(source), "--output", str(output), "--dtype", "float32"])


def test_a_bundle_holds_what_its_source_has_from_others(tmp_path: Path):
    """A tokenizer and an RRDBNet, in a checkpoint's folder or files: they are copied, and found without the source."""
    for name in ("tokenizer/vocab.json", "tokenizer/merges.txt", "tokenizer/other.bin", "vae/config.json", "net.PARAM"):
        (tmp_path / "sd" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "sd" / name).write_text(name)
    (tmp_path / "sd" / "net.bin").write_text("weights")
    own = {"tokenizer": "../sd", "rrdbnet": "../sd/net.PARAM"}
    source = write_random_cascade(tmp_path / "source", components={"vae": "vae", **own})
    assert bundled(source, tmp_path / "bundle") == 0
    config, base = read_cascade(tmp_path / "bundle")
    assert (config.components["tokenizer"], config.components["rrdbnet"]) == ("tokenizer", "rrdbnet/net.PARAM")
    copied = {file.relative_to(base).as_posix(): file.read_text() for file in sorted(base.glob("[rt]*/*"))}
    assert copied == {
        "rrdbnet/net.PARAM": "net.PARAM",
        "rrdbnet/net.bin": "weights",
        "tokenizer/merges.txt": "tokenizer/merges.txt",
        "tokenizer/vocab.json": "tokenizer/vocab.json",
    }


def test_what_a_package_or_a_hub_holds_is_named(tmp_path: Path):
    own = {"tokenizer": "owner/name", "rrdbnet": "realesrgan-x4plus"}
    source = write_random_cascade(tmp_path / "source", components={"vae": "vae", **own})
    assert bundled(source, tmp_path / "bundle") == 0
    assert read_cascade(tmp_path / "bundle")[0].components.items() >= own.items()


def test_a_file_that_cannot_be_copied_is_named(tmp_path: Path, capsys):
    (tmp_path / "empty").mkdir()
    source = write_random_cascade(tmp_path / "source", components={"tokenizer": str(tmp_path / "empty")})
    assert bundled(source, tmp_path / "bundle") == 2
    assert "empty/vocab.json: cannot be read (No such file or directory)" in capsys.readouterr().err


class TestCard:
    """The card says what the weights are, and nothing of the machine where they were made."""

    def card(self, source: Path, output: Path, *options: str) -> str:
        assert bundle.main(["--config", str(source), "--output", str(output), *options]) == 0
        return (output / "README.md").read_text()

    def test_of_a_run_with_its_measures(self, tmp_path: Path):
        run = tmp_path / "run"
        write_random_cascade(run / "export", components={"vae": "vae", "unet": "unet", "tokenizer": "owner/sd:inner"})
        write_json(run / "export/trained.json", {"stage": "cassr", "step": 1200, "weights": "averaged (EMA)"})
        data = {"path": "/home/someone/data/photos", "mixture": None, "crop_size": 512, "preset": "realesrgan"}
        optimizer = {"learning_rate": 5e-5}
        write_json(run / "config.json", {"data": data, "batch_size": 8, "optimizer": optimizer, "stage": "cassr"})
        report = tmp_path / "report"
        report.mkdir()
        (report / "table.md").write_text("| program | LPIPS |\n|---|---|\n| result | 0.2 |\n")
        write_json(report / "comparison.json", {})
        card = self.card(run, tmp_path / "out", "--licence", "openrail", "--report", str(report))
        fields = yaml.safe_load(card.split("---")[1])
        assert fields == {
            "library_name": "cassr-jax",
            "pipeline_tag": "image-to-image",
            "tags": ["super-resolution", "jax", "flax"],
            "license": "openrail",
            "base_model": ["owner/sd"],
        }
        count = sum(value.size for value in random_params("unet").values())
        assert f"| unet | this repository | {count:,} |" in card
        assert "| tokenizer | owner/sd:inner |  |" in card
        assert "**Training.** Stage `cassr`, step 1200; its averaged (EMA) weights." in card
        assert "**Data.** photos, crops of 512 px, degraded by the preset `realesrgan`; 8 examples a step" in card
        assert "| result | 0.2 |" in card
        assert "someone/data" not in card

    def test_without_a_run(self, tmp_path: Path):
        card = self.card(write_random_cascade(tmp_path / "source", components={"vae": "vae"}), tmp_path / "out")
        assert "license" not in yaml.safe_load(card.split("---")[1])
        assert "**Training.**" not in card
        assert 'cassr_jax.load("OWNER/NAME")' in card

    def test_a_report_that_is_none_is_refused_before_anything_is_written(self, tmp_path: Path, capsys):
        source = write_random_cascade(tmp_path / "source")
        options = ["--config", str(source), "--output", str(tmp_path / "out"), "--report", str(tmp_path)]
        assert bundle.main(options) == 2
        assert "holds no table.md, expected the output of python -m cassr_jax.evaluation" in capsys.readouterr().err
        assert list((tmp_path / "out").iterdir()) == []


def test_an_interrupted_bundle_leaves_no_mixture(tmp_path: Path, monkeypatch):
    source, output = write_random_cascade(tmp_path / "source"), tmp_path / "bundle"
    assert bundled(source, output) == 0
    write, writing = bundle.write_network, []

    def interrupted(*arguments):
        if writing:
            raise KeyboardInterrupt
        writing.append(write(*arguments))

    monkeypatch.setattr(bundle, "write_network", interrupted)
    assert bundled(source, output) == INTERRUPTED
    with pytest.raises(InputError, match=r"holds no cassr\.json"):
        read_cascade(output)


def test_a_bundle_is_the_cascade_in_one_folder(tmp_path: Path, capsys):
    source, output = write_random_cascade(tmp_path / "source"), tmp_path / "bundle"
    arguments = ["--config", str(source), "--output", str(output), "--dtype", "float32"]
    with claimed(output, "another program"):
        assert bundle.main(arguments) == 2
    assert f"{output}: in use by another program, process {os.getpid()}" in capsys.readouterr().err
    assert list(output.iterdir()) == []

    assert bundle.main(arguments) == 0
    moved = output.rename(tmp_path / "moved")
    expected, found = (cassr_jax.load(folder).networks for folder in (source, moved))
    assert found.configs == expected.configs
    assert found.params.keys() == expected.params.keys()
    assert all(np.array_equal(value, expected.params[name]) for name, value in found.params.items())
    assert not (moved / ".lock").exists()


@pytest.mark.parametrize("output", ["", "unet", "unet/below"])
def test_no_part_is_read_where_another_is_written(tmp_path, output, capsys):
    """A bundle onto its own source would halve the weights that it still reads, and lose them if it failed."""
    write_random_cascade(tmp_path / "cascade")
    before = {path: path.read_bytes() for path in sorted((tmp_path / "cascade").rglob("*")) if path.is_file()}
    given = ["--config", str(tmp_path / "cascade"), "--output", str(tmp_path / "cascade" / output)]
    assert bundle.main(given) == 2
    assert "expected a folder outside it" in capsys.readouterr().err
    after = {path: path.read_bytes() for path in before}
    assert after == before
