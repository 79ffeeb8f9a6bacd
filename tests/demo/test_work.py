"""What the demo does for a visitor, without the page."""

import threading
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import cassr_jax
from cassr_jax.demo.work import Limits, Request, Workshop
from cassr_jax.errors import InputError


@pytest.fixture(scope="module")
def workshop():
    return Workshop(["tiny"], Limits())


@pytest.fixture
def photograph(tmp_path):
    def make(name="photo.png", width=24, height=20, seed=0, **saved):
        pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / name, **saved)
        return tmp_path / name

    return make


def pixels_of(file):
    with Image.open(file) as picture:
        return np.asarray(picture)


def last(updates):
    return list(updates)[-1]


def test_the_result_is_what_the_cascade_makes(workshop, photograph, tmp_path):
    file, folder = photograph(), tmp_path / "out"
    folder.mkdir()
    updates = list(workshop.restore(Request([file], options={"scale": 2, "seed": 3}), folder))
    shares = [update.share for update in updates]
    assert shares == sorted(shares)
    assert (shares[0], shares[-1], updates[-1].failed) == (0, 1, ())
    (done,) = updates[-1].done
    expected = cassr_jax.load("tiny").restore(pixels_of(file), scale=2, seed=3)
    assert done.file == folder / "photo.png"
    np.testing.assert_array_equal(pixels_of(done.file), expected.result)
    np.testing.assert_array_equal(done.after, expected.result)
    np.testing.assert_array_equal(done.before, expected.bicubic)
    np.testing.assert_array_equal(done.reference, expected.reference)
    assert done.invented.shape == done.after.shape


def test_a_picture_that_fails_costs_no_other(workshop, photograph, tmp_path):
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"no picture")
    update = last(workshop.restore(Request([photograph(), bad, photograph("b.png")]), tmp_path / "."))
    assert [done.file.name for done in update.done] == ["photo_2.png", "b_2.png"]  # the inputs lie there too
    (failed,) = update.failed
    assert failed.startswith("bad.jpg: not a picture that can be read")
    assert str(tmp_path) not in failed  # the server's folders are nobody's business


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (Request([]), "no picture was given, expected 1 to 8"),
        (Request([Path("a")] * 9), "9 pictures were given, expected at most 8"),
        (Request([Path("a")], preset="../secret"), "the preset is '../secret', expected one of tiny"),
        (Request([Path("a")], format="exe"), "the format is 'exe', expected one of png"),
        (Request([Path("a")], strip="some"), "strip is 'some', expected one of"),  # pyright: ignore
        (Request([Path("a")], activation="none"), "none"),
        (Request([Path("a")], options={"steps": 0}), "steps is 0"),
        (Request([Path("a")], options={"guidance_scale": float("nan")}), "guidance_scale is nan"),
    ],
)
def test_what_cannot_be_asked_for_is_a_sentence(workshop, tmp_path, request_, message):
    with pytest.raises(InputError, match=message):
        list(workshop.restore(request_, tmp_path))


def test_limits_hold(photograph, tmp_path):
    workshop = Workshop(["tiny"], Limits(file_bytes=100, result_pixels=1000))
    update = last(workshop.restore(Request([photograph()]), tmp_path))
    assert "bytes, expected at most 100" in update.failed[0]
    workshop = Workshop(["tiny"], replace(workshop.limits, file_bytes=10**6))
    update = last(workshop.restore(Request([photograph()]), tmp_path))
    update = last(workshop.restore(Request([tmp_path / "gone.png"]), tmp_path))
    assert update.failed == ("gone.png: the upload is no longer there, expected it anew",)
    update = last(workshop.restore(Request([photograph()]), tmp_path))
    assert "its result would be 96x80 px, expected at most 0.001 megapixels" in update.failed[0]


def test_metadata_and_depth_come_back_unless_they_are_left_out(workshop, tmp_path):
    exif = Image.Exif()
    exif[0x010E] = "a bee"
    Image.fromarray(np.full((8, 8, 3), 90, np.uint8)).save(tmp_path / "a.jpg", exif=exif)
    for strip, expected in ((None, "a bee"), ("all", None)):
        request = Request([tmp_path / "a.jpg"], format="jpg", strip=strip)
        (done,) = last(workshop.restore(request, tmp_path)).done
        with Image.open(done.file) as found:
            assert found.getexif().get(0x010E) == expected
    (done,) = last(workshop.restore(Request([tmp_path / "a.jpg"], format="png16"), tmp_path)).done
    assert done.file.read_bytes()[24] == 16  # the bits of a sample, in a PNG's header


def test_two_cascades_are_kept_and_no_more(monkeypatch):
    made = []
    monkeypatch.setattr("cassr_jax.demo.work.load", lambda *a, **k: made.append((a, k)) or object())
    workshop = Workshop(["a", "b", "c"], Limits())
    first = workshop.cascade("a", None)
    workshop.cascade("b", None)
    assert workshop.cascade("a", None) is first
    workshop.cascade("c", None)  # b was used longest ago
    assert workshop.cascade("a", None) is first
    workshop.cascade("b", None)
    assert [args[0] for args, _ in made] == ["a", "b", "c", "b"]


def test_work_ends_when_the_visitor_has_gone(workshop, photograph, tmp_path):
    before = threading.active_count()
    with closing(workshop.restore(Request([photograph()]), tmp_path)) as updates:
        next(updates)
        next(updates)
    assert not list(tmp_path.glob("photo_2.png"))
    assert threading.active_count() <= before + 1


def test_a_fault_of_the_program_is_not_hidden(photograph, tmp_path, monkeypatch):
    class Broken:
        def check(self, **options):
            pass

        def restore(self, *args, **options):
            raise ZeroDivisionError

    workshop = Workshop(["tiny"], Limits())
    monkeypatch.setattr(workshop, "cascade", lambda *a: Broken())
    with pytest.raises(ZeroDivisionError):
        list(workshop.restore(Request([photograph()]), tmp_path))
