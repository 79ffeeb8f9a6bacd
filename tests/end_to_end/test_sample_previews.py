"""`sample.py --preview N`: what the pictures look like so far, in files beside the results."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import cassr_jax
from cassr_jax.imaging import io
from tests.end_to_end.quick import COLORS, close, color_of, flat, manifest, outputs, run

PREVIEW = ("--preview", "2")


def test_a_preview_lies_beside_each_result(folder, cascade, capsys):
    flat(folder / "a.jpg", "red", quality=95)
    flat(folder / "x" / "b.png", "blue")
    assert run("in", "--output", "out", "--format", "jpg", *PREVIEW, "--steps", "2") == 0
    assert outputs() == ["a.jpg", "a_preview.png", "x/b.jpg", "x/b_preview.png"]
    assert close(color_of("out/a_preview.png"), COLORS["red"])
    assert close(color_of("out/x/b_preview.png"), COLORS["blue"])
    assert cascade.preview_every == 2
    assert capsys.readouterr().err == ""


def test_without_the_option_there_is_none(folder, cascade):
    flat(folder / "a.jpg", "red")
    assert run("in", "--output", "out") == 0
    assert outputs() == ["a.png"]
    assert cascade.preview_every is None


def test_a_picture_that_cannot_be_read_takes_no_others_preview(folder, cascade, monkeypatch):
    for name, color in (("a", "red"), ("b", "green"), ("c", "blue")):
        flat(folder / f"{name}.png", color)
    contents, reads = io.contents, []

    def once(path):
        reads.append(path)
        if path.name == "b.png" and reads.count(path) == 2:  # when it is to be restored
            raise cassr_jax.errors.InputError(f"{path}: gone")
        return contents(path)

    monkeypatch.setattr(io, "contents", once)
    assert run("in", "--output", "out", *PREVIEW) == 2
    assert outputs() == ["a.png", "a_preview.png", "c.png", "c_preview.png"]
    assert close(color_of("out/c_preview.png"), COLORS["blue"])


def test_a_preview_that_cannot_be_written_costs_a_warning(folder, cascade, capsys, monkeypatch):
    flat(folder / "a.png", "red")
    write = io.write

    def full(path, picture):
        if Path(path).name == "a_preview.png":
            raise OSError(28, "No space left on device")
        write(path, picture)

    monkeypatch.setattr(io, "write", full)
    assert run("in", "--output", "out", *PREVIEW, "--steps", "2") == 0
    assert outputs() == ["a.png"]
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2  # one for each stage
    assert all("warning: " in line and "a preview is left out: " in line and "No space left" in line for line in lines)


def test_a_finished_picture_is_finished_with_previews_or_without(folder, cascade):
    flat(folder / "a.png", "red")
    assert run("in", "--output", "out", *PREVIEW) == 0
    entry = manifest()["a.png"]
    assert (entry["outputs"], entry["earlier"]) == ({"result": "a.png"}, ["a_preview.png"])
    Path("out/a_preview.png").unlink()
    for more in ((), PREVIEW):
        assert run("in", "--output", "out", "--resume", *more) == 0
    assert len(cascade.calls) == 1


def test_the_same_command_again_replaces_its_previews(folder, cascade):
    flat(folder / "a.png", "red")
    for color in ("red", "blue"):
        flat(folder / "a.png", color)
        assert run("in", "--output", "out", *PREVIEW) == 0
        assert close(color_of("out/a_preview.png"), COLORS[color])


def test_a_file_of_somebody_else_is_not_overwritten(folder, cascade, capsys):
    flat(folder / "a.png", "red")
    flat(Path("out/a_preview.png"), "green")
    assert run("in", "--output", "out", *PREVIEW) == 2
    assert "a_preview.png: exists and is no result of this program" in capsys.readouterr().err
    assert close(color_of("out/a_preview.png"), COLORS["green"])


def test_a_preview_takes_no_other_pictures_place(folder, cascade, capsys):
    flat(folder / "a.png", "red")
    flat(folder / "a_preview.png", "green")
    assert run("in", "--output", "out", *PREVIEW) == 2
    assert "a_preview.png would also be written for" in capsys.readouterr().err
    assert close(color_of("out/a_preview.png"), COLORS["red"])


@pytest.mark.parametrize("split", ["tiles", pytest.param("spatial", marks=pytest.mark.slow)])
def test_tiny_writes_them_and_the_same_result(folder, split):
    """Its autoencoder decodes them: no TAESD is made for latents of four pixels."""
    picture = np.random.default_rng(0).integers(0, 256, (16, 12, 3)).astype(np.uint8)
    Image.fromarray(picture).save(folder / "a.png")
    options = ["--steps", "3", "--activation", "identity", "--split", split]
    options += ["--tile", "64"] * (split == "tiles")
    assert run("in", "--output", "plain", *options) == 0
    assert run("in", "--output", "out", *options, *PREVIEW) == 0
    assert Path("out/a.png").read_bytes() == Path("plain/a.png").read_bytes()
    preview, result = (io.read(f"out/{name}.png").rgb.astype(int) for name in ("a_preview", "a"))
    assert preview.shape == result.shape == (64, 48, 3)
    assert 0 < np.abs(preview - result).mean() < 30


def test_more_steps_than_any_stage_takes_are_pointed_out(folder, cascade, capsys):
    flat(folder / "a.png", "red")
    assert run("in", "--output", "out", "--preview", "3", "--steps", "2") == 0
    assert "--preview 3: no stage takes more than 2 steps, so there is no preview" in capsys.readouterr().err
