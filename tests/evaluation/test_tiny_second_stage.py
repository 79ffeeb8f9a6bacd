"""The program that trains the second stage: what it keeps apart, and what it runs."""

import runpy
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import train
from cassr_jax.config_files import override, read_config
from cassr_jax.data.sources import picture_files
from cassr_jax.errors import InputError

ROOT = Path(train.__file__).parent
PROGRAM = runpy.run_path(str(ROOT / "benchmarks" / "tiny_second_stage.py"), run_name="tiny_second_stage")


def write(folder: Path, count: int) -> Path:
    folder.mkdir()
    for i in range(count):
        (folder / f"{i:02d}.png").write_bytes(b"")
    return folder


def test_every_seventh_picture_of_one_folder_is_kept_apart(tmp_path):
    first, second = write(tmp_path / "a", 9), write(tmp_path / "b", 9)
    for _ in range(2):  # again, nothing changes
        PROGRAM["divide"]([first, second], second, tmp_path / "photos")
        assert picture_files(tmp_path / "photos" / "choosing") == ["1_b/00.png", "1_b/07.png"]
        training = picture_files(tmp_path / "photos" / "training")
        assert training == [f"0_a/{i:02d}.png" for i in range(9)] + [f"1_b/{i:02d}.png" for i in (1, 2, 3, 4, 5, 6, 8)]


def test_the_folder_to_choose_by_is_one_of_the_photographs(tmp_path):
    with pytest.raises(InputError, match=r"--choosing is .*b, expected one of --photos: .*a"):
        PROGRAM["divide"]([write(tmp_path / "a", 1)], tmp_path / "b", tmp_path / "photos")


def test_every_command_names_a_configuration_and_fields_of_it(tmp_path):
    planned = PROGRAM["commands"](tmp_path, 100, 5, 2, 96)
    assert [*planned] == ["pairs, camera", "pairs, light", "pairs, realesrgan", "fusion", "second"]
    found = {
        title: override(read_config(Path(line[line.index("--config") + 1])), line[line.index("--set") + 1 :])
        for title, line in planned.items()
    }
    assert [found[f"pairs, {preset}"].data.preset for preset in PROGRAM["SHARES"]] == ["camera", "light", "realesrgan"]
    records = [int(line[line.index("--records") + 1]) for title, line in planned.items() if "pairs" in title]
    assert records == [50, 30, 20]
    fusion, second = found["fusion"], found["second"]
    assert (fusion.stage, second.stage) == ("fusion", "cassr")
    assert fusion.data.path == second.data.path == str(tmp_path / "pairs")
    assert (fusion.num_steps, second.batch_size) == (5, 2)
    assert (fusion.data.crop_size, second.data.crop_size) == (96, 96)
    workdir = Path(planned["fusion"][planned["fusion"].index("--workdir") + 1])
    assert second.components["fusion"] == str(workdir / "export" / "fusion")
    assert {"controlnet", "multiple_attention"} <= second.components.keys()


def test_what_fails_ends_the_program(tmp_path, monkeypatch, capsys):
    lines = []

    def run(line, **_):
        lines.append(line)
        return SimpleNamespace(returncode=1 if len(lines) == 2 else 0)

    monkeypatch.setattr(subprocess, "run", run)
    photos, output = write(tmp_path / "a", 2), tmp_path / "out"
    assert PROGRAM["main"](["--photos", str(photos), "--output", str(output)]) == 2
    assert len(lines) == 2
    assert lines[0][0] == sys.executable
    assert "pairs, light: ended with exit code 1, expected 0" in capsys.readouterr().err
