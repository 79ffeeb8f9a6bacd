"""Every first stage by itself, and from its training to the picture: trained, prepared, exported, sampled."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

import cassr_jax
from cassr_jax import first_stage as package
from cassr_jax.cascade import CasSR
from cassr_jax.commands import references
from cassr_jax.config import CascadeConfig, SamplingConfig
from cassr_jax.config_files import to_json
from cassr_jax.data.config import DataConfig
from cassr_jax.data.prepared import PreparedSource
from cassr_jax.diffusion.schedule import Schedule
from cassr_jax.errors import InputError
from cassr_jax.first_stage import NAMES, all_first_stages, first_stage
from cassr_jax.imaging import resizing
from cassr_jax.imaging.pixels import to_uint8
from cassr_jax.models.rrdbnet import RRDBNetConfig
from cassr_jax.networks import Networks, merge_all, write_network
from cassr_jax.sampling import key_of_fresh
from cassr_jax.seeds import seed_key
from cassr_jax.training.loop import train
from cassr_jax.training.references import Recipe, make_maker
from cassr_jax.training.stages import STAGES
from tests.random_cascade import NETWORKS, random_params
from tests.training.runs import SIDE, configure, write_pictures

RRDBNET = RRDBNetConfig(num_feat=4, num_block=1, num_grow_ch=2)


def test_the_folder_holds_the_stages_that_are_named():
    files = {path.stem for path in Path(package.__file__).parent.glob("*.py")} - {"__init__", "interface"}
    assert files == set(NAMES)
    assert [stage.name for stage in all_first_stages()] == list(NAMES)


def test_an_unknown_name_is_refused_with_the_ones_that_are_known():
    with pytest.raises(InputError, match="activation is 'magic', expected one of scedit, controlnet, rrdbnet, iden"):
        first_stage("magic")


def test_what_trains_is_a_stage_of_training():
    for stage in all_first_stages():
        assert (stage.name in STAGES) == bool(stage.trains) == stage.diffuses
        assert set(stage.trains) <= set(stage.networks)
        if stage.trains:
            assert STAGES[stage.name].trains == stage.trains


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures, and every network that is read."""
    path = tmp_path_factory.mktemp("first_stages")
    write_pictures(path / "pictures", 3)
    for kind in NETWORKS:
        write_network(path / kind, kind, NETWORKS[kind], random_params(kind))
    write_rrdbnet(path / "rrdbnet.safetensors")
    return path


def write_rrdbnet(file: Path) -> None:
    """A small RRDBNet as basicsr publishes it."""
    networks = Networks().with_new("rrdbnet", RRDBNET, "float32", jax.random.key(0))
    state = {}
    for name, value in networks.params.items():
        array = np.asarray(value) + (0.5 if name == "rrdbnet.conv_last.bias" else 0)
        kernel = name.endswith("kernel")
        state[name.removeprefix("rrdbnet.").replace("kernel", "weight")] = np.ascontiguousarray(
            array.transpose(3, 2, 0, 1) if kernel else array
        )
    save_file(state, file)


@pytest.mark.parametrize("name", ["scedit", *(pytest.param(name, marks=pytest.mark.slow) for name in NAMES[1:])])
def test_from_training_to_the_picture(folder: Path, tmp_path: Path, name: str):
    stage = first_stage(name)
    data = DataConfig(str(folder / "pictures"), crop_size=SIDE, preset="light", prefetch=2)
    made = {kind: str(folder / ("rrdbnet.safetensors" if kind == "rrdbnet" else kind)) for kind in stage.networks}
    if stage.trains:
        exported = train(configure(name, folder, data, num_steps=1, save_every=1), tmp_path / "first")
        made = {kind: str(exported / kind) for kind in stage.trains}

    config = configure("cassr", folder, data, activation=name)
    config = json.dumps(to_json(config) | {"components": {**config.components, **made}})
    (tmp_path / "config.py").write_text(
        "from cassr_jax.config import TrainConfig\nfrom cassr_jax.config_files import from_json\nimport json\n"
        f"config = from_json(TrainConfig, json.loads({config!r}), 'config')\n"
    )
    pairs = ["--config", str(tmp_path / "config.py"), "--records", "2", "--output", str(tmp_path / "pairs")]
    sampled = ("--steps", "1") if stage.diffuses else ()
    assert references.main([*pairs, *sampled, "--color-fix", "adain"]) == 0
    records = list(PreparedSource(tmp_path / "pairs"))

    components = json.loads(config)["components"]
    second = configure("cassr", folder, tmp_path / "pairs", activation=name, components=components, num_steps=1)
    exported = train(second, tmp_path / "second")
    cassr = cassr_jax.load(tmp_path / "second")
    assert cassr.config.activation == cassr.first_stage.name == name
    assert set(cassr.networks.configs) == {"vae", "unet", "text_encoder", "controlnet", "multiple_attention"} | set(
        made
    )
    restoration = cassr.restore(records[0]["lr"], steps=1, guidance_scale=1.0, color_fix="adain")
    assert restoration.result.shape == restoration.reference.shape == (SIDE, SIDE, 3)
    assert restoration.result.std() > 1
    if name == "identity":
        np.testing.assert_array_equal(restoration.bicubic, resizing.bicubic(records[0]["lr"], (SIDE, SIDE)))


@pytest.mark.parametrize("color_fix", ["none", "adain"])
def test_training_pairs_and_the_cascade_make_the_same_reference(folder: Path, color_fix: str):
    """One order for both: the network, its range, the colour fix, 8 bit."""
    stage, kinds = first_stage("rrdbnet"), ("vae", "unet", "text_encoder")
    networks = Networks().with_read("rrdbnet", str(folder / "rrdbnet.safetensors"), "float32")
    lr = np.random.default_rng(0).integers(0, 256, (16, 16, 3)).astype(np.uint8)
    lq = resizing.bicubic(lr, (64, 64))
    make = make_maker(networks, configure("cassr", folder), Recipe(stage, SamplingConfig(), color_fix, latents=False))
    made = make(
        merge_all(networks.graphdefs, networks.params), {"lr": jnp.asarray(lr[None]), "lq": jnp.asarray(lq[None])}
    )
    for kind in kinds:
        networks = networks.with_read(kind, str(folder / kind), "float32")
    sampling = SamplingConfig(guidance_scale=1.0)  # the text encoder has learned no negative prompt
    config = CascadeConfig(activation="rrdbnet", schedule=Schedule(), sampling=sampling, tile=64)
    difference = CasSR(config, networks).reference(lr, color_fix=color_fix).astype(int) - to_uint8(made["reference"])[0]
    assert np.abs(difference).max() <= 1  # one rounding


@pytest.mark.parametrize("sampler", ["ddim", "lcm"])
def test_pairs_are_sampled_as_the_cascade_samples(folder: Path, sampler: str):
    """Prompt and negative prompt, guidance, start and all noise, as in the cascade, in one tile."""
    sampling = SamplingConfig(
        sampler=sampler, num_steps=2, guidance_scale=3.0, start="lq", strength=0.3, negative_prompt=""
    )
    networks = Networks()
    for kind in ("vae", "unet", "text_encoder", "scedit"):
        networks = networks.with_read(kind, str(folder / kind), "float32")
    lr = np.random.default_rng(0).integers(0, 256, (16, 16, 3)).astype(np.uint8)
    recipe = Recipe(first_stage("scedit"), sampling, "none", latents=False)
    make = make_maker(networks, configure("cassr", folder, schedule=Schedule()), recipe)
    key = jax.random.fold_in(seed_key(5), 0)
    batch = {
        "lr": jnp.asarray(lr[None]),
        "lq": jnp.asarray(resizing.bicubic(lr, (64, 64))[None]),
        "noise": jax.random.normal(key, (1, 16, 16, 4)),
        "keys": key_of_fresh(key)[None],
    }
    made = jax.jit(lambda params: make(merge_all(networks.graphdefs, params), batch))(networks.params)
    cassr = CasSR(
        CascadeConfig(activation="scedit", tile=64, schedule=Schedule(), activation_sampling=sampling), networks
    )
    difference = cassr.reference(lr, seed=5, color_fix="none").astype(int) - to_uint8(np.asarray(made["reference"]))[0]
    assert np.abs(difference).max() <= 1  # one rounding
    assert made["reference"].std() > 0.02


def test_a_second_stage_says_which_references_it_learns_from(folder: Path, tmp_path: Path):
    with pytest.raises(InputError, match="activation is None, expected one of scedit, controlnet, rrdbnet, identity"):
        train(configure("cassr", folder, folder / "pictures", activation=None), tmp_path)
    with pytest.raises(InputError, match="activation controlnet needs activation_controlnet, expected among"):
        train(configure("cassr", folder, folder / "pictures", activation="controlnet"), tmp_path)
