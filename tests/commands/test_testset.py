"""Test sets: the right pixels under the right names, the same ones every time, and a manifest that notices a change."""

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from threading import Event, Semaphore

import cv2
import numpy as np
import pytest

from cassr_jax.commands import testset
from cassr_jax.commands.testset import Planned, build, cropped_pairs, degraded_pairs, main, pixels_sha256
from cassr_jax.data.degradation import degrade
from cassr_jax.data.presets import PRESETS
from cassr_jax.errors import InputError
from cassr_jax.evaluation.tiles import degraded_tiles
from cassr_jax.imaging import io
from cassr_jax.locks import taking_turns
from tests.data.measures import picture
from tests.evaluation.pair_folders import write


@pytest.fixture
def realsr(tmp_path) -> Path:
    """A folder like RealSR's, both kinds in it: `near` large enough, `small` not, `odd` of another scale, two alone."""
    folder = tmp_path / "Test"
    for name, height, width in (("near", 131, 150), ("small", 100, 200)):
        large = np.random.default_rng(height).integers(0, 256, (4 * height, 4 * width, 3), np.uint8)
        write(folder, f"{name}_HR.png", large)
        write(folder, f"{name}_LR4.png", np.ascontiguousarray(large[::4, ::4]))
    write(folder, "odd_HR.png", np.zeros((300, 300, 3), np.uint8))
    write(folder, "odd_LR4.png", np.zeros((300, 300, 3), np.uint8))
    write(folder, "lonely_LR4.png", np.zeros((200, 200, 3), np.uint8))
    write(folder, "single_HR.png", np.zeros((200, 200, 3), np.uint8))
    return folder


def read(path: Path) -> np.ndarray:
    return io.read(path).rgb


def test_whole_pictures_are_degraded_by_their_number(tmp_path, capsys):
    write(tmp_path / "photos", "b.png", picture(67, 1)[:, :65])
    write(tmp_path / "photos", "a.png", picture(48, 0))
    output = tmp_path / "set"
    command = ["degraded", "--photos", str(tmp_path / "photos"), "--output", str(output)]
    assert main(command) == 0
    assert "pairs: 2, left out: 0" in capsys.readouterr().out
    expected = {"a": (picture(48, 0), 0), "b": (np.ascontiguousarray(picture(67, 1)[:64, :64]), 1)}
    manifest = json.loads((output / "manifest.json").read_text())
    assert manifest["settings"] == {"kind": "degraded", "preset": "realesrgan", "scale": 4}
    for name, (truth, seed) in expected.items():
        lr, _ = degrade(truth, seed, PRESETS["realesrgan"])
        np.testing.assert_array_equal(read(output / "hr" / f"{name}.png"), truth)
        np.testing.assert_array_equal(read(output / "lr" / f"{name}.png"), lr)
        assert manifest["pictures"][name]["lr"] == pixels_sha256(lr)
    assert main(command) == 0
    assert "exists already, pairs: 2" in capsys.readouterr().out
    assert main([*command, "--preset", "light"]) == 2
    assert "now {'kind': 'degraded', 'preset': 'light'" in capsys.readouterr().err
    write(tmp_path / "photos", "c.png", picture(48, 2))
    assert main(command) == 2
    assert "holds other pictures, c among them" in capsys.readouterr().err


def test_tiles_are_those_that_the_embedded_model_is_judged_by(tmp_path, capsys):
    photo = np.random.default_rng(0).integers(0, 256, (512, 300, 3), np.uint8)
    write(tmp_path / "photos", "a.png", photo)
    output = tmp_path / "set"
    command = ["tiles", "--photos", str(tmp_path / "photos"), "--preset", "light", "--output", str(output)]
    assert main([*command, "--count", "2"]) == 0
    manifest = json.loads((output / "manifest.json").read_text())
    assert manifest["settings"] == {"kind": "tiles", "preset": "light", "scale": 4, "hr": 256}
    assert sorted(manifest["pictures"]) == ["a@0,0", "a@256,0"]
    for tile in degraded_tiles(tmp_path / "photos", 2, PRESETS["light"]):
        name = tile.name.replace(".png", "")
        np.testing.assert_array_equal(read(output / "lr" / f"{name}.png"), tile.lr)
        np.testing.assert_array_equal(read(output / "hr" / f"{name}.png"), tile.hr)
    assert main(["check", str(output)]) == 0
    assert main([*command, "--count", "3"]) == 2
    assert "2 sharp tiles of 256 px, expected at least 3" in capsys.readouterr().err


def test_the_middles_of_registered_pairs_from_one_folder(realsr, tmp_path, capsys):
    output = tmp_path / "set"
    assert main(["crops", "--lr", str(realsr), "--hr", str(realsr), "--output", str(output)]) == 0
    lr, hr = read(output / "lr" / "near.png"), read(output / "hr" / "near.png")
    assert (lr.shape, hr.shape) == ((128, 128, 3), (512, 512, 3))
    np.testing.assert_array_equal(hr, read(realsr / "near_HR.png")[4:516, 44:556])
    np.testing.assert_array_equal(lr, hr[::4, ::4])
    manifest = json.loads((output / "manifest.json").read_text())
    assert list(manifest["pictures"]) == ["near"]
    assert [source["file"] for source in manifest["pictures"]["near"]["sources"]] == ["near_LR4.png", "near_HR.png"]
    assert manifest["left_out"].keys() == {"small", "odd", "lonely", "single"}
    assert "200x100 px, expected sides of at least 128 px" in manifest["left_out"]["small"]
    assert "300x300 px, expected 4 times the 300x300 px" in manifest["left_out"]["odd"]
    assert "pairs: 1, left out: 4" in capsys.readouterr().out


def test_two_folders_of_plain_names_and_of_drealsr(tmp_path):
    for small, large in (("a.png", "a.jpg"), ("sony_1_x4.png", "sony_1_x1.png")):
        write(tmp_path / "lr", small, np.zeros((8, 8, 3), np.uint8))
        write(tmp_path / "hr", large, np.zeros((32, 32, 3), np.uint8))
    planned, alone = cropped_pairs(tmp_path / "lr", tmp_path / "hr", side=8)
    assert [pair.name for pair in planned] == ["a", "sony_1"]
    assert alone == {}
    assert [image.shape for image in planned[1].make()] == [(8, 8, 3), (32, 32, 3)]


def test_a_set_that_was_changed_is_noticed(tmp_path, capsys):
    for seed, name in enumerate("abc"):
        write(tmp_path / "photos", f"{name}.png", picture(32, seed))
    output = tmp_path / "set"
    build(degraded_pairs(tmp_path / "photos", PRESETS["light"]), {}, {}, output)
    recoded = cv2.imread(str(output / "hr" / "a.png"))
    cv2.imwrite(str(output / "hr" / "a.png"), recoded, [cv2.IMWRITE_PNG_COMPRESSION, 0])
    assert main(["check", str(output)]) == 0
    recoded[0, 0, 0] ^= 1
    cv2.imwrite(str(output / "hr" / "a.png"), recoded)
    (output / "lr" / "b.png").unlink()
    write(output / "lr", "d.png", picture(8, 0))
    capsys.readouterr()
    assert main(["check", str(output)]) == 1
    said = capsys.readouterr().out.splitlines()
    assert [line.split(": ")[1].split(" is ")[0] for line in said] == [
        "is missing",
        "is not in the manifest",
        "its pixels' SHA-256",
    ]


def test_a_damaged_picture_hides_no_other_difference(tmp_path, capsys):
    for seed, name in enumerate("ab"):
        write(tmp_path / "photos", f"{name}.png", picture(32, seed))
    output = tmp_path / "set"
    build(degraded_pairs(tmp_path / "photos", PRESETS["light"]), {}, {}, output)
    (output / "hr" / "a.png").write_bytes(b"junk")
    write(output / "hr", "b.png", picture(32, 5))
    shutil.rmtree(output / "lr")
    assert main(["check", str(output)]) == 1
    folder, damaged, other = capsys.readouterr().out.splitlines()
    assert folder == f"{output / 'lr'}: is not a folder, expected a folder of pictures"
    assert damaged.startswith(f"{output / 'hr' / 'a.png'}: ")
    assert other.startswith(f"{output / 'hr' / 'b.png'}: its pixels' SHA-256 is ")


def test_a_set_appears_only_when_it_is_complete(tmp_path, monkeypatch):
    write(tmp_path / "photos", "a.png", picture(32, 0))
    output, stale = tmp_path / "set", tmp_path / ".set.partial" / "lr" / "old.png"
    write(stale.parent, stale.name, picture(32, 1))
    planned = degraded_pairs(tmp_path / "photos", PRESETS["light"])

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("cassr_jax.commands.testset.write_json", killed)
        with pytest.raises(KeyboardInterrupt):
            build(planned, {}, {}, output)
    assert not output.exists()
    assert not stale.exists()
    build(planned, {}, {}, output)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["photos", "set"]


def test_a_set_that_another_run_is_making_is_left_to_it(tmp_path, monkeypatch):
    begun, ended, output = Event(), Event(), tmp_path / "set"
    arrived = Semaphore(0)

    def turns(path: Path) -> AbstractContextManager[None]:
        arrived.release()
        return taking_turns(path)

    def make() -> tuple[np.ndarray, np.ndarray]:
        begun.set()
        assert ended.wait(20)
        return np.zeros((4, 4, 3), np.uint8), np.zeros((16, 16, 3), np.uint8)

    source = tmp_path / "a.png"
    source.touch()
    planned = [Planned("a", (source,), make)]
    monkeypatch.setattr(testset, "taking_turns", turns)
    with ThreadPoolExecutor() as threads:
        first = threads.submit(build, planned, {}, {}, output)
        assert begun.wait(20)
        second = threads.submit(build, planned, {}, {}, output)
        assert all(arrived.acquire(timeout=20) for _ in range(2))
        ended.set()
        assert first.result().startswith(f"{output}: pairs: 1")
        assert second.result() == f"{output}: exists already, pairs: 1"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "set"]


def test_a_person_s_mistake_is_one_line_and_exit_code_2(tmp_path, capsys):
    write(tmp_path / "photos", "tiny.png", picture(16, 0)[:3])
    given = ["degraded", "--photos", str(tmp_path / "photos"), "--output"]
    assert main([*given, str(tmp_path / "set")]) == 2
    assert "none of 1 pairs could be made, expected at least one; " in capsys.readouterr().err
    (tmp_path / "other").mkdir()
    assert main([*given, str(tmp_path / "other")]) == 2
    assert "manifest.json: no such file" in capsys.readouterr().err
    assert main(["check", str(tmp_path / "none")]) == 2
    assert "expected the manifest of a test set" in capsys.readouterr().err
    write(tmp_path / "photos", "tiny.jpg", picture(16, 0))
    with pytest.raises(InputError, match=r"tiny\.png: has the same name as tiny\.jpg"):
        degraded_pairs(tmp_path / "photos", PRESETS["light"])
    for folder, name in (("left", "x.png"), ("right", "y.png")):
        write(tmp_path / folder, name, picture(16, 0))
    with pytest.raises(InputError, match="no picture's name is in both"):
        cropped_pairs(tmp_path / "left", tmp_path / "right")


@pytest.mark.parametrize(
    "damage",
    ['{"version": 1}', '{"version": 1, "settings": {}, "left_out": {}, "pictures": {"a": {}}}', "[]", '{"ver', "{}"],
    ids=["parts missing", "a picture without hashes", "list", "cut", "empty"],
)
def test_a_damaged_manifest_is_one_sentence(tmp_path, capsys, damage):
    for kind in ("lr", "hr"):
        write(tmp_path / "set" / kind, "a.png", picture(8, 0))
    (tmp_path / "set" / "manifest.json").write_text(damage)
    assert main(["check", str(tmp_path / "set")]) == 2
    error = capsys.readouterr().err
    assert "manifest.json: " in error
    assert error.count("\n") == 1


def test_no_tiles_is_refused(tmp_path):
    with pytest.raises(SystemExit, match="2"):
        main(["tiles", "--photos", str(tmp_path), "--output", str(tmp_path / "set"), "--count", "0"])


@pytest.mark.parametrize("command", ["degraded --photos", "tiles --photos", "crops --hr elsewhere --lr"])
def test_a_set_within_its_own_photographs_is_refused(tmp_path, capsys, command):
    assert main([*command.split(), str(tmp_path), "--output", str(tmp_path / "set")]) == 2
    name = command.split()[-1]
    assert f"{tmp_path / 'set'}: lies within {name}, {tmp_path}, expected a folder outside" in capsys.readouterr().err
