"""Sets built by TFDS from folders: what is in them, what is left out, and that they are read as what they are."""

import itertools
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from cassr_jax.commands.build import main
from cassr_jax.data.builders import BUILDERS, Ffhq
from cassr_jax.data.config import DataConfig
from cassr_jax.data.pipeline import batches, open_pictures
from cassr_jax.data.sources import find_set
from cassr_jax.data.tfds_sets import TFDSSource
from cassr_jax.errors import InputError
from cassr_jax.files import write_json
from tests.data.measures import picture

SIDE = 70


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    """Pictures of every kind, two unusable ones, and a file that is no picture."""
    folder = tmp_path_factory.mktemp("images") / "set"
    (folder / "sub").mkdir(parents=True)
    rgb = picture(SIDE, 0)
    Image.fromarray(rgb).save(folder / "sub" / "rgb.png")
    Image.fromarray(rgb[..., 0]).save(folder / "grey.png")
    Image.fromarray(rgb[..., 0].astype(np.uint16) * 257).save(folder / "deep.png")
    Image.fromarray(np.dstack([rgb, np.full((SIDE, SIDE), 99, np.uint8)])).save(folder / "rgba.png")
    Image.fromarray(rgb).convert("CMYK").save(folder / "cmyk.tif")
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.fromarray(np.rot90(rgb[:, :64]).copy()).save(folder / "turned.png", exif=turned)
    Image.fromarray(picture(63, 1)).save(folder / "small.png")
    (folder / "broken.png").write_bytes((folder / "grey.png").read_bytes()[:200])
    (folder / "notes.txt").write_text("no picture")
    return folder


@pytest.fixture(scope="module")
def built(images, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("built")
    assert main(["--dataset", "folder", "--images", str(images), "--output", str(output)]) == 0
    return output


def test_pictures_are_stored_upright_in_8_bit_rgb_under_their_names(images, built):
    assert find_set(built) == find_set(built / "folder") == built / "folder" / "1.0.0"
    rgb = picture(SIDE, 0)
    grey = np.dstack([rgb[..., 0]] * 3)
    expected = {"sub/rgb.png": rgb, "grey.png": grey, "deep.png": grey, "rgba.png": rgb, "turned.png": rgb[:, :64]}
    records = tfds.builder_from_directory(built / "folder" / "1.0.0").as_data_source(split="train")
    found = {record["key"].decode(): record["image"] for record in records}
    assert set(found) == {*expected, "cmyk.tif"}
    for key, image in expected.items():
        np.testing.assert_array_equal(found[key], image)
    assert np.abs(found["cmyk.tif"].astype(int) - rgb).max() <= 2
    source = TFDSSource(built / "folder" / "1.0.0")
    for index, record in enumerate(records):
        np.testing.assert_array_equal(source[index], record["image"])
        assert not source[index].flags.writeable


def test_a_set_beside_pictures_hides_none_of_them(images, built, tmp_path, capsys):
    own = shutil.copytree(images, tmp_path / "own")
    assert main(["--dataset", "folder", "--images", str(own), "--output", str(own / "built")]) == 2
    assert f"own/built/folder/1.0.0: lies within --images, {own}, expected a folder outside" in capsys.readouterr().err
    found = shutil.copytree(built, own / "built") / "folder" / "1.0.0"
    assert len(open_pictures(str(found), cache_bytes=0)) == 6
    with pytest.raises(InputError, match=f"{own}: holds a built set .{found}. and pictures .*, expected only one kind"):
        open_pictures(str(own), cache_bytes=0)


def test_what_cannot_be_used_is_listed_with_its_reason(built):
    left_out = sorted(tfds.builder_from_directory(built / "folder" / "1.0.0").info.metadata["left_out"])
    assert len(left_out) == 2
    assert "broken.png: cannot be decoded" in left_out[0]
    assert left_out[1].endswith("small.png: 63x63 px, expected sides of at least 64")


def test_it_is_trained_on_whatever_its_pictures_were(built, capfd):
    """Colour, grey, alpha, CMYK, 16 bit, turned; all smaller than the crop."""
    stream = batches(DataConfig(str(built), crop_size=96, preset="light", prefetch=2), batch_size=2, seed=0)
    for batch in itertools.islice(stream, 20):
        assert batch["hr"].shape == (2, 96, 96, 3)
        assert batch["lr"].shape == (2, 24, 24, 3)
    assert stream.skipped == 0
    assert "left out" not in capfd.readouterr().err
    assert (built / "folder" / "1.0.0" / "windows_96.npz").is_file()


def test_a_set_that_is_there_stays(images, built, capsys, monkeypatch):
    monkeypatch.setattr(BUILDERS["folder"], "_encode", lambda *_: pytest.fail("built again"))
    assert main(["--dataset", "folder", "--images", str(images), "--output", str(built)]) == 0
    assert "exists already" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "unpacked"),
    [("div2k", "DIV2K_train_HR"), ("div8k", ""), ("flickr2k", "Flickr2K_HR"), ("ost", "OutdoorSceneTrain_v2")],
)
def test_each_published_set_is_found_where_its_archive_unpacks(tmp_path, name, unpacked):
    """Beside it lies what does not belong to the set."""
    (tmp_path / unpacked / "animal").mkdir(parents=True)
    (tmp_path / "other").mkdir()
    Image.fromarray(picture(64, 0)).save(tmp_path / unpacked / "animal" / "0.png")
    if unpacked:
        Image.fromarray(picture(64, 1)).save(tmp_path / "other" / "1.png")
    builder = BUILDERS[name](images=tmp_path, data_dir=tmp_path / "data")
    assert builder.name == name
    assert [key for key, _ in builder._generate_examples()] == ["animal/0.png"]


def test_of_ffhq_the_first_faces_are_taken(tmp_path, monkeypatch):
    assert Ffhq.limit == 10_000
    monkeypatch.setattr(Ffhq, "limit", 3)
    for index in (0, 1, 2, 3):
        folder = tmp_path / "images1024x1024" / f"{index // 2:05d}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture(64, index)).save(folder / f"{index:05d}.png")
    builder = Ffhq(images=tmp_path, data_dir=tmp_path / "data")
    keys = [key for key, _ in builder._generate_examples()]
    assert keys == ["00000/00000.png", "00000/00001.png", "00001/00002.png"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--images", "/nowhere"], "/nowhere: is not a folder"),
        (["--images", "IMAGES", "--min-side", "1000"], "none of its 8 pictures can be used"),
        (["--images", "IMAGES", "--output", "/dev/null/below"], "cannot be written"),
    ],
)
def test_what_is_wrong_is_named_and_nothing_is_left(images, tmp_path, capsys, arguments, message):
    arguments = [argument.replace("IMAGES", str(images)) for argument in arguments]
    assert main(["--dataset", "folder", "--output", str(tmp_path), *arguments]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("build: ")
    assert message in error
    assert find_set(tmp_path) is None


def damaged(built: Path, tmp_path: Path) -> tuple[Path, bytearray]:
    """A copy of the set, and the bytes of its one file."""
    for file in (built / "folder" / "1.0.0").iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (file,) = tmp_path.glob("*array_record*")
    return file, bytearray(file.read_bytes())


def test_a_damaged_record_is_named_and_leaves_the_others_whole(built, tmp_path):
    file, data = damaged(built, tmp_path)
    data[1000] ^= 255
    file.write_bytes(data)
    source, whole = TFDSSource(tmp_path), TFDSSource(built / "folder" / "1.0.0")
    with pytest.raises(InputError, match=r"folder-train\.array_record-00000-of-00001: record 0 is damaged"):
        source[0]
    for index in range(1, len(whole)):
        np.testing.assert_array_equal(source[index], whole[index])


@pytest.mark.parametrize("kept", [0, 0.5])
def test_a_file_cut_short_is_named(built, tmp_path, kept):
    file, data = damaged(built, tmp_path)
    file.write_bytes(data[: int(kept * len(data))])
    with pytest.raises(InputError, match=r"00000-of-00001: record 3 is damaged .* build the set again"):
        TFDSSource(tmp_path)[3]


def test_another_set_or_split_is_refused(built, tmp_path):
    with pytest.raises(InputError, match="with a split 'test'"):
        TFDSSource(built / "folder" / "1.0.0", split="test")
    for folder in ("a/1.0.0", "b/1.0.0"):
        (tmp_path / folder).mkdir(parents=True)
        write_json(tmp_path / folder / "dataset_info.json", {"name": "a", "version": "1.0.0", "splits": []})
    with pytest.raises(InputError, match=r"holds several sets, expected one of .*a/1\.0\.0, .*b/1\.0\.0"):
        find_set(tmp_path)
    with pytest.raises(InputError, match="cannot be read as an ArrayRecord set"):
        TFDSSource(tmp_path / "a/1.0.0")


def test_a_copy_for_another_process_reads_the_same(built):
    source = TFDSSource(built / "folder" / "1.0.0")
    images = [source[index] for index in range(len(source))]
    data = pickle.dumps(source)
    assert len(data) < 20_000
    copy = pickle.loads(data)
    for index, image in enumerate(images):
        np.testing.assert_array_equal(copy[index], image)


def test_the_module_is_a_program_and_needs_no_tensorflow(images, tmp_path):
    script = (
        "import sys; from cassr_jax.commands.build import main; code = main(sys.argv[1:]);"
        "assert 'tensorflow' not in sys.modules; sys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, "--dataset", "ost", "--images", str(images), "--output", str(tmp_path)],
        cwd=Path(__file__).parents[2],
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().splitlines()[-1].endswith("ost/1.0.0: 6 pictures, 2 left out")
