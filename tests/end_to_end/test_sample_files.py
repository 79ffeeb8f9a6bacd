"""Which files `sample.py` reads, writes and leaves alone, and how it tells of them."""

import io as streams
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms
from PIL.ExifTags import IFD

import sample
from cassr_jax.imaging import io
from cassr_jax.imaging.resizing import bicubic
from tests.end_to_end.quick import COLORS, BicubicCascade, close, color_of, flat, outputs, run
from tests.imaging import pictures


def events(captured: str) -> list[dict]:
    return [json.loads(line) for line in captured.splitlines()]


def test_metadata_come_through_and_the_place_is_stripped_on_demand(folder, cascade, capsys):
    exif = Image.Exif()
    exif[0x010F] = "Maker"
    exif.get_ifd(IFD.GPSInfo)[1] = "N"
    flat(folder / "a.jpg", "red", exif=exif, comment="a word")
    assert run("in/a.jpg", "--output", "whole", "--format", "webp") == 0
    assert "WEBP cannot hold its Comment, which the result lacks" in capsys.readouterr().err
    assert run("in/a.jpg", "--output", "placeless", "--strip", "gps") == 0
    assert run("in/a.jpg", "--output", "bare", "--strip") == 0
    found = {}
    for name, suffix in (("whole", "webp"), ("placeless", "png"), ("bare", "png")):
        with Image.open(f"{name}/a.{suffix}") as image:
            found[name] = image.getexif().get(0x010F), bool(image.getexif().get_ifd(IFD.GPSInfo))
    assert found == {"whole": ("Maker", True), "placeless": ("Maker", False), "bare": (None, False)}


@pytest.mark.parametrize(
    ("given", "format", "result", "bits"),
    [
        ("png", "png", "a.png", 16),
        ("png", "jpg", "a.jpg", 8),
        ("png", "tiff", "a.tif", 16),
        ("tif", "keep", "a.tif", 16),
        ("jpg", "png", "a.png", 8),
        ("jpg", "png16", "a.png", 16),
        ("jpg", "tiff16", "a.tif", 16),
    ],
)
def test_the_bits_of_a_result(folder, cascade, capsys, given, format, result, bits):
    ramp = np.linspace(0, 65_535, 96).reshape(8, 12, 1).repeat(3, -1).astype(np.uint16)
    io.write(folder / f"a.{given}", io.Picture(ramp))
    assert run("in", "--output", "out", "--format", format) == 0
    found = io.read(Path("out", result))
    assert (found.bits, found.rgb.shape) == (bits, (32, 48, 3))
    told = "its 16 bits per sample become 8, which --format png and tiff would keep" in capsys.readouterr().err
    assert told == (given == "png" and format == "jpg")


def test_every_frame_of_an_animation(folder, cascade, capsys):
    frames = [Image.new("RGB", (12, 8), color) for color in ("red", "green", "blue")]
    frames[0].save(folder / "a.gif", save_all=True, append_images=frames[1:])
    frames[0].save(folder / "pages.tif", save_all=True, append_images=frames[1:2])
    flat(folder / "still.png", "grey")
    assert run("in", "--output", "out") == 0
    assert "a.gif: 3 frames or pages, only the first is restored; --all-frames takes all" in capsys.readouterr().err
    assert run("in", "--output", "all", "--all-frames") == 0
    assert "frames" not in capsys.readouterr().err
    found = outputs("all")
    assert found == ["a_1.png", "a_2.png", "a_3.png", "pages_1.png", "pages_2.png", "still.png"]
    colors = dict(zip(found, ["red", "green", "blue", "red", "green", "grey"], strict=True))
    assert all(close(color_of(f"all/{name}"), COLORS[color]) for name, color in colors.items())
    calls = len(cascade.calls)
    assert run("in", "--output", "all", "--all-frames", "--resume") == 0
    assert len(cascade.calls) == calls
    frames[0].save(folder / "a.gif", save_all=True, append_images=[frames[1], frames[0]])
    assert run("in", "--output", "all", "--all-frames", "--resume") == 0
    assert close(color_of("all/a_3.png"), COLORS["red"])
    assert outputs("all") == found


def test_what_a_mask_protects_is_not_drawn_anew(folder, cascade, capsys):
    def darker(rgb, **settings):
        made = BicubicCascade.restore(cascade, rgb, **settings)
        return replace(made, result=made.result // 3)

    cascade.restore = darker
    for name in ("a", "b"):
        flat(folder / f"{name}.png", (90, 90, 90))
    flat(Path("masks/a.png"), "white", (24, 16))
    assert run("in", "--output", "out", "--protect", "masks") == 0
    assert "b.png: masks holds no mask for it, so nothing is protected" in capsys.readouterr().err
    assert (color_of("out/a.png"), color_of("out/b.png")) == ((90,) * 3, (30,) * 3)
    assert run("in/a.png", "--output", "out", "--protect", "masks/a.png", "--protect-by", "reference", "--resume") == 0
    assert color_of("out/a.png") == (45,) * 3
    flat(Path("masks/a.png"), "black", (24, 16))
    assert run("in/a.png", "--output", "out", "--protect", "masks/a.png", "--protect-by", "reference", "--resume") == 0
    assert color_of("out/a.png") == (30,) * 3
    flat(Path("masks/a.png"), "white", (24, 24))
    assert run("in/a.png", "--output", "new", "--protect", "masks") == 2
    assert "masks/a.png: is 24x24 px beside a picture of 12x8 px" in capsys.readouterr().err
    assert run("in/a.png", "--output", "new", "--protect", "nowhere") == 2


def test_a_map_of_what_is_invented(folder, cascade):
    flat(folder / "a.png", "red")
    assert run("in", "--output", "out", "--show-invented") == 0
    assert outputs() == ["a.png", "a_invented.png"]
    with Image.open("out/a_invented.png") as image:
        assert image.size == (48, 32)


def test_results_of_8_bits_are_redone_in_16(folder, cascade):
    flat(folder / "a.png", "red")
    for format, calls in (("png", 1), ("png16", 2), ("png16", 2)):
        assert run("in", "--output", "out", "--format", format, "--resume") == 0
        assert len(cascade.calls) == calls


def test_what_belongs_to_others_is_refused_skipped_or_overwritten(folder, cascade, capsys):
    for name in ("a", "b"):
        flat(folder / f"{name}.png", "red")
    flat(Path("out/a.png"), "green")
    assert run("in", "--output", "out") == 2
    assert "exists and is no result of this program, expected another --output" in capsys.readouterr().err
    assert close(color_of("out/a.png"), COLORS["green"])
    Path("out/b.png").unlink()
    assert run("in", "--output", "out", "--skip-existing") == 0
    assert "skipping: the results of 1 of 2 pictures exist" in capsys.readouterr().out
    assert close(color_of("out/a.png"), COLORS["green"])
    assert close(color_of("out/b.png"), COLORS["red"])
    assert run("in", "--output", "out", "--overwrite") == 0
    assert close(color_of("out/a.png"), COLORS["red"])


def test_a_folder_is_never_overwritten(folder, cascade, capsys):
    flat(folder / "a.png", "red")
    Path("out/a.png").mkdir(parents=True)
    assert run("in", "--output", "out", "--overwrite") == 2
    assert "a.png: exists and is no result of this program" in capsys.readouterr().err


def test_sub_folders_are_left_out_or_flattened(folder, cascade):
    for name in ("a", "x/a", "x/y/b"):
        flat(folder / f"{name}.png", "red")
    assert run("in", "--output", "top", "--no-recursive") == 0
    assert outputs("top") == ["a.png"]
    assert run("in", "--output", "flat", "--flat") == 0
    assert outputs("flat") == ["a.png", "b.png", "x_a.png"]


def test_a_dry_run_tells_everything_and_does_nothing(folder, cascade, capsys):
    flat(folder / "a.png", "red")
    assert run("in", "--output", "out", "--dry-run") == 0
    told = capsys.readouterr().out.splitlines()
    assert told[0].startswith(f"{Path('in/a.png')} -> {Path('out/a.png')}, 48x32 px, about ")
    assert told[1].startswith("no time is guessed: nothing has been restored into this folder")
    assert told[2].startswith("1 picture of 48x32 px; about ")
    assert not Path("out/a.png").exists()
    assert cascade.loaded == []
    assert run("in", "--output", "out") == 0
    flat(folder / "b.png", "red", size=(120, 80))
    capsys.readouterr()
    assert run("in/b.png", "--output", "out", "--dry-run", "--log", "jsonl") == 0
    plan, guess, _ = events(capsys.readouterr().out)
    assert (plan["event"], plan["width"], plan["height"]) == ("plan", 480, 320)
    assert guess["text"].startswith("about 10 s, as fast as")  # 0.1 s for a hundredth of the pixels
    assert outputs() == ["a.png"]


def test_other_programs_read_a_log(folder, cascade, capsys):
    flat(folder / "a.png", "red")
    (folder / "b.png").write_bytes(b"no picture")
    assert run("in", "--output", "out", "--log", "jsonl") == 2
    told = events(capsys.readouterr().out)
    assert [each["event"] for each in told] == ["failed", "note", "done"]
    assert told[0]["input"] == str(Path("in/b.png"))
    assert told[2] == {"event": "done", "input": str(Path("in/a.png")), "outputs": {"result": "a.png"}, "seconds": 0.1}


def stream(data: bytes = b"") -> streams.TextIOWrapper:
    """A text stream over bytes."""
    return streams.TextIOWrapper(streams.BytesIO(data))


def test_from_stdin_to_stdout(folder, cascade, monkeypatch, capsys):
    data = pictures.encoded(Image.new("RGB", (12, 8), "red"), "PNG")
    written = stream()
    monkeypatch.setattr(sys, "stdin", stream(data))
    monkeypatch.setattr(sys, "stdout", written)
    assert run("-", "--output", "-", "--format", "jpg", "--compare") == 0
    with Image.open(streams.BytesIO(written.buffer.getvalue())) as image:
        assert (image.size, image.format) == ((48, 32), "JPEG")
    assert "1 picture of 48x32 px" in capsys.readouterr().err


def test_what_is_no_picture_leaves_stdout_empty(folder, cascade, monkeypatch, capsys):
    written = stream()
    monkeypatch.setattr(sys, "stdin", stream(b"no picture"))
    monkeypatch.setattr(sys, "stdout", written)
    assert run("-", "--output", "-") == 2
    assert written.buffer.getvalue() == b""


def test_stdin_into_a_folder(folder, cascade, monkeypatch):
    monkeypatch.setattr(sys, "stdin", stream(pictures.encoded(Image.new("RGB", (12, 8), "red"), "PNG")))
    assert run("-", "--output", "out") == 0
    assert outputs() == ["stdin.png"]


def test_stdout_takes_one_picture(folder, cascade, capsys):
    for name in ("a", "b"):
        flat(folder / f"{name}.png", "red")
    for given in (["in"], ["in/a.png", "in/b.png"], ["in/a.png", "--all-frames"]):
        assert run(*given, "--output", "-") == 2
        assert "expected one picture, whose result goes to stdout" in capsys.readouterr().err


@pytest.mark.parametrize("given", [["--overwrite", "--skip-existing"], ["--strip", "exif"], ["--log", "xml"]])
def test_what_makes_no_sense_is_refused(given, capsys):
    with pytest.raises(SystemExit) as ended:
        sample.main(["in", *given])
    assert ended.value.code == 2


@pytest.mark.parametrize("format", ["png", "jpg", "webp", "tiff"])
def test_a_picture_whose_profile_swaps_the_primaries_looks_as_it_did(folder, cascade, format):
    """Whoever drops the profile, or takes its numbers for sRGB's, shows red for green."""
    srgb = ImageCms.createProfile("sRGB")
    data = ImageCms.ImageCmsProfile(srgb).tobytes()
    swapped = data.replace(b"rXYZ", b"none", 1).replace(b"gXYZ", b"rXYZ", 1).replace(b"none", b"gXYZ", 1)
    photograph = bicubic(pictures.photograph(4, 6), (24, 36))

    def managed(image):
        """What a viewer that reads profiles shows."""
        profile = streams.BytesIO(image.info["icc_profile"])
        return np.asarray(ImageCms.profileToProfile(image.convert("RGB"), profile, srgb), np.float32)

    Image.fromarray(photograph).save(folder / "a.png", icc_profile=swapped)
    assert run("in", "--output", "out", "--format", format) == 0
    (result,) = Path("out").glob("a.*")
    with Image.open(folder / "a.png") as before, Image.open(result) as after:
        shown, expected = managed(after.resize(before.size, Image.Resampling.BOX)), managed(before)
    assert np.abs(expected - photograph).mean() > 15  # the profile matters
    assert np.abs(shown - expected).mean() < 4
