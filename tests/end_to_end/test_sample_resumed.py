"""How `sample.py` goes on in an output folder: earlier results, other runs, and pictures that change."""

import hashlib
from pathlib import Path

import pytest

from cassr_jax.imaging import io
from tests.end_to_end.quick import (
    COLORS,
    BicubicCascade,
    close,
    color_of,
    flat,
    manifest,
    outputs,
    run,
)

CONFIGS = Path(__file__).parents[2] / "configs"


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


def test_resume_redoes_what_had_other_loras(folder, cascade):
    flat(folder / "a.png", "red")
    for count, lora in enumerate(["a.safetensors", "a.safetensors=1", "a.safetensors=0.5", "b.safetensors=0.5"]):
        assert run("in", "--output", "out", "--resume", "--lora", lora) == 0
        assert len(cascade.calls) == max(count, 1)
    assert [options["loras"] for _, options in cascade.loaded] == [
        {"a.safetensors": 1.0},
        {"a.safetensors": 0.5},
        {"b.safetensors": 0.5},
    ]
    assert manifest()["a.png"]["settings"]["loras"] == {"b.safetensors": 0.5}


@pytest.mark.parametrize(
    ("options", "loras"),
    [
        (["--speed", "lcm"], {"latent-consistency/lcm-lora-sdv1-5": 1.0}),
        (["--speed", "hyper"], {"ByteDance/Hyper-SD:Hyper-SD15-1step-lora.safetensors": 1.0}),
        (["--speed", "lcm", "--lora", "own.safetensors=0.5"], {"own.safetensors": 0.5}),
        (["--speed", "fast"], {}),
    ],
)
def test_a_speed_adds_its_lora_unless_one_is_given(folder, cascade, options, loras):
    flat(folder / "a.png", "red")
    assert run("in", "--output", "out", "--config", str(CONFIGS / "sd15_tile.py"), *options) == 0
    assert [loaded["loras"] for _, loaded in cascade.loaded] == [loras]
    assert manifest()["a.png"]["settings"].get("loras", {}) == loras


def test_a_speed_for_another_unet_is_refused_before_its_lora_is_fetched(folder, cascade, capsys):
    flat(folder / "a.png", "red")
    assert run("in", "--output", "out", "--speed", "lcm") == 2
    assert "--speed lcm adds a LoRA for Stable Diffusion 1.5" in capsys.readouterr().err
    assert not cascade.loaded
    assert run("in", "--output", "out", "--speed", "lcm", "--lora", "own.safetensors") == 0


def test_resume_after_a_stop_in_the_middle(folder, cascade, monkeypatch):
    for name in "abcd":  # two go through the networks together
        flat(folder / f"{name}.png", "red")

    def stop(rgb, **settings):
        if len(cascade.calls) == 2:
            raise KeyboardInterrupt
        return BicubicCascade.restore(cascade, rgb, **settings)

    with monkeypatch.context() as patch:
        patch.setattr(cascade, "restore", stop)
        assert run("in", "--output", "out") == 130
    assert {name: entry["status"] for name, entry in manifest().items()} == {
        "a.png": "done",
        "b.png": "done",
        "c.png": "pending",
        "d.png": "pending",
    }
    assert run("in", "--output", "out", "--resume") == 0
    assert len(cascade.calls) == 4
    assert {entry["status"] for entry in manifest().values()} == {"done"}


def test_results_below_the_input_are_not_taken_up(folder, cascade):
    flat(folder / "a.png", "red")
    for _ in range(2):
        assert run("in", "--output", "in/out") == 0
    assert [call["size"] for call in cascade.calls] == [(8, 12)] * 2


def test_machines_share_a_folder_by_shards(folder, cascade):
    """Each part is somebody's, in one output folder, and a part that is started again finds its own finished."""
    for name in "abcde":
        flat(folder / f"{name}.png", "red")
    for shard, count in (("2/3", 2), ("1/3", 2), ("3/3", 1)):
        before = len(cascade.calls)
        assert run("in", "--output", "out", "--shard", shard) == 0
        assert len(cascade.calls) == before + count
    assert outputs() == [f"{name}.png" for name in "abcde"]
    assert {entry["status"] for entry in manifest().values()} == {"done"}
    assert run("in", "--output", "out", "--shard", "2/3", "--resume") == 0
    assert len(cascade.calls) == 5


@pytest.mark.parametrize(
    "numbers",
    [
        {"SLURM_PROCID": "1", "SLURM_NTASKS": "3"},
        {"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "3"},
        {"RANK": "1", "WORLD_SIZE": "3"},
        {"TPU_WORKER_ID": "1", "TPU_WORKER_HOSTNAMES": "a,b,c"},
    ],
)
def test_a_cluster_numbers_the_parts(folder, cascade, monkeypatch, numbers):
    for name in "abcde":
        flat(folder / f"{name}.png", "red")
    for name, value in numbers.items():
        monkeypatch.setenv(name, value)
    assert run("in", "--output", "out", "--shard", "cluster") == 0
    assert outputs() == ["b.png", "e.png"]


def test_no_cluster_has_no_parts(folder, cascade, monkeypatch, capsys):
    monkeypatch.setenv("SLURM_PROCID", "3")
    monkeypatch.setenv("SLURM_NTASKS", "3")  # numbers start at 0
    with pytest.raises(SystemExit):
        run("in", "--output", "out", "--shard", "cluster")
    assert "no cluster has numbered the processes, expected I/N" in capsys.readouterr().err


def test_a_shard_without_a_picture_says_so(folder, cascade, capsys):
    flat(folder / "a.png", "red")
    assert run("in", "--output", "out", "--shard", "2/3") == 0
    assert capsys.readouterr() == (
        "--shard 2/3 takes none of the pictures (1 found): there are fewer pictures than parts\n",
        "",
    )
    for wrong in ("tiny/../tiny", "tyni"):
        assert run("in", "--output", "out", "--shard", "2/3", "--config", wrong) == 2
        assert f"sample.py: {wrong}: not found, expected an embedded cascade (tiny), a " in capsys.readouterr().err
    assert not Path("out").exists()


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_the_manifest_knows_the_bytes_that_were_decoded(folder, cascade, capsys, monkeypatch, name):
    """The file is replaced while it is checked, and again while it is restored."""
    path, later, contents = folder / name, ["green", "blue"], []
    decoded = io.decoded

    def replaced_meanwhile(data, path, frame):
        contents.append(data)
        flat(path, later.pop(0))
        return decoded(data, path, frame)

    monkeypatch.setattr(io, "decoded", replaced_meanwhile)
    flat(path, "red")
    assert run("in", "--output", "out") == 0
    assert color_of("out/a.png") == COLORS["green"]
    assert manifest()["a.png"]["sha256"] == hashlib.sha256(contents[1]).hexdigest()
    assert capsys.readouterr().err == (
        f"sample.py: warning: in/{name}: has changed since it was checked; its new content is restored\n"
    )


@pytest.mark.parametrize("shard", ["0/3", "4/3", "2", "a/b", "1/0", "-1/2"])
def test_a_shard_that_is_none_is_refused(folder, cascade, capsys, shard):
    flat(folder / "a.png", "red")
    with pytest.raises(SystemExit) as ended:
        run("in", "--output", "out", f"--shard={shard}")
    assert ended.value.code == 2
    assert f"found {shard!r}, expected I/N with I from 1 to N" in capsys.readouterr().err


def test_one_name_in_two_working_folders_replaces_nothing(folder, cascade, monkeypatch, capsys):
    for name, color in (("one", "red"), ("two", "blue")):
        flat(folder / name / "photo.png", color)
        monkeypatch.chdir(folder / name)
        assert run("photo.png", "--output", folder / "out") == (0 if name == "one" else 2)
    assert color_of(folder / "out" / "photo.png") == COLORS["red"]
    assert "holds the result of" in capsys.readouterr().err


def test_an_edited_photograph_is_known_by_any_of_its_names(folder, cascade):
    flat(folder / "a.png", "red")
    assert run("in/a.png", "--output", "out") == 0
    flat(folder / "a.png", "blue")
    assert run(folder / "a.png", "--output", "out") == 0
    assert color_of("out/a.png") == COLORS["blue"]


def test_one_refused_picture_stops_no_other(folder, cascade):
    flat(folder / "a.jpg", "red")
    assert run("in", "--output", "out") == 0
    (folder / "a.jpg").unlink()
    flat(folder / "a.png", "blue")
    flat(folder / "b.png", "green")
    assert run("in", "--output", "out") == 2
    assert outputs() == ["a.png", "b.png"]
    assert close(color_of("out/a.png"), COLORS["red"])


@pytest.mark.parametrize("left", [0, 40])
def test_resume_redoes_a_damaged_result_and_other_weights(folder, cascade, left):
    flat(folder / "a.png", "red")
    assert run("in", "--output", "out") == 0
    whole = Path("out/a.png").read_bytes()
    Path("out/a.png").write_bytes(whole[:left])
    assert run("in", "--output", "out", "--resume") == 0
    assert Path("out/a.png").read_bytes() == whole
    assert run("in", "--output", "out", "--resume") == 0
    assert len(cascade.calls) == 2
    cascade.weights = "others"
    assert run("in", "--output", "out", "--resume") == 0
    assert len(cascade.calls) == 3
