"""Pictures cut into pieces: every pixel is in one, and a stopped command goes on."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cassr_jax.commands import cut as command
from cassr_jax.commands.cut import main
from cassr_jax.data import pieces
from cassr_jax.data.config import DataConfig
from cassr_jax.data.pieces import Cutting
from cassr_jax.data.pipeline import open_records
from tests.data.measures import picture


@pytest.mark.parametrize(
    ("size", "step", "remainder", "side", "expected"),
    [
        (4, 2, 0, 8, [0, 2, 4]),
        (4, 2, 0, 9, [0, 2, 4, 5]),
        (4, 2, 1, 9, [0, 2, 4]),
        (4, 3, 0, 8, [0, 3, 4]),
        (4, 4, 3, 7, [0]),
        (4, 4, 2, 7, [0, 3]),
        (4, 2, 0, 4, [0]),
        (4, 2, 0, 3, [0]),  # stays as long as it is
    ],
)
def test_where_pieces_begin(size, step, remainder, side, expected):
    assert Cutting(size, step, remainder).begins(side) == expected


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A picture of 90 x 70 px, one below the size in a subfolder, and a broken one."""
    folder = tmp_path / "images"
    (folder / "sub").mkdir(parents=True)
    Image.fromarray(picture(90, 0)[:70]).save(folder / "wide.png")
    Image.fromarray(picture(48, 1)[:, :20]).save(folder / "sub" / "small.png")
    (folder / "broken.png").write_bytes(b"nothing")
    return folder


def run(images: Path, output: Path, *more: str) -> int:
    return main(["--images", str(images), "--output", str(output), "--size", "40", "--step", "30", *more])


def pixels(file: Path) -> np.ndarray:
    return np.asarray(Image.open(file))


def test_the_pieces_are_the_picture(images: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    output = tmp_path / "pieces"
    assert run(images, output) == 0
    said = capsys.readouterr()
    assert said.out == f"{output}: 8 pieces of 2 pictures; 0 were cut already, 1 left out\n"
    assert "left out: " in said.err
    assert "broken.png" in said.err
    whole, again = pixels(images / "wide.png"), np.zeros((70, 90, 3), np.uint8)
    for top in (0, 30):
        for left in (0, 30, 50):
            piece = pixels(output / f"wide.png_y{top:05d}_x{left:05d}.png")
            assert piece.shape == (40, 40, 3)
            again[top : top + 40, left : left + 40] = piece
    np.testing.assert_array_equal(again, whole)
    assert pixels(output / "sub" / "small.png_y00000_x00000.png").shape == (40, 20, 3)
    assert len(open_records(DataConfig(str(output), crop_size=16))) >= 8  # a folder to train on


def test_a_stopped_command_goes_on(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    output, write, written = tmp_path / "pieces", pieces.io.write, []

    def stops_at_the_fifth(path, made):
        written.append(path.name)
        if len(written) == 5:
            raise KeyboardInterrupt
        write(path, made)

    with monkeypatch.context() as patch:
        patch.setattr(pieces.io, "write", stops_at_the_fifth)
        assert run(images, output, "--workers", "1") == 130
    assert not (output / "wide.png_y00000_x00000.png").exists()  # it says that all others are there
    capsys.readouterr()
    assert run(images, output) == 0
    assert "; 1 were cut already, 1 left out" in capsys.readouterr().out
    assert len([*output.rglob("*.png")]) == 8
    monkeypatch.setattr(command, "cut", lambda *_: pytest.fail("a picture was cut again"))
    assert run(images, output) == 0


def test_what_would_be_mixed_up_is_refused(images: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    def refused(*arguments) -> str:
        assert run(*arguments) == 2
        return capsys.readouterr().err

    assert "images/pieces: lies within --images" in refused(images, images / "pieces")
    assert "--step is 50, expected at most --size, 40" in refused(images, tmp_path / "pieces", "--step", "50")
    assert not (tmp_path / "pieces").exists()
    assert run(images, tmp_path / "pieces") == 0
    capsys.readouterr()
    assert "cut.json: cut with step 30, this command has 20" in refused(images, tmp_path / "pieces", "--step", "20")
    (tmp_path / "others").mkdir()
    (tmp_path / "others" / "a.png").write_bytes(b"")
    assert "others: holds a.png and no cut.json, expected an empty folder" in refused(images, tmp_path / "others")
