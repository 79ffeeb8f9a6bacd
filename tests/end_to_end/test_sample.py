"""`sample.py` as a person runs it, with a quick stand-in for the networks."""

import json
import subprocess
import sys
import typing
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

import cassr_jax
import sample
from cassr_jax.errors import InputError
from cassr_jax.imaging import io
from tests.imaging import pictures

ROOT = Path(sample.__file__).parent
COLORS = {"red": (255, 0, 0), "green": (0, 128, 0), "blue": (0, 0, 255), "grey": (128, 128, 128)}


class BicubicCascade:
    """Both stages are bicubic; the reference is recognisable by being darker."""

    def __init__(self):
        self.calls: list[dict] = []

    def restore(self, rgb, *, scale, seed, progress, **settings):
        self.calls.append({"size": rgb.shape[:2], "scale": scale, "seed": seed, **settings})
        for stage in ("reference", "result"):
            for step in range(3):
                progress(stage, step + 1, 3)
        result = io.bicubic(rgb, io.output_size(*rgb.shape[:2], scale))
        return SimpleNamespace(bicubic=result, reference=result // 2, result=result)


@pytest.fixture
def cascade(monkeypatch):
    fake = BicubicCascade()
    fake.loaded = []

    def load(source="tiny", **options):
        fake.loaded.append((source, options))
        return fake

    monkeypatch.setitem(vars(cassr_jax), "load", load)  # without importing the real one
    return fake


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in").mkdir()
    return tmp_path / "in"


def run(*arguments):
    return sample.main([str(argument) for argument in arguments])


def color_of(path):
    with Image.open(path) as image:
        return tuple(np.asarray(image.convert("RGB")).reshape(-1, 3).mean(0).round().astype(int))


def close(color, expected, tolerance=4):
    return max(abs(a - b) for a, b in zip(color, expected, strict=True)) <= tolerance


def flat(path, color, size=(12, 8), **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, color).save(path, **options)


def outputs(folder="out"):
    return sorted(path.relative_to(folder).as_posix() for path in Path(folder).rglob("*.*") if path.suffix != ".json")


def manifest(folder="out"):
    content = json.loads((Path(folder) / "manifest.json").read_text())
    return {entry["outputs"]["result"]: entry for entry in content["pictures"]}


def test_one_photograph(folder, cascade, capsys):
    flat(folder / "a.jpg", "red")
    assert run("in/a.jpg", "--output", "out") == 0
    assert outputs() == ["a.png"]
    with Image.open("out/a.png") as result:
        assert (result.size, result.mode, result.format) == ((48, 32), "RGB", "PNG")
    assert close(color_of("out/a.png"), COLORS["red"])
    captured = capsys.readouterr()
    assert captured.out.startswith(str(Path("in/a.jpg")) + " -> ")
    assert captured.err == ""


def test_settings_reach_the_cascade_and_the_manifest(folder, cascade):
    flat(folder / "a.png", "red")
    arguments = "--config somewhere --scale 2 --seed 9223372036854775807 --steps 7 --guidance 1.5 --activation identity"
    arguments += " --color-fix adain --sampler unipc --start reference --strength 0.5 --tile 64 --precision bf16"
    arguments += " --devices 2 --reference-weight 0.25"
    assert run("in/a.png", "--output", "out", *arguments.split()) == 0
    assert cascade.loaded == [("somewhere", {"activation": "identity", "dtype": "bfloat16", "devices": 2})]
    expected = {
        "scale": 2.0,
        "seed": 2**63 - 1,
        "steps": 7,
        "color_fix": "adain",
        "sampler": "unipc",
        "start": "reference",
        "strength": 0.5,
        "reference_weight": 0.25,
        "tile": 64,
    }
    assert cascade.calls == [{"size": (8, 12), "guidance_scale": 1.5, **expected}]
    entry = manifest()["a.png"]
    assert expected.items() <= entry["settings"].items()
    assert entry["settings"]["guidance"] == 1.5
    assert (entry["input"], entry["status"], entry["error"]) == (str(Path("in/a.png")), "done", None)


def test_left_out_settings_are_the_configurations(folder, cascade):
    flat(folder / "a.png", "red")
    assert run("in/a.png", "--output", "out") == 0
    assert cascade.loaded == [("tiny", {"activation": None, "dtype": None, "devices": None})]
    (call,) = cascade.calls
    assert (call.pop("size"), call.pop("scale"), call.pop("seed")) == ((8, 12), 4.0, 0)
    assert set(call.values()) == {None}


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


# --- cases that broke programs of this kind ---


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
            assert image.mode == ("RGBA" if name == "la" else "RGB")
            results[name] = np.asarray(image.convert("RGB")).astype(int)
    for name in ("la", "grey16", "rgb16"):
        assert np.abs(results[name] - results["l"]).mean() <= 2
    black_and_white = io.bicubic(np.where(ramp > 127, 255, 0).astype(np.uint8), (192, 192))
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


def test_transparency_does_not_go_into_jpeg(folder, cascade, capsys):
    pictures.palette_with_hidden_magenta().save(folder / "a.png")
    flat(folder / "b.png", "red")
    assert run("in", "--output", "out", "--format", "jpg") == 2
    assert outputs() == ["b.jpg"]
    assert "JPEG holds no transparency" in capsys.readouterr().err


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


def test_damaged_files_cost_one_line_each(folder, cascade, capsys):
    flat(folder / "good.png", "blue")
    flat(folder / "sub" / "good.png", "green")
    (folder / "notes.txt").write_text("a shopping list")
    (folder / "Thumbs.db").write_bytes(b"\xd0\xcf\x11\xe0")
    (folder / "empty.png").touch()
    photograph = Image.fromarray(pictures.photograph())
    for kind in ("baseline", "progressive"):
        data = pictures.encoded(photograph, "JPEG", progressive=kind == "progressive")
        for share in (50, 98):
            (folder / f"{kind}{share}.jpg").write_bytes(data[: len(data) * share // 100])
    assert run("in", "--output", "out") == 2
    assert outputs() == ["good.png", "sub/good.png"]
    assert color_of("out/good.png") == COLORS["blue"]
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 5
    for name in ("empty.png", "baseline50.jpg", "baseline98.jpg", "progressive50.jpg", "progressive98.jpg"):
        assert sum(name in line for line in lines) == 1


def test_nothing_readable_loads_no_networks(folder, cascade, capsys):
    (folder / "a.png").write_bytes(b"junk")
    assert run("in", "--output", "out") == 2
    assert run("in/none.png", "--output", "out") == 2
    assert cascade.loaded == []
    assert not Path("out").exists()
    assert len(capsys.readouterr().err.splitlines()) == 2


def four_of_one_name(folder):
    flat(folder / "a.jpg", "red", quality=95)
    flat(folder / "a.png", "green")
    flat(folder / "x" / "a.png", "blue")
    flat(folder / "y" / "a.png", "grey")
    return {"a_jpg.png": "red", "a_png.png": "green", "x/a.png": "blue", "y/a.png": "grey"}


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


def test_resume_does_not_take_one_for_the_other(folder, cascade, capsys):
    four_of_one_name(folder)
    assert run("in/x", "--output", "out") == 0
    assert run("in/y", "--output", "out", "--resume") == 2
    assert run("in/y", "--output", "out") == 2
    assert color_of("out/a.png") == COLORS["blue"]
    assert all("holds the result of" in line for line in capsys.readouterr().err.splitlines())
    assert len(cascade.calls) == 1


def test_resume_redoes_what_changed(folder, cascade):
    flat(folder / "a.png", "red")
    flat(folder / "b.png", "green")
    assert run("in", "--output", "out") == 0
    flat(folder / "a.png", "blue")
    assert run("in", "--output", "out", "--resume") == 0
    assert len(cascade.calls) == 3
    assert color_of("out/a.png") == COLORS["blue"]
    assert run("in", "--output", "out", "--resume", "--seed", "1") == 0
    assert len(cascade.calls) == 5
    Path("out/b.png").unlink()
    assert run("in", "--output", "out", "--resume", "--seed", "1") == 0
    assert len(cascade.calls) == 6


def test_resume_after_a_stop_in_the_middle(folder, cascade, monkeypatch):
    for name in "abc":
        flat(folder / f"{name}.png", "red")

    def stop(rgb, **settings):
        if len(cascade.calls) == 1:
            raise KeyboardInterrupt
        return BicubicCascade.restore(cascade, rgb, **settings)

    with monkeypatch.context() as patch:
        patch.setattr(cascade, "restore", stop)
        with pytest.raises(KeyboardInterrupt):
            run("in", "--output", "out")
    assert {name: entry["status"] for name, entry in manifest().items()} == {
        "a.png": "done",
        "b.png": "pending",
        "c.png": "pending",
    }
    assert run("in", "--output", "out", "--resume") == 0
    assert len(cascade.calls) == 3
    assert {entry["status"] for entry in manifest().values()} == {"done"}


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


# --- what a person may get wrong ---


@pytest.mark.parametrize("seed", ["-1", "9223372036854775808", "1.5", "x"])
def test_seeds_out_of_range_are_named(folder, cascade, capsys, seed):
    flat(folder / "a.png", "red")
    with pytest.raises(SystemExit) as exit:
        run("in", "--output", "out", "--seed", seed)
    assert exit.value.code == 2
    error = capsys.readouterr().err
    assert seed in error
    assert "9223372036854775807" in error or "whole number" in error


@pytest.mark.parametrize("seed", [0, 4294967296, 685470360099406, 2**63 - 1])
def test_seeds_are_recorded_as_given(folder, cascade, seed):
    flat(folder / "a.png", "red")
    assert run("in", "--output", "out", "--seed", seed) == 0
    assert cascade.calls[0]["seed"] == manifest()["a.png"]["settings"]["seed"] == seed


@pytest.mark.parametrize(
    "arguments",
    [
        "--scale 0",
        "--scale nan",
        "--steps 0",
        "--steps 2.5",
        "--guidance inf",
        "--strength 0",
        "--strength 1.01",
        "--reference-weight -0.1",
        "--tile -8",
        "--activation magic",
        "--color-fix magic",
        "--format bmp",
        "--config none.py",
        "--output in/a.png",
        "--output in",
    ],
)
def test_wrong_arguments_end_at_once(folder, cascade, arguments):
    flat(folder / "a.png", "red")
    with pytest.raises(SystemExit) as exit:
        run("in", "--output", "out", *arguments.split())
    assert exit.value.code == 2
    assert cascade.loaded == []
    assert not Path("out").exists()


def test_absurd_sizes(folder, cascade, capsys):
    flat(folder / "wide.png", "red", (5000, 2))
    flat(folder / "good.png", "red")
    (folder / "bomb.png").write_bytes(pictures.png_header(100_000, 100_000))
    assert run("in", "--output", "out", "--format", "webp") == 2
    assert outputs() == ["good.webp"]
    error = capsys.readouterr().err
    assert "wide.png" in error
    assert "16383" in error
    assert "bomb.png" in error


def test_a_foreign_file_is_not_overwritten(folder, cascade, capsys):
    flat(folder / "a.jpg", "red")
    flat(Path("out/a.png"), "blue")
    assert run("in", "--output", "out") == 2
    assert color_of("out/a.png") == COLORS["blue"]
    assert "no result of this program" in capsys.readouterr().err


def test_results_that_would_share_a_file_are_refused(folder, cascade, capsys):
    flat(folder / "a.png", "red")
    flat(folder / "a_reference.png", "red")
    assert run("in", "--output", "out", "--save-reference") == 2
    assert "would both be written to" in capsys.readouterr().err
    assert cascade.loaded == []


def test_results_below_the_input_are_not_taken_up(folder, cascade):
    flat(folder / "a.png", "red")
    for _ in range(2):
        assert run("in", "--output", "in/out") == 0
    assert [call["size"] for call in cascade.calls] == [(8, 12)] * 2


def test_a_picture_that_fails_later_costs_one_line(folder, cascade, capsys, monkeypatch):
    flat(folder / "a.png", "red")
    flat(folder / "b.png", "green")

    def restore(rgb, **settings):
        if rgb[0, 0, 0] == 255:
            raise InputError("reference stage gave NaN in float16, expected finite numbers")
        return BicubicCascade.restore(cascade, rgb, **settings)

    monkeypatch.setattr(cascade, "restore", restore)
    assert run("in", "--output", "out") == 2
    assert outputs() == ["b.png"]
    (line,) = capsys.readouterr().err.splitlines()
    assert "a.png" in line
    assert "NaN" in line
    assert manifest()["a.png"]["status"] == "failed"


def test_weights_that_cannot_be_loaded(folder, monkeypatch, capsys):
    def load(source, **options):
        raise InputError(f"{source}: no such configuration")

    monkeypatch.setitem(vars(cassr_jax), "load", load)  # without importing the real one
    flat(folder / "a.png", "red")
    assert run("in", "--output", "out", "--config", "nowhere") == 2
    assert capsys.readouterr().err.splitlines() == ["sample.py: nowhere: no such configuration"]


def test_progress_bar_shows_stages_and_steps(folder, cascade, capsys):
    class Bar:
        disable, desc, total, n = False, "", None, 0
        shown: typing.ClassVar[list] = []

        def reset(self, total):
            self.n, self.total = 0, total

        def set_description(self, text, refresh):
            self.desc = f"{text}: "

        def update(self, n):
            self.n += n
            self.shown.append((self.desc, self.n, self.total))

    report = sample.reporter(Bar(), "a.png (1/2)")
    for stage in ("reference", "result"):
        report(stage, 1, 2)
        report(stage, 2, 2)
    assert Bar.shown == [(f"a.png (1/2): {s}: ", n, 2) for s in ("reference", "result") for n in (1, 2)]


def test_choices_are_those_of_the_package():
    from cassr_jax import config
    from cassr_jax.diffusion.samplers import SAMPLERS

    assert typing.get_args(config.Activation) == sample.ACTIVATIONS
    assert typing.get_args(config.Start) == sample.STARTS
    assert set(typing.get_args(config.DType)) == set(sample.PRECISIONS.values())
    assert tuple(SAMPLERS) == sample.SAMPLERS


def test_errors_come_before_jax(folder):
    (folder / "a.png").write_bytes(b"junk")
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import sample; rc = sample.main(['in']); "
    code += "print(rc, 'jax' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=folder.parent)
    assert result.stdout.split() == ["2", "False"]
    assert "a.png" in result.stderr
