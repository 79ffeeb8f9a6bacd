"""What `sample.py` refuses, and that it refuses no more than that."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

import sample
from cassr_jax.errors import InputError
from cassr_jax.imaging import memory
from cassr_jax.imaging.manifest import Manifest
from tests.end_to_end.quick import (
    COLORS,
    BicubicCascade,
    color_of,
    flat,
    four_of_one_name,
    manifest,
    outputs,
    run,
)
from tests.imaging import pictures

ROOT = Path(sample.__file__).parent


def test_transparency_does_not_go_into_jpeg(folder, cascade, capsys):
    pictures.palette_with_hidden_magenta().save(folder / "a.png")
    flat(folder / "b.png", "red")
    assert run("in", "--output", "out", "--format", "jpg") == 2
    assert outputs() == ["b.jpg"]
    assert "JPEG holds no transparency" in capsys.readouterr().err


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


def test_all_missing_paths_are_named_before_any_work(folder, cascade, capsys):
    flat(folder / "a.png", "red")
    assert run("in/none.png", "in/a.png", "nowhere/", "--output", "out") == 2
    assert cascade.loaded == []
    assert not Path("out").exists()
    (line,) = capsys.readouterr().err.splitlines()
    assert line == "sample.py: in/none.png, nowhere/: no such file or folder, expected picture files or folders"


@pytest.mark.parametrize("option", [[], ["--output"], ["--config"], ["--prompts"]], ids=str)
def test_a_name_that_no_file_can_have_is_one_line(folder, cascade, capsys, option):
    flat(folder / "a.png", "red")
    name = f"{'a' * 300}.py"
    assert run("in/a.png", *option, name) == 2
    assert capsys.readouterr().err == f"sample.py: {name}: cannot be read (File name too long)\n"


def test_an_output_that_is_a_link_to_itself_is_one_line(folder, cascade, capsys):
    flat(folder / "a.png", "red")
    Path("out").symlink_to("out")
    assert run("in", "--output", "out") == 2
    assert "out: cannot be made, since out is a link that leads nowhere" in capsys.readouterr().err


def test_resume_does_not_take_one_for_the_other(folder, cascade, capsys):
    four_of_one_name(folder)
    assert run("in/x", "--output", "out") == 0
    assert run("in/y", "--output", "out", "--resume") == 2
    assert run("in/y", "--output", "out") == 2
    assert color_of("out/a.png") == COLORS["blue"]
    assert all("holds the result of" in line for line in capsys.readouterr().err.splitlines())
    assert len(cascade.calls) == 1


@pytest.mark.parametrize("seed", ["-1", "9223372036854775808", "1.5", "x"])
def test_seeds_out_of_range_are_named(folder, cascade, capsys, seed):
    flat(folder / "a.png", "red")
    with pytest.raises(SystemExit) as exit:
        run("in", "--output", "out", "--seed", seed)
    assert exit.value.code == 2
    error = capsys.readouterr().err
    assert seed in error
    assert "9223372036854775807" in error or "whole number" in error


@pytest.mark.parametrize(
    "arguments",
    [
        "--scale 0",
        "--scale nan",
        "--steps 0",
        "--steps 2.5",
        "--guidance-scale inf",
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
    assert "bomb.png: 10000000000 pixels, expected at most 67108864; make it smaller" in error


def test_a_picture_that_needs_more_memory_than_there_is_costs_one_line(folder, cascade, capsys, monkeypatch):
    flat(folder / "small.png", "red")
    flat(folder / "large.png", "red", (2000, 1000))
    monkeypatch.setattr(memory, "installed", lambda: 2_000_000_000)
    assert run("in", "--output", "out") == 2
    assert outputs() == ["small.png"]
    captured = capsys.readouterr()
    (line,) = captured.err.splitlines()
    assert "large.png: 8000x4000 px of output need about 5.1 GB of memory, expected at most 2.0 GB" in line
    assert captured.out.startswith("1 picture of 48x32 px; about 0.5 GB")


def test_a_foreign_file_is_not_overwritten(folder, cascade, capsys):
    flat(folder / "a.jpg", "red")
    flat(Path("out/a.png"), "blue")
    assert run("in", "--output", "out") == 2
    assert color_of("out/a.png") == COLORS["blue"]
    assert "no result of this program" in capsys.readouterr().err


@pytest.mark.parametrize(("option", "kind"), [("--save-reference", "reference"), ("--compare", "compare")])
def test_results_that_would_share_a_file_are_refused(folder, cascade, capsys, option, kind):
    flat(folder / "a.png", "red")
    flat(folder / f"a_{kind}.png", "red")
    assert run("in", "--output", "out", option) == 2
    assert outputs() == ["a.png", f"a_{kind}.png"]
    assert capsys.readouterr().err == (
        f"sample.py: in/a_{kind}.png: out/a_{kind}.png would also be written for in/a.png, expected another name or "
        "another --output\n"
    )
    assert len(cascade.calls) == 1


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("in/a.png/x/y", "cannot be made, since in/a.png is a file; expected a folder"),
        ("lost", "cannot be made, since lost is a link that leads nowhere; expected a folder"),
        ("lost/x", "cannot be made, since lost is a link that leads nowhere; expected a folder"),
        ("closed", "closed is read-only, expected a folder that can be written"),
        ("closed/x/y", "closed is read-only, expected a folder that can be written"),
    ],
)
def test_a_folder_that_cannot_be_written_is_known_before_any_work(
    folder, cascade, capsys, monkeypatch, output, message
):
    flat(folder / "a.png", "red")
    Path("lost").symlink_to("none")
    Path("closed").mkdir()
    monkeypatch.setattr(os, "access", lambda path, mode: str(path) != "closed")  # root may write anywhere
    assert run("in", "--output", output) == 2
    assert capsys.readouterr().err == f"sample.py: {output}: {message}\n"
    assert cascade.loaded == []
    assert list(Path("closed").iterdir()) == []


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


def test_options_that_the_cascade_refuses_claim_nothing(folder, cascade, capsys):
    def check(tile=None, **settings):
        if tile == 4:
            raise InputError("tile is 4 px, expected at least 8")

    flat(folder / "a.png", "red")
    cascade.check = check
    assert run("in", "--output", "out", "--tile", "4") == 2
    assert capsys.readouterr().err == "sample.py: tile is 4 px, expected at least 8\n"
    assert not Path("out").exists()


def test_weights_that_cannot_be_loaded(folder, capsys):
    flat(folder / "a.png", "red")
    assert run("in", "--output", "out", "--config", "nowhere") == 2
    assert capsys.readouterr().err.splitlines() == [
        "sample.py: nowhere: not found, expected an embedded cascade (tiny), a folder, a .py file or the name of one "
        "in configs/, or a hub id"
    ]
    assert not Path("out").exists()


def test_errors_come_before_jax(folder):
    (folder / "a.png").write_bytes(b"junk")
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import sample; rc = sample.main(['in']); "
    code += "print(rc, 'jax' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=folder.parent)
    assert result.stdout.split() == ["2", "False"]
    assert "a.png" in result.stderr


def test_a_fault_of_the_program_costs_one_picture_and_leaves_its_traceback(folder, cascade, capsys, monkeypatch):
    for name in ("a", "b", "c"):
        flat(folder / f"{name}.png", "red")
    faults = [MemoryError(), ZeroDivisionError("by nought")]

    def restore(rgb, **settings):
        if faults:
            raise faults.pop(0)
        return BicubicCascade.restore(cascade, rgb, **settings)

    monkeypatch.setattr(cascade, "restore", restore)
    assert run("in", "--output", "out") == 2
    assert outputs() == ["c.png"]
    first, second = capsys.readouterr().err.splitlines()
    assert "a.png: does not fit into memory" in first
    assert "b.png: ZeroDivisionError: by nought; this is a fault in the program" in second
    assert "Traceback" in manifest()["b.png"]["error"]


def test_a_disk_too_full_for_the_manifest_costs_no_picture(folder, cascade, capsys, monkeypatch):
    for name in ("a", "b"):
        flat(folder / f"{name}.png", "red")

    def put(self, *entries):
        raise InputError("out/manifest.jsonl: cannot be written (No space left on device)")

    monkeypatch.setattr(Manifest, "put", put)
    assert run("in", "--output", "out") == 2
    assert outputs() == ["a.png", "b.png"]
    assert len(capsys.readouterr().err.splitlines()) == 2


def test_a_name_too_long_for_its_result_is_known_before_any_work(folder, cascade, capsys):
    flat(folder / f"{'x' * 246}.png", "red")
    assert run("in", "--output", "out", "--save-reference") == 2
    assert "a name of 260 bytes, expected at most 255" in capsys.readouterr().err
    assert cascade.loaded == []
    assert run("in", "--output", "out") == 0
    assert outputs() == [f"{'x' * 246}.png"]


def test_an_unreadable_folder_costs_one_line(folder, cascade, capsys, monkeypatch):
    flat(folder / "a.png", "red")
    flat(folder / "closed" / "b.png", "red")
    scandir = os.scandir

    def refuse(path):
        if Path(path).name == "closed":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert run("in", "--output", "out") == 2
    monkeypatch.undo()
    assert "closed: cannot be read (Permission denied)" in capsys.readouterr().err
