"""What `sample.py` writes."""

import sys
import typing
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import sample
from cassr_jax.imaging import io, resizing
from tests.end_to_end.quick import (
    COLORS,
    close,
    color_of,
    flat,
    four_of_one_name,
    manifest,
    outputs,
    run,
)
from tests.imaging import pictures


def test_one_photograph(folder, cascade, capsys):
    flat(folder / "a.jpg", "red")
    assert run("in/a.jpg", "--output", "out") == 0
    assert outputs() == ["a.png"]
    with Image.open("out/a.png") as result:
        assert (result.size, result.mode, result.format) == ((48, 32), "RGB", "PNG")
    assert close(color_of("out/a.png"), COLORS["red"])
    captured = capsys.readouterr()
    needs, done = captured.out.splitlines()
    assert needs == "1 picture of 48x32 px; about 0.5 GB of memory besides the networks"
    assert done.startswith(str(Path("in/a.jpg")) + " -> ")
    assert captured.err == ""


def test_who_waits_at_a_terminal_is_told_what_for(folder, cascade, capsys, monkeypatch):
    flat(folder / "a.jpg", "red")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert run("in/a.jpg", "--output", "out", "--tile", "64") == 0
    lines = capsys.readouterr().err.splitlines()
    told = ["loading the weights of tiny", "compiling for tiles of up to 64 px: the first picture takes longer"]
    assert [line for line in lines if line.startswith("sample.py: ")] == [f"sample.py: {line}" for line in told]


def test_settings_reach_the_cascade_and_the_manifest(folder, cascade, capsys):
    flat(folder / "a.png", "red")
    Path("fused.py").write_text(
        "from cassr_jax.config import CascadeConfig\ncascade = CascadeConfig(components={'fusion': 'here'})"
    )
    arguments = (
        "--config fused.py --scale 2 --seed 9223372036854775807 --steps 7 --guidance-scale 1.5 --activation identity"
    )
    arguments += " --color-fix adain --sampler unipc --start reference --strength 0.5 --tile 64 --precision bf16"
    arguments += " --devices 2 --reference-weight 0.25 --fidelity 0.75 --decoder vae"
    arguments += " --process-size 96 --negative-prompt smear"
    arguments += " --speed fast --guidance-from 0.1 --guidance-to 0.9 --control-every 2"
    assert run("in/a.png", "--output", "out", *arguments.split()) == 0
    assert capsys.readouterr().out.startswith("1 picture of 144x96 px; ")
    assert cascade.loaded == [
        ("fused.py", {"activation": "identity", "loras": {}, "dtype": "bfloat16", "devices": 2, "split": "tiles"})
    ]
    expected = {
        "scale": 2.0,
        "seed": 2**63 - 1,
        "speed": "fast",
        "steps": 7,
        "guidance_from": 0.1,
        "guidance_to": 0.9,
        "control_every": 2,
        "color_fix": "adain",
        "sampler": "unipc",
        "start": "reference",
        "strength": 0.5,
        "reference_weight": 0.25,
        "fidelity": 0.75,
        "decoder": "vae",
        "tile": 64,
        "process_size": 96,
        "negative_prompt": "smear",
    }
    assert cascade.calls == [{"size": (8, 12), "guidance_scale": 1.5, "prompt": None, **expected}]
    entry = manifest()["a.png"]
    settings = entry["settings"]
    assert settings.items() >= {"scale": 2.0, "seed": 2**63 - 1, "tile": 64, "dtype": "bfloat16"}.items()
    assert (settings["activation"], settings["reference"]) == ("identity", {"color_fix": "adain"})
    assert settings["result"] == {
        "sampler": "unipc",
        "num_steps": 7,
        "guidance_scale": 1.5,
        "guidance_from": 0.1,
        "guidance_to": 0.9,
        "control_every": 2,
        "start": "reference",
        "strength": 0.5,
        "prompt": "clean, high-resolution",
        "negative_prompt": "smear",
        "process_size": 96,
        "color_fix": "adain",
        "reference_weight": 0.25,
        "fidelity": 0.75,
    }
    assert (entry["input"], entry["status"], entry["error"]) == (str(Path("in/a.png").resolve()), "done", None)


def test_left_out_settings_are_the_configurations(folder, cascade):
    flat(folder / "a.png", "red")
    assert run("in/a.png", "--output", "out") == 0
    options = {"activation": None, "loras": {}, "dtype": None, "devices": None, "split": "tiles"}
    assert cascade.loaded == [("tiny", options)]
    (call,) = cascade.calls
    assert (call.pop("size"), call.pop("scale"), call.pop("seed")) == ((8, 12), 4.0, 0)
    assert set(call.values()) == {None}


def test_the_manifest_names_every_setting_that_really_ran(folder, cascade):
    flat(folder / "a.png", "red")
    Path("prompts.tsv").write_text("a\ta bee")
    assert run("in/a.png", "--output", "out", "--prompts", "prompts.tsv", "--activation", "scedit") == 0
    settings = manifest()["a.png"]["settings"]
    both = {
        "sampler": "ddim",
        "num_steps": 1,
        "guidance_scale": 1.0,
        "guidance_from": 0.0,
        "guidance_to": 1.0,
        "control_every": 1,
        "strength": 0.2,
        "prompt": "a bee",
        "negative_prompt": "",
        "color_fix": "wavelet",
    }
    assert (settings["config"], settings["activation"]) == ("tiny", "scedit")
    assert (settings["dtype"], settings["tile"], settings["tile_overlap"]) == ("float32", 256, 0.25)
    assert settings["reference"] == both | {"start": "lq"}
    assert settings["result"] == both | {"start": "reference", "reference_weight": 0.0}


def test_a_default_that_is_written_out_is_the_same_setting(folder, cascade):
    flat(folder / "a.png", "red")
    assert run("in", "--output", "out") == 0
    same = "--steps 1 --reference-weight 0.75 --precision fp32 --tile 256 --activation rrdbnet"
    assert run("in", "--output", "out", "--resume", *same.split()) == 0
    assert len(cascade.calls) == 1
    assert run("in", "--output", "out", "--resume", "--reference-weight", "0.5") == 0
    assert len(cascade.calls) == 2


def test_reference_and_comparison(folder, cascade):
    flat(folder / "x" / "a.png", "red")
    assert run("in", "--output", "out", "--save-reference", "--compare") == 0
    assert outputs() == ["x/a.png", "x/a_compare.png", "x/a_reference.png"]
    assert color_of("out/x/a_reference.png") == (127, 0, 0)
    with Image.open("out/x/a_compare.png") as row:
        assert row.size == (3 * 48, 32)
        assert [row.getpixel((x, 5))[0] for x in (5, 53, 101)] == [255, 127, 255]


@pytest.mark.parametrize(("format", "suffix"), [("png", "png"), ("jpg", "jpg"), ("webp", "webp"), ("keep", "jpg")])
def test_formats(folder, cascade, format, suffix):
    flat(folder / "a.jpg", "green")
    assert run("in", "--output", "out", "--format", format) == 0
    assert outputs() == [f"a.{suffix}"]
    assert close(color_of(f"out/a.{suffix}"), COLORS["green"])
    with Image.open(f"out/a.{suffix}") as result:
        assert result.format == {"png": "PNG", "jpg": "JPEG", "webp": "WEBP"}[suffix]


def test_formats_are_kept_one_by_one(folder, cascade):
    flat(folder / "a.png", "red")
    flat(folder / "b.webp", "red")
    flat(folder / "c.gif", "red")
    assert run("in", "--output", "out", "--format", "keep") == 0
    assert outputs() == ["a.png", "b.webp", "c.png"]


@pytest.mark.parametrize(("orientation", "corner"), [(6, (0, 1)), (5, (0, 0)), (7, (1, 1))])
def test_phone_photograph_stands_upright(folder, cascade, orientation, corner):
    rgb = np.full((48, 64, 3), 255, np.uint8)
    rgb[:16, :16] = (255, 0, 0)
    exif = Image.Exif()
    exif[io.EXIF_ORIENTATION] = orientation
    Image.fromarray(rgb).save(folder / "a.jpg", exif=exif, quality=95)
    assert run("in", "--output", "out", "--format", "keep") == 0
    with Image.open("out/a.jpg") as result:
        assert result.size == (192, 256)
        assert io.EXIF_ORIENTATION not in result.getexif()
        for row, column in np.ndindex(2, 2):
            pixel = result.getpixel((column * 171 + 10, row * 235 + 10))
            assert close(pixel, (255, 0, 0) if (row, column) == corner else (255, 255, 255), 8)


def test_every_kind_of_grey(folder, cascade):
    ramp = np.linspace(0, 255, 48).round().astype(np.uint8)[None].repeat(48, 0)
    ramp16 = np.linspace(0, 65535, 48).round().astype(np.uint16)[None].repeat(48, 0)
    grey = Image.fromarray(ramp)
    grey.save(folder / "l.png")
    grey.convert("LA").save(folder / "la.png")
    grey.convert("1", dither=Image.Dither.NONE).save(folder / "one.png")
    (folder / "grey16.png").write_bytes(pictures.png(ramp16[..., None], 16, 0))
    (folder / "rgb16.png").write_bytes(pictures.png(np.stack([ramp16] * 3, -1), 16, 2))
    assert run("in", "--output", "out") == 0
    results = {}
    for name in ("l", "la", "one", "grey16", "rgb16"):
        with Image.open(f"out/{name}.png") as image:
            assert image.size == (192, 192)
            assert image.mode == {"la": "LA", "rgb16": "RGB", "grey16": "I;16"}.get(name, "L")
        results[name] = pictures.read_in_8_bits(Path(f"out/{name}.png")).rgb.astype(int)
    for name in ("la", "grey16", "rgb16"):
        assert np.abs(results[name] - results["l"]).mean() <= 2
    black_and_white = resizing.bicubic(np.where(ramp > 127, 255, 0).astype(np.uint8), (192, 192))
    assert np.abs(results["one"] - black_and_white[..., None]).max() == 0


def test_cmyk_is_no_negative(folder, cascade):
    data = pictures.encoded(Image.new("CMYK", (48, 48), (0, 255, 255, 0)), "JPEG")
    (folder / "adobe.jpg").write_bytes(data)
    (folder / "plain.jpg").write_bytes(pictures.without_adobe_marker(data))
    assert run("in", "--output", "out", "--format", "keep") == 0
    for name in ("adobe", "plain"):
        assert close(color_of(f"out/{name}.jpg"), COLORS["red"])
        with Image.open(f"out/{name}.jpg") as result:
            assert result.mode == "RGB"


@pytest.mark.parametrize("color_fix", ["wavelet", "adain", "none"])
def test_transparency_is_kept(folder, cascade, color_fix):
    image = pictures.palette_with_hidden_magenta()
    image.save(folder / "palette.png")
    image.convert("RGBA").save(folder / "rgba.png")
    assert run("in", "--output", "out", "--color-fix", color_fix) == 0
    for name in ("palette", "rgba"):
        with Image.open(f"out/{name}.png") as result:
            rgba = np.asarray(result)
        assert rgba.shape == (128, 128, 4)
        assert rgba[:8, :, 3].max() == 0
        assert rgba[60:68, 60:68, 3].min() == 255
        assert rgba[..., 0].max() <= 12  # no magenta, not even where it cannot be seen


@pytest.mark.parametrize("tile", [[], ["--tile", "16"]])
def test_tiny_and_thin_pictures(folder, cascade, tile):
    sizes = {"1x1": (1, 1), "1x200": (1, 200), "200x1": (200, 1), "4x4": (4, 4), "3x9": (3, 9)}
    for name, (width, height) in sizes.items():
        Image.fromarray(pictures.photograph(height, width)).save(folder / f"{name}.png")
    assert run("in", "--output", "out", *tile) == 0
    for name, (width, height) in sizes.items():
        with Image.open(f"out/{name}.png") as result:
            assert result.size == (4 * width, 4 * height)
        assert close(color_of(f"out/{name}.png"), color_of(folder / f"{name}.png"), 3)


@pytest.mark.parametrize("suffix", ["gif", "webp", "png"])
def test_animation(folder, cascade, capsys, suffix):
    frames = [Image.new("RGB", (16, 16), color) for color in ("red", "green", "blue")]
    frames[0].save(folder / f"moving.{suffix}", save_all=True, append_images=frames[1:], lossless=True)
    assert run("in", "--output", "out") == 0
    assert color_of("out/moving.png") == COLORS["red"]
    (line,) = capsys.readouterr().err.splitlines()
    assert f"moving.{suffix}: 3 frames" in line


def test_one_name_four_pictures(folder, cascade, capsys):
    expected = four_of_one_name(folder)
    for _ in range(2):
        assert run("in", "--output", "out", "--resume") == 0
        assert outputs() == sorted(expected)
        for name, color in expected.items():
            assert close(color_of(f"out/{name}"), COLORS[color])
    assert len(cascade.calls) == 4  # the second run had nothing to do
    assert "4 of 4" in capsys.readouterr().out


def test_one_name_in_two_folders(folder, cascade):
    four_of_one_name(folder)
    assert run("in/x", "in/y", "--output", "out") == 0
    assert outputs() == ["x/a.png", "y/a.png"]
    assert color_of("out/x/a.png") == COLORS["blue"]
    assert color_of("out/y/a.png") == COLORS["grey"]


def test_results_carry_their_own_names(folder, cascade):
    rng = np.random.default_rng(0)
    expected = {}
    for i in range(16):
        color, size = tuple(int(c) for c in rng.integers(0, 256, 3)), tuple(int(s) for s in rng.integers(1, 20, 2))
        flat(folder / f"{i}.png", color, size)
        expected[f"{i}.png"] = (color, (size[0] * 4, size[1] * 4))
    assert run("in", "--output", "out") == 0
    assert sorted(outputs()) == sorted(expected)
    for name, (color, size) in expected.items():
        with Image.open(f"out/{name}") as result:
            assert result.size == size
        assert color_of(f"out/{name}") == color


@pytest.mark.parametrize("seed", [0, 4294967296, 685470360099406, 2**63 - 1])
def test_seeds_are_recorded_as_given(folder, cascade, seed):
    flat(folder / "a.png", "red")
    assert run("in", "--output", "out", "--seed", seed) == 0
    assert cascade.calls[0]["seed"] == manifest()["a.png"]["settings"]["seed"] == seed


def test_the_bar_moves_by_the_work_done_on_the_pictures_in_hand():
    class Bar:
        disable, n = False, 0.0
        shown: typing.ClassVar[list] = []

        def set_description(self, text):
            self.shown.append((text, self.n))

    progress = sample.Progress(Bar())
    progress.pictures, progress.finished = ["a", "b"], 3
    for stage in ("reference", "result"):
        for done in (2, 4):
            progress(stage, done, 4)
    names = [f"restoring, {stage} {done}/4" for stage in ("reference", "result") for done in (2, 4)]
    assert Bar.shown == list(zip(names, [3.5, 4.0, 4.5, 5.0], strict=True))


def test_what_is_lost_of_a_picture_is_one_line_and_no_fault(folder, cascade, capsys):
    flat(folder / "a.jpg", "red")
    (folder / "a.jpg").write_bytes((folder / "a.jpg").read_bytes()[:-2])
    assert run("in", "--output", "out") == 0
    (line,) = capsys.readouterr().err.splitlines()
    assert line == f"sample.py: warning: {Path('in/a.jpg')}: its end marker is missing, but no pixel is"


def test_what_is_passed_over_or_rounded_is_one_line_each_and_no_fault(folder, cascade, capsys):
    Image.fromarray(np.full((8, 12), 40_000, np.uint16)).save(folder / "a.png")
    (folder / "lost.png").symlink_to("none")
    (folder / "lost.jpg").symlink_to("none")
    assert run("in", "--output", "out", "--format", "webp") == 0
    assert capsys.readouterr().err.splitlines() == [
        "sample.py: warning: passed over, links that lead nowhere: 2, such as in/lost.jpg",
        "sample.py: warning: in/a.png: its 16 bits per sample become 8, which --format png and tiff would keep",
    ]
