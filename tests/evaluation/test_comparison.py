"""The evaluation command: folders in, the right numbers out, nothing measured twice, nothing lost."""

import csv
import json
import shutil
from itertools import count

import cv2
import numpy as np
import pytest

from cassr_jax.commands import ablate
from cassr_jax.errors import InputError
from cassr_jax.evaluation import __main__ as command
from cassr_jax.evaluation import cascades, comparison, installed
from cassr_jax.evaluation.fidelity import luma, psnr
from cassr_jax.evaluation.pairing import find_cases
from tests.evaluation.fake_cascade import fake_cascade
from tests.evaluation.pair_folders import arguments, write


def test_from_folders_to_a_report(folders, truths, cascade, capsys):
    peer = f"peer={folders / 'peer'}"
    assert command.main(arguments(folders, "--results", peer, "--steps", "3", "--paper", "RealSR")) == 0
    assert cascade == [{"seed": 0, "scale": 4, "steps": 3}] * 3
    enlarged = {name: truth[::4, ::4].repeat(4, 0).repeat(4, 1) for name, truth in truths.items()}
    out = folders / "out"
    text = (out / "table.md").read_text()
    assert capsys.readouterr().out == text
    report = json.loads((out / "comparison.json").read_text())
    assert list(report["means"]) == ["bicubic", "reference", "result", "peer"]
    assert report["versions"]["numpy"] == np.__version__
    assert "pyiqa" in report["versions"]
    expected = [psnr(luma(enlarged[name] // 4), luma(truth)) for name, truth in truths.items()]
    found = report["means"]["result"]["psnr_y"]
    assert found["mean"] == pytest.approx(np.mean(expected))
    assert found["standard_error"] == pytest.approx(np.std(expected, ddof=1) / 3**0.5)
    compared = report["differences"]["result"]["psnr_y"]
    darker = [psnr(luma(enlarged[name] // 2), luma(truth)) for name, truth in truths.items()]
    assert report["baseline"] == "reference"
    assert compared["mean"] == pytest.approx(np.mean(np.subtract(expected, darker)))
    assert compared["better"] == 0
    with (out / "values.csv").open() as file:
        rows = {(row["picture"], row["program"]): row for row in csv.DictReader(file)}
    assert len(rows) == 12
    assert float(rows["b", "result"]["psnr_y"]) == pytest.approx(expected[1])
    made = cv2.imread(str(out / "pictures" / "reference" / "c.png"))[..., ::-1]
    np.testing.assert_array_equal(made, enlarged["c"] // 2)
    assert cv2.imread(str(out / "sheet.png")).shape == (3 * 260 - 4, 5 * 260 - 4, 3)
    assert "CasSR (quoted)" in text
    assert "MUSIQ is missing: pyiqa cannot be imported" in text
    assert "MANIQA-PIPAL is missing" in text
    assert "| minus reference |" in text


def test_the_sheet_shows_the_worst_first(folders, cascade):
    assert command.main(arguments(folders)) == 0
    sheet = cv2.imread(str(folders / "out" / "sheet.png"))[..., ::-1]
    report = json.loads((folders / "out" / "comparison.json").read_text())
    worst = max(report["pictures"], key=lambda name: report["pictures"][name]["result"]["lpips"])
    np.testing.assert_array_equal(sheet[:256, 780:1036], cv2.imread(str(folders / "hr" / f"{worst}.png"))[..., ::-1])


def test_a_killed_comparison_goes_on(folders, cascade, monkeypatch):
    calls, make_measure = count(), installed.make_measure

    def make_killed(*given):
        measure = make_measure(*given)

        def killed(truth, pictures):
            if next(calls) == 2:
                raise KeyboardInterrupt
            return measure(truth, pictures)

        return killed

    with monkeypatch.context() as patched:
        patched.setattr(installed, "make_measure", make_killed)
        assert command.main(arguments(folders)) == 130
    values = folders / "out" / "values.jsonl"
    assert len(values.read_text().splitlines()) == 2
    with values.open("a") as file:  # a kill in the middle of a line
        file.write('{"name": "c", "val')
    cascade.clear()
    assert command.main(arguments(folders)) == 0
    assert len(cascade) == 1
    assert [json.loads(line)["name"] for line in values.read_text().splitlines()] == ["a", "b", "c"]
    cascade.clear()
    assert command.main(arguments(folders)) == 0
    assert not cascade


def test_a_picture_that_was_changed_is_measured_anew(folders, cascade, truths):
    peer = ("--results", f"peer={folders / 'peer'}")
    assert command.main(arguments(folders, *peer)) == 0
    before = json.loads((folders / "out" / "comparison.json").read_text())["pictures"]
    write(folders / "peer", "b.webp", truths["b"] // 3)
    cascade.clear()
    assert command.main(arguments(folders, *peer)) == 0
    assert len(cascade) == 1
    after = json.loads((folders / "out" / "comparison.json").read_text())["pictures"]
    assert after["a"] == before["a"]
    assert after["b"]["peer"]["psnr_y"] < before["b"]["peer"]["psnr_y"]


def test_pictures_that_were_deleted_are_made_anew(folders, cascade):
    """The sheet and the measures of whole sets read them."""
    assert command.main(arguments(folders)) == 0
    shutil.rmtree(folders / "out" / "pictures")
    cascade.clear()
    assert command.main(arguments(folders, "--against", "bicubic")) == 0
    assert len(cascade) == 3
    assert "| minus bicubic |" in (folders / "out" / "table.md").read_text()
    (folders / "out" / "pictures" / "result" / "b.png").unlink()
    assert command.main(arguments(folders)) == 0
    assert len(cascade) == 4


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (RuntimeError("RESOURCE_EXHAUSTED: Out of memory"), "does not fit into memory; a smaller --tile needs less"),
        (MemoryError(), "does not fit into memory; a smaller --tile needs less"),
        (ZeroDivisionError("by nought"), "ZeroDivisionError: by nought; this is a fault in the program, values.jsonl"),
    ],
    ids=["device", "machine", "fault"],
)
def test_a_picture_at_which_the_program_fails_is_left_out_and_tried_again(folders, cascade, monkeypatch, error, reason):
    loaded = cascades.cassr_jax.load()
    restore = loaded.restore

    def failing(lr, **options):
        if len(cascade) == 1:
            cascade.append({})
            raise error
        return restore(lr, **options)

    with monkeypatch.context() as patched:
        patched.setattr(loaded, "restore", failing)
        assert command.main(arguments(folders)) == 0
    report = json.loads((folders / "out" / "comparison.json").read_text())
    assert list(report["pictures"]) == ["a", "c"]
    assert f"{folders / 'hr' / 'b.png'}: {reason}" in report["left_out"]["b"]
    failed = json.loads((folders / "out" / "values.jsonl").read_text().splitlines()[1])
    assert "in failing" in failed["traceback"]
    cascade.clear()
    assert command.main(arguments(folders)) == 0
    assert len(cascade) == 1
    assert list(json.loads((folders / "out" / "comparison.json").read_text())["pictures"]) == ["a", "b", "c"]


def test_a_sheet_that_cannot_be_written_costs_no_table(folders, cascade, monkeypatch):
    def full(*_):
        raise InputError("sheet.png: cannot be written (No space left on device)")

    monkeypatch.setattr(command, "write_sheet", full)
    assert command.main(arguments(folders)) == 2
    assert (folders / "out" / "table.md").is_file()


def test_what_names_no_program_is_known_before_any_work(folders, cascade, capsys):
    peer, other = (f"peer={folders / name}" for name in ("peer", "hr"))
    with pytest.raises(SystemExit, match="2"):
        command.main(arguments(folders, "--results", peer, "--results", other))
    assert "--results gives peer twice, expected a name of its own for each folder" in capsys.readouterr().err
    assert command.main(arguments(folders, "--results", peer, "--against", "pear")) == 2
    expected = "--against is 'pear', expected one of bicubic, reference, result, peer"
    assert capsys.readouterr().err == f"evaluation: {expected}\n"
    assert command.main(arguments(folders, "--baselines", "--against", "reference, blurred 0.4")) == 2
    assert "reference, blurred 0.3, reference, blurred 0.5" in capsys.readouterr().err
    assert cascade == []


def test_other_weights_are_another_comparison(folders, cascade, capsys):
    config = {"components": {"unet": "unet"}}
    (folders / "cascade" / "unet").mkdir(parents=True)
    (folders / "cascade" / "cassr.json").write_text(json.dumps(config))
    weights = folders / "cascade" / "unet" / "weights.safetensors"
    weights.write_bytes(b"some")
    options = ("--config", str(folders / "cascade"))
    assert command.main(arguments(folders, *options)) == 0
    assert command.main(arguments(folders, *options)) == 0
    weights.write_bytes(b"other")
    assert command.main(arguments(folders, *options)) == 2
    assert "settings.json: cascade is" in capsys.readouterr().err


def test_another_comparison_does_not_share_an_output(folders, cascade, capsys):
    assert command.main(arguments(folders)) == 0
    assert command.main(arguments(folders, "--steps", "5")) == 2
    assert "settings.json: steps is null, now 5; expected the same, or another --output" in capsys.readouterr().err
    (folders / "out" / "settings.json").write_text("{")
    assert command.main(arguments(folders)) == 2
    assert "not JSON" in capsys.readouterr().err


def test_what_does_not_pair_or_fit_is_listed_and_the_rest_measured(folders, cascade, truths):
    write(folders / "peer", "b.webp", truths["b"][:100])
    write(folders / "hr", "lonely.png", truths["a"])
    (folders / "lr" / "c.png").write_bytes(b"no picture")
    assert command.main(arguments(folders, "--results", f"peer={folders / 'peer'}")) == 0
    report = json.loads((folders / "out" / "comparison.json").read_text())
    assert list(report["pictures"]) == ["a"]
    assert report["left_out"].keys() == {"b", "c", "lonely"}
    assert report["left_out"]["lonely"] == "not in lr, peer"
    assert "b.webp: 256x100 px, expected 256x256 px" in report["left_out"]["b"]
    assert "- Pictures: 1, left out: 3." in (folders / "out" / "table.md").read_text()


def test_results_alone_need_no_cascade(folders, cascade):
    given = ["--hr", str(folders / "hr"), "--results", f"peer={folders / 'peer'}", "--output", str(folders / "out")]
    assert command.main(given) == 0
    assert not cascade
    report = json.loads((folders / "out" / "comparison.json").read_text())
    assert list(report["means"]) == ["peer"]


def test_a_person_s_mistake_is_one_line_and_exit_code_2(folders, cascade, capsys):
    output = ["--output", str(folders / "out")]
    assert command.main(["--hr", str(folders / "none"), "--lr", str(folders / "lr"), *output]) == 2
    assert "none" in capsys.readouterr().err
    for wrong in (["--hr", "x", *output], ["--hr", "x", "--results", "result=y", *output]):
        with pytest.raises(SystemExit, match="2"):
            command.main(wrong)
    assert "is none of bicubic, reference, result" in capsys.readouterr().err


def test_names_must_be_clear(tmp_path, truths):
    write(tmp_path / "hr", "a.png", truths["a"])
    write(tmp_path / "lr", "b.png", truths["a"])
    with pytest.raises(InputError, match="no picture's name is in all of"):
        find_cases(tmp_path / "hr", tmp_path / "lr", {})
    write(tmp_path / "hr", "a.webp", truths["a"])
    with pytest.raises(InputError, match=r"a.webp: has the same name as a.png, a; expected one picture for each name"):
        find_cases(tmp_path / "hr", None, {"x": tmp_path / "lr"})


@pytest.mark.parametrize("damage", ["[]", "\xff", '{"hr": [', "[" * 100_000], ids=["list", "text", "cut", "nested"])
def test_damaged_settings_are_one_sentence(folders, cascade, capsys, damage):
    (folders / "out").mkdir()
    (folders / "out" / "settings.json").write_bytes(damage.encode("latin-1"))
    assert command.main(arguments(folders)) == 2
    error = capsys.readouterr().err
    assert error.startswith("evaluation: ")
    assert "settings.json" in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    "damage",
    ["[]", "{}", "\xff", '{"name": 3, "values": {}}', '{"name": "a", "values": {"x": 3}}', '{"name": "a", "val": {}}'],
    ids=["list", "empty", "text", "number as name", "number as values", "another field"],
)
def test_a_damaged_line_of_values_is_one_sentence_that_names_it(folders, cascade, capsys, damage):
    assert command.main(arguments(folders)) == 0
    values = folders / "out" / "values.jsonl"
    lines = values.read_bytes().splitlines(keepends=True)
    values.write_bytes(lines[0] + damage.encode("latin-1") + b"\n" + lines[2])
    capsys.readouterr()
    assert command.main(arguments(folders)) == 2
    error = capsys.readouterr().err
    assert "values.jsonl, line 2: " in error
    assert error.count("\n") == 1


def test_two_comparisons_do_not_share_an_output_at_once(folders, cascade, capsys):
    with comparison.claimed(folders / "out", "another"):
        assert command.main(arguments(folders)) == 2
    assert "in use by another" in capsys.readouterr().err


def test_a_sceptic_s_row_that_does_not_fit_into_memory_costs_only_its_picture(folders, cascade, monkeypatch):
    def autoencode(picture: np.ndarray) -> np.ndarray:
        if len(cascade) == 2:
            raise MemoryError
        return picture

    monkeypatch.setattr(cascades, "make_autoencode", lambda _: autoencode)
    assert command.main(arguments(folders, "--baselines")) == 0
    report = json.loads((folders / "out" / "comparison.json").read_text())
    assert list(report["pictures"]) == ["a", "c"]
    assert "does not fit into memory" in report["left_out"]["b"]


def test_a_picture_that_the_cascade_refuses_costs_only_itself(folders, cascade, monkeypatch):
    load = cascades.cassr_jax.load

    def strict_load(*given, **options):
        cascade = load(*given, **options)

        def restore(lr, **more):
            if lr.shape[0] == 32:
                raise InputError("too large")
            return cascade.restore(lr, **more)

        return fake_cascade(restore)

    monkeypatch.setattr(cascades.cassr_jax, "load", strict_load)
    write(folders / "lr", "b.png", np.zeros((32, 32, 3), np.uint8))
    assert command.main(arguments(folders)) == 0
    report = json.loads((folders / "out" / "comparison.json").read_text())
    assert list(report["pictures"]) == ["a", "c"]
    assert report["left_out"]["b"].endswith("b.png: too large")


def test_the_sceptic_s_rows_stand_beside_the_result(folders, cascade, monkeypatch, truths):
    """Computed here from the pictures that the cascade repeats; the autoencoder is one that darkens."""
    monkeypatch.setattr(cascades, "make_autoencode", lambda _: lambda picture: picture // 2)
    assert command.main(arguments(folders, "--baselines", "--sigma", "0.7")) == 0
    out = folders / "out"
    report = json.loads((out / "comparison.json").read_text())
    assert list(report["means"]) == [
        "bicubic",
        "reference",
        "result",
        "reference, blurred 0.7",
        "reference through the autoencoder",
        "mean of bicubic and reference",
        "mean of bicubic and result",
        "mean of reference and result",
    ]
    bicubic = truths["a"][::4, ::4].repeat(4, 0).repeat(4, 1)
    reference, result = bicubic // 2, bicubic // 4
    made = {path.parent.name: cv2.imread(str(path))[..., ::-1] for path in (out / "pictures").glob("*/a.png")}
    np.testing.assert_array_equal(made["reference_through_the_autoencoder"], reference // 2)
    mean = (reference.astype(float) + result) / 2
    assert np.abs(made["mean_of_reference_and_result"] - mean).max() <= 0.5
    smooth = cv2.GaussianBlur(reference.astype(np.float32), (0, 0), 0.7)
    assert np.abs(made["reference_blurred_0.7"] - smooth).max() <= 0.5
    assert command.main(arguments(folders, "--baselines", "--sigma", "0.8")) == 2  # another comparison


def test_the_second_stage_stands_alone_where_the_result_is_a_blend(folders, cascade, monkeypatch, truths):
    monkeypatch.setattr(cascades, "make_autoencode", lambda _: lambda picture: picture)
    assert command.main(arguments(folders, "--baselines", "--reference-weight", "0.75")) == 0
    assert all(options["reference_weight"] == 0 for options in cascade)
    made = {path.parent.name: cv2.imread(str(path)) for path in (folders / "out" / "pictures").glob("*/a.png")}
    bicubic = truths["a"][::4, ::4].repeat(4, 0).repeat(4, 1)[..., ::-1]
    np.testing.assert_array_equal(made["second_stage_alone"], bicubic // 4)
    assert np.abs(made["result"] - (0.75 * (bicubic // 2) + 0.25 * (bicubic // 4))).max() <= 0.5


def test_precision_and_devices_reach_the_cascade(folders, cascade, monkeypatch):
    seen = []
    load = cascades.cassr_jax.load

    def noted(*given, **options):
        seen.append(options)
        return load(*given, **options)

    monkeypatch.setattr(cascades.cassr_jax, "load", noted)
    assert command.main(arguments(folders, "--precision", "bf16", "--devices", "2")) == 0
    assert (seen[0]["dtype"], seen[0]["devices"]) == ("bfloat16", 2)
    assert command.main(arguments(folders, "--devices", "99")) == 2


@pytest.mark.parametrize(
    ("program", "given", "found"),
    [
        (command, "--hr hr --lr lr --output lr/out", "lr/out: lies within --lr, lr"),
        (command, "--hr hr --lr lr --output lr/../hr", "lr/../hr: is --hr, hr"),
        (command, "--hr hr --results peer=peer --output peer/out", "peer/out: lies within --results peer, peer"),
        (ablate, "--hr hr --lr lr --output lr/out", "lr/out: lies within --lr, lr"),
    ],
)
def test_a_report_within_the_pictures_is_refused(program, given, found, tmp_path, monkeypatch, capsys):
    """The next report would find its own pictures among them."""
    monkeypatch.chdir(tmp_path)
    assert program.main(given.split()) == 2
    assert f": {found}, expected a folder outside it: what is written there would" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
