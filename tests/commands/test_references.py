"""`python -m cassr_jax.commands.references`: pairs with latents and references, made once, goes on where it stopped."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from cassr_jax.commands import references as command
from cassr_jax.config import SamplingConfig
from cassr_jax.config_files import read_config
from cassr_jax.data.config import DataConfig
from cassr_jax.data.pipeline import batches
from cassr_jax.data.prepared import PreparedSource, count_records, write_records
from cassr_jax.first_stage import first_stage
from cassr_jax.imaging.grey import as_grey_as
from cassr_jax.imaging.pixels import to_uint8
from cassr_jax.locks import claimed
from cassr_jax.models.parameters import merge, select
from cassr_jax.networks import Networks, write_network
from cassr_jax.sampling import Fresh, fresh_noise
from cassr_jax.seeds import seed_key
from cassr_jax.training import references
from tests.data.measures import picture
from tests.random_cascade import NETWORKS, random_params
from tests.training.runs import origins

SIDE, BATCH, SEED = 32, 2, 3
CONFIG = """
from dataclasses import replace

from cassr_jax.config import TrainConfig
from cassr_jax.data.config import DataConfig

config = TrainConfig(
    stage="cassr",
    data=DataConfig({pictures!r}, crop_size=32, preset="light", prefetch=2),
    components={components!r},
    activation="scedit",
    batch_size=2,
    seed=3,
)
"""
KINDS = ("vae", "unet", "text_encoder", "scedit")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("references")
    for seed in range(3):
        (path / "pictures").mkdir(exist_ok=True)
        Image.fromarray(picture(48, seed)).save(path / "pictures" / f"{seed}.png")
    for kind in KINDS:
        write_network(path / kind, kind, NETWORKS[kind], random_params(kind))
    components = {kind: str(path / kind) for kind in KINDS}
    (path / "config.py").write_text(CONFIG.format(pictures=str(path / "pictures"), components=components))
    return path


@pytest.fixture(autouse=True)
def small_files(monkeypatch):
    monkeypatch.setattr(references, "RECORDS_PER_FILE", 4)


def make(folder: Path, output: Path, records: int = 5, *more: str) -> int:
    where = ["--config", str(folder / "config.py"), "--output", str(output)]
    sampled = () if "activation=null" in more else ("--steps", "2")
    return command.main([*where, "--records", str(records), *sampled, *more])


@pytest.fixture(scope="module")
def made(folder):
    """Five records: batches of two, in files of four."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(references, "RECORDS_PER_FILE", 4)
        assert make(folder, folder / "pairs") == 0
    return folder / "pairs"


def test_records_are_the_streams_pictures_with_latents_and_references(folder, made):
    files = ["00000.array_record", "00001.array_record", "made_with.json"]
    assert sorted(file.name for file in made.iterdir()) == files
    source = PreparedSource(made)
    assert len(source) == 5
    data = DataConfig(str(folder / "pictures"), crop_size=SIDE, preset="light", prefetch=2)
    vae = Networks().with_read("vae", str(folder / "vae"), "float32")
    encoder = merge(vae.graphdefs["vae"], select(vae.params, "vae"))
    index = 0
    for first, count in ((0, 2), (2, 1)):
        stream = batches(data, batch_size=BATCH, seed=SEED * 1_000_003 + first)
        for _ in range(count):
            batch = next(stream)
            mean, logvar = encoder.moments(jnp.asarray(batch["hr"], jnp.float32) / 127.5 - 1)
            latents, deviations = (x * encoder.config.scaling_factor for x in (mean, jnp.exp(logvar / 2)))
            for i in range(min(BATCH, len(source) - index)):
                record = source[index]
                assert set(record) == {"record", "lr", "hr", "latents", "latents_std", "reference"}
                assert record["record"] == batch["record"][i]
                for name in ("lr", "hr"):
                    np.testing.assert_array_equal(record[name], batch[name][i])
                assert record["latents"].dtype == np.float16
                np.testing.assert_allclose(record["latents"], latents[i], rtol=2e-3, atol=2e-3)
                assert record["latents_std"].dtype == np.float16
                np.testing.assert_allclose(record["latents_std"], deviations[i], rtol=2e-3)
                assert record["reference"].dtype == np.uint8
                assert record["reference"].shape == (SIDE, SIDE, 3)
                assert record["reference"].std() > 1
                index += 1
    assert index == 5
    assert len({record["reference"].tobytes() for record in source}) == 5


def test_every_batch_has_noise_of_its_own(folder, tmp_path, monkeypatch):
    """Seen through a first stage whose reference is three channels of its noise."""

    def make_maker(*_):
        return lambda modules, batch: {"reference": batch["noise"][..., :3]}

    monkeypatch.setattr(references, "make_maker", make_maker)
    assert make(folder, tmp_path) == 0
    keys = [jax.random.fold_in(seed_key(SEED), number) for number in range(3)]
    noise = jnp.concatenate([jax.random.normal(key, (BATCH, SIDE // 4, SIDE // 4, 4)) for key in keys])
    found = [record["reference"] for record in PreparedSource(tmp_path)]
    np.testing.assert_array_equal(found, to_uint8(noise[:5, ..., :3]))


@pytest.mark.parametrize("sampler", ["lcm", "ddim"])
def test_every_example_has_fresh_noise_of_its_own(folder, tmp_path, monkeypatch, sampler):
    """Seen as above; a deterministic sampler is given no keys."""

    def make_maker(*_):
        def make(modules, batch):
            if sampler == "ddim":
                assert "keys" not in batch
                return {"reference": batch["noise"][..., :3]}
            corner = jnp.zeros(len(batch["keys"]), jnp.int32)
            fresh = fresh_noise(Fresh(batch["keys"], corner, corner), jnp.int32(1), batch["noise"])
            return {"reference": fresh[..., :3]}

        return make

    monkeypatch.setattr(references, "make_maker", make_maker)
    assert make(folder, tmp_path, 5, "--sampler", sampler) == 0
    found = [record["reference"] for record in PreparedSource(tmp_path)]
    assert len({each.tobytes() for each in found}) == 5


def test_a_grey_picture_has_a_grey_reference(folder, tmp_path, monkeypatch):
    """As in the cascade, which takes the networks' tint out of it."""
    colour = picture(SIDE, seed=7).astype(np.uint8)
    grey = np.repeat(colour[..., :1], 3, axis=-1)
    pairs = [{"record": np.int32(i), "lr": hr[::4, ::4], "hr": hr} for i, hr in enumerate((grey, colour))]
    write_records(tmp_path / "pairs" / "0.array_record", pairs)
    tinted = jnp.full((BATCH, SIDE, SIDE, 3), jnp.asarray([0.2, 0.1, -0.3]))
    monkeypatch.setattr(references, "make_maker", lambda *_: lambda *_: {"reference": tinted[:1]})
    assert make(folder, tmp_path / "made", 2, "--set", f"data.path={tmp_path / 'pairs'}") == 0
    first, second = (record["reference"] for record in PreparedSource(tmp_path / "made"))
    np.testing.assert_array_equal(first, as_grey_as(grey, to_uint8(tinted[0])))
    np.testing.assert_array_equal(second, to_uint8(tinted[0]))


def test_networks_are_read_straight_to_all_devices_in_the_type_of_the_computation(folder, monkeypatch):
    put, device_put = [], jax.device_put

    def counted(value, where=None):
        put.append((jax.tree.leaves(value)[0].dtype, where))
        return device_put(value, where)

    monkeypatch.setattr(jax, "device_put", counted)
    config = read_config(folder / "config.py", ["dtype=bfloat16"])
    recipe = references.Recipe(first_stage("scedit"), SamplingConfig(), "none", latents=True)
    networks, sources = references._read(config, recipe, references.mesh_for(BATCH))
    assert len(put) == len(networks.params) > 100
    assert {dtype for dtype, _ in put} == {jnp.dtype("bfloat16")}
    assert all(len(where.device_set) == BATCH for _, where in put)
    in_files = {f"{kind}.{name}": value for kind in KINDS for name, value in random_params(kind).items()}
    assert sources == origins(config, in_files)


def test_a_batch_of_them_is_what_the_second_stage_reads(made):
    batch = next(batches(DataConfig(str(made), crop_size=SIDE, prefetch=2), batch_size=4, seed=0))
    assert {name: (value.shape, value.dtype) for name, value in batch.items()} == {
        "record": ((4,), np.int32),
        "lr": ((4, SIDE // 4, SIDE // 4, 3), np.uint8),
        "hr": ((4, SIDE, SIDE, 3), np.uint8),
        "lq": ((4, SIDE, SIDE, 3), np.uint8),
        "latents": ((4, SIDE // 4, SIDE // 4, 4), np.float16),
        "latents_std": ((4, SIDE // 4, SIDE // 4, 4), np.float16),
        "reference": ((4, SIDE, SIDE, 3), np.uint8),
    }


def test_machines_share_the_files(folder, made, tmp_path):
    for part in ("2/2", "1/2"):
        with claimed(tmp_path / ".part-1-of-3", "another machine"):
            assert make(folder, tmp_path, 5, "--shard", part) == 0
        assert len(list(tmp_path.glob("*.array_record"))) == (1 if part == "2/2" else 2)
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith(".")) == [".part-1-of-3"]
    whole, shared = PreparedSource(made), PreparedSource(tmp_path)
    assert len(whole) == len(shared) == 5
    for one, other in zip(whole, shared, strict=True):
        assert one.keys() == other.keys()
        assert all(np.array_equal(one[name], other[name]) for name in one)


def test_a_second_call_does_nothing(folder, made, monkeypatch):
    def refuse(*_):
        raise AssertionError("made again")

    monkeypatch.setattr(references, "write_records", refuse)
    assert make(folder, made) == 0
    assert make(folder, made, records=3) == 0


def test_what_was_interrupted_goes_on_and_a_short_last_file_is_filled(folder, made, tmp_path):
    """The first file was the short end of a smaller set, the second was being written when the run was killed."""
    expected = PreparedSource(made)
    (tmp_path / "00001.array_record.unfinished").write_bytes(b"half a file")
    (tmp_path / "00001.array_record").write_bytes((made / "00001.array_record").read_bytes())
    references.write_records(tmp_path / "00000.array_record", [expected[0], expected[1]])
    before = (tmp_path / "00001.array_record").stat().st_mtime_ns
    assert make(folder, tmp_path) == 0
    assert (tmp_path / "00001.array_record").stat().st_mtime_ns == before
    assert [count_records(tmp_path / f"0000{i}.array_record") for i in (0, 1)] == [4, 1]
    for found, record in zip(PreparedSource(tmp_path), expected, strict=True):
        assert found.keys() == record.keys()
        for name in record:
            np.testing.assert_array_equal(found[name], record[name])


def test_without_a_first_stage_there_are_no_references(folder, tmp_path, capsys):
    config = (folder / "config.py").read_text() + "\nconfig = replace(config, activation=None)\n"
    (tmp_path / "config.py").write_text(config)
    arguments = ["--config", str(tmp_path / "config.py"), "--records", "1", "--output", str(tmp_path / "pairs")]
    assert command.main(arguments) == 0
    assert set(PreparedSource(tmp_path / "pairs")[0]) == {"record", "lr", "hr", "latents", "latents_std"}
    assert "no first stage is chosen, so the records get no references" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "unused", "reason"),
    [
        ("--set activation=null --color-fix none", "--color-fix", "no first stage is chosen"),
        ("--set activation=null --guidance-scale 5.5", "--guidance-scale", "no first stage is chosen"),
        ("--set activation=null components.scedit=x", "components.scedit", "no first stage is chosen"),
        ("--set components.rrdbnet=x", "components.rrdbnet", "the first stage scedit does not use it"),
        ("--activation identity", "--steps", "the first stage identity does not use it"),
    ],
)
def test_what_would_only_concern_references_of_another_first_stage_is_refused(
    folder, tmp_path, capsys, given, unused, reason
):
    assert make(folder, tmp_path / "new", 5, *given.split()) == 2
    expected = f"references: {unused} is given, but {reason}; expected --activation with a first stage that uses it, "
    assert capsys.readouterr().err == f"{expected}or no {unused}\n"
    assert not (tmp_path / "new").exists()


def test_prepared_records_are_completed_in_their_order(folder, made, tmp_path):
    config = (folder / "config.py").read_text() + "\ndel config.components['vae']\n"
    config += "config = replace(config, activation=None)\n"
    (tmp_path / "config.py").write_text(config)
    arguments = ["--config", str(tmp_path / "config.py"), "--records", "5", "--output", str(tmp_path / "plain")]
    assert command.main(arguments) == 0
    plain = PreparedSource(tmp_path / "plain")
    assert set(plain[0]) == {"record", "lr", "hr"}
    assert make(folder, tmp_path / "whole", 100, "--set", f"data.path={tmp_path / 'plain'}") == 0
    for found, record, expected in zip(PreparedSource(tmp_path / "whole"), plain, PreparedSource(made), strict=True):
        assert found.keys() == expected.keys()
        for name in record:
            np.testing.assert_array_equal(found[name], record[name])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["--set", "data.preset=null"], "data.preset is None, expected one of light, realesrgan, stablesr"),
        (
            ["--set", 'components={"scedit": "SCEDIT"}'],
            "the components lack vae, unet, text_encoder, expected vae, unet, text_encoder, scedit",
        ),
        (["--set", "data.path=/nowhere"], "/nowhere: is not a folder"),
        (["--activation", "controlnet"], "lack activation_controlnet, expected vae, unet, text_encoder, activation_c"),
        (["--set", "seed=9223372036854775808"], "seed is 9223372036854775808, expected a whole number"),
        (["--set", "seed=-1"], "seed is -1, expected a whole number of at least 0"),
        (["--set", "data.path=", 'data.mixture={"PAIRS": 1, "/nowhere": 1}'], "are completed one set at a time"),
        (
            ["--set", "data.path=PAIRS", "--output", "PAIRS"],
            ": is data.path, ",
        ),
    ],
)
def test_what_is_missing_is_named(folder, made, tmp_path, capsys, changes, message):
    changes = [change.replace("SCEDIT", str(folder / "scedit")).replace("PAIRS", str(made)) for change in changes]
    assert make(folder, tmp_path / "new", 2, *changes) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("references: ")
    assert message in error
    assert not list(tmp_path.glob("new/*.array_record"))


def test_records_that_would_become_part_of_the_pictures_are_refused(folder, capsys):
    """Else the same command does not go on, as its records change the data, and training reads nothing but them."""
    pictures = folder / "pictures"
    assert make(folder, pictures / "pairs") == 2
    expected = f"references: {pictures / 'pairs'}: lies within data.path, {pictures}, expected a folder outside it: "
    assert capsys.readouterr().err.startswith(expected)
    assert make(folder, folder) == 2
    expected = (
        f"references: {pictures}: lies within --output, {folder}, expected a folder outside it: a folder of records "
    )
    assert capsys.readouterr().err == f"{expected}may hold no other data\n"
    assert not (pictures / "pairs").exists()


def test_a_damaged_file_is_named_and_not_passed_over(folder, tmp_path, capsys):
    (tmp_path / "00000.array_record").write_bytes(b"damaged")
    assert make(folder, tmp_path) == 2
    assert "00000.array_record: not a complete ArrayRecord file" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["--set", "data.preset=realesrgan"], "made with data.preset 'light', this run has 'realesrgan'; expected the"),
        (["--set", "seed=4"], "made with seed 3, this run has 4; expected the same"),
        (["--guidance-scale", "2"], "made with sampling.guidance_scale 1.0, this run has 2.0"),
        (["--color-fix", "none"], "made with color_fix 'wavelet'"),
        (["--no-latents"], "made with latents True, this run has False; expected the same, or another --output"),
    ],
)
def test_records_of_other_settings_are_not_gone_on_with(folder, made, capsys, changes, message):
    before = {file.name: file.read_bytes() for file in made.iterdir()}
    assert make(folder, made, 9, *changes) == 2
    assert message in capsys.readouterr().err
    assert {file.name: file.read_bytes() for file in made.iterdir()} == before
    assert make(folder, made, 5, "--set", "data.num_threads=1", "data.prefetch=1") == 0


def test_other_weights_and_pictures_under_the_same_paths_are_refused(folder, made, tmp_path, capsys):
    own = shutil.copytree(folder, tmp_path / "own", ignore=shutil.ignore_patterns("pairs"))
    config = (folder / "config.py").read_text()
    (own / "config.py").write_text(config.replace(str(folder), str(own)))
    settings = json.loads((made / "made_with.json").read_text())
    settings["data"]["path"] = str(own / "pictures")
    del settings["data"]["held_out"]  # as an older version wrote them, which had no such field
    shutil.copytree(made, own / "pairs")
    (own / "pairs" / "made_with.json").write_text(json.dumps(settings))
    assert make(own, own / "pairs") == 0  # the same weights and pictures elsewhere
    write_network(own / "scedit", "scedit", NETWORKS["scedit"], random_params("scedit", trained=False))
    assert make(own, own / "pairs", 9) == 2
    assert "made with networks.scedit.sha256 '" in capsys.readouterr().err
    shutil.copytree(folder / "scedit", own / "scedit", dirs_exist_ok=True)
    (own / "pictures" / "0.png").unlink()
    assert make(own, own / "pairs", 9) == 2
    assert "made with data.contents '" in capsys.readouterr().err


def test_records_without_pairs_are_refused_by_name(folder, made, tmp_path, capsys):
    records = ({name: record[name] for name in ("record", "lr", "reference")} for record in PreparedSource(made))
    references.write_records(tmp_path / "halves" / "0.array_record", records)
    assert make(folder, tmp_path / "new", 5, "--set", f"data.path={tmp_path / 'halves'}") == 2
    assert "the records hold lr, record, reference and no hr, expected record, lr, hr" in capsys.readouterr().err


def test_latents_are_left_out_where_training_makes_them(folder, tmp_path):
    change = f'components={{"vae": "{folder / "vae"}"}}'
    assert make(folder, tmp_path, 1, "--no-latents", "--set", change, "activation=null") == 0
    (record,) = PreparedSource(tmp_path)
    assert set(record) == {"record", "lr", "hr"}


@pytest.mark.parametrize("kinds", [("vae",), pytest.param(KINDS, marks=pytest.mark.slow)])
def test_the_work_is_divided_among_the_devices(folder, tmp_path, monkeypatch, capsys, kinds):
    """Four devices do a quarter each of the work, and make the records that one makes."""
    flops = {}
    over = references.over

    def counted(mesh, *rest):
        function = over(mesh, *rest)

        def call(*arguments):
            program = function.lower(*arguments).compile()
            flops[mesh.size] = program.cost_analysis()["flops"]
            return program(*arguments)

        return call

    monkeypatch.setattr(references, "over", counted)
    components = json.dumps({kind: str(folder / kind) for kind in kinds})
    activation = "scedit" if "scedit" in kinds else "null"
    change = ("--set", "batch_size=4", f"components={components}", f"activation={activation}")
    assert make(folder, tmp_path / "four", 4, *change) == 0
    assert "batch_size 4 uses 4 of 8 devices" in capsys.readouterr().err
    monkeypatch.setattr(jax, "local_devices", lambda: jax.devices()[:1])
    assert make(folder, tmp_path / "one", 4, *change) == 0
    assert flops[4] <= 1.05 * flops[1] / 4
    for found, expected in zip(PreparedSource(tmp_path / "four"), PreparedSource(tmp_path / "one"), strict=True):
        for name in ("record", "lr", "hr"):
            np.testing.assert_array_equal(found[name], expected[name])
        np.testing.assert_allclose(found["latents"], expected["latents"], rtol=2e-3, atol=2e-3)
        if "scedit" in kinds:  # rounding to 8 bit may turn the last bit of a float into one grey level
            assert np.abs(found["reference"].astype(int) - expected["reference"]).max() <= 1


def test_the_module_is_a_program(tmp_path):
    command = [sys.executable, "-m", "cassr_jax.commands.references", "--config", str(tmp_path / "none.py")]
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [*command, "--records", "1", "--output", str(tmp_path)],
        cwd=root,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 2
    assert done.stderr.strip().endswith("none.py: no such file, expected a Python file that defines `config`")
    assert "Traceback" not in done.stderr
