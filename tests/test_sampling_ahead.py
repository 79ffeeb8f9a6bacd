"""The sampling of a cascade, planned for devices that are not here."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from cassr_jax.config import SamplingConfig, TrainConfig
from cassr_jax.data.config import DataConfig
from cassr_jax.engine.waves import PLACES
from cassr_jax.errors import InputError
from cassr_jax.loading import read_cascade
from cassr_jax.networks import shapes_of
from cassr_jax.sampling_ahead import plan_sampling
from cassr_jax.sharding.page import page
from cassr_jax.sharding.report import table
from cassr_jax.sharding.sampled import Part, SamplePlan
from cassr_jax.sharding.topologies import topology_devices
from cassr_jax.training.flops import step_work
from tests.random_cascade import NETWORKS, TILE, write_random_cascade

STEPS = 4
# Guided in half of the steps, with the ControlNet's features kept for two.
SAMPLING = SamplingConfig(
    num_steps=STEPS, guidance_scale=2.0, guidance_to=0.5, control_every=2, negative_prompt=""
)  # fmt: skip
NEEDED = ("vae", "unet", "text_encoder", "controlnet", "multiple_attention")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return write_random_cascade(tmp_path_factory.mktemp("cascade"), activation="identity", sampling=SAMPLING)


@pytest.fixture(scope="module")
def plan(folder: Path) -> SamplePlan:
    config, base = read_cascade(folder)
    return plan_sampling(config, "narrow", base, "cpu:2", "quick")


@pytest.fixture(scope="module")
def parts(plan: SamplePlan) -> dict[str, Part]:
    assert {part.stage for part in plan.parts} == {"result"}
    return {part.name: part for part in plan.parts}


def test_programs_are_called_as_the_engine_calls_them(plan, parts):
    """A CPU takes one tile in a call, and four calls' pictures are in hand on each device."""
    assert (plan.hosts, plan.account.devices, plan.pictures) == (1, 2, 8)
    assert {name: part.calls for name, part in parts.items()} == {
        "embed the images": 4,
        "encode": 4,
        "collect what was encoded": 4,
        "add noise": 1,
        "all steps": 1,
        "pick latents": 4,
        "decode": 4,
    }


def test_products_are_those_of_the_networks(plan, parts):
    """On each of the two devices four tiles take four steps: two guided ones, and two in which the ControlNet runs."""
    by_hand = step_work(TrainConfig("cassr", DataConfig("unused", crop_size=TILE)), NETWORKS, latents=False)
    assert parts["encode"].account.flops == pytest.approx(by_hand["autoencoder, encoder"].forward)
    control = by_hand["ControlNet, both images"].forward - parts["embed the images"].account.flops
    unet = sum(by_hand[name].forward for name in ("U-Net, encoder and middle", "U-Net, decoder", "multiple attention"))
    calls_of_unet, calls_of_control = 2 * 2 + 2, 2 * (0.5 * 2 + 0.5 * 1)
    expected = 4 * (calls_of_unet * unet + calls_of_control * control)
    assert parts["all steps"].account.flops == pytest.approx(expected, rel=0.02)
    assert plan.account.flops == sum(part.calls * part.account.flops for part in plan.parts)
    assert all(row.known for row in plan.account.traffic)


def test_memory_is_what_a_device_holds(plan, parts):
    shapes = [x for kind in NEEDED for x in shapes_of(kind, NETWORKS[kind]).values()]
    assert {part.account.held["parameters"] for part in plan.parts} == {sum(4 * x.size for x in shapes)}
    latents = 4 * PLACES * (TILE // 4) ** 2 * 4  # of all places of a wave, float32
    images = 2 * TILE**2 * 3
    collected = parts["embed the images"].account.held["tiles"] - images
    assert collected > latents
    assert parts["encode"].account.held["tiles"] == collected + images // 2
    assert parts["all steps"].account.held["tiles"] > collected + latents  # the latents and the prediction
    assert latents < parts["decode"].account.held["tiles"] < 2 * latents
    assert plan.account.total == max(part.account.total for part in plan.parts)
    assert plan.account.total == sum(plan.account.held.values()) + plan.account.temporary


def test_the_table_the_page_and_the_file_have_every_program(plan):
    text, drawn = table([plan]), page([plan], "plan")
    assert all(part.title in text and part.title in drawn for part in plan.parts)
    assert "8 of 64 px" in text
    assert SamplePlan.from_json(json.loads(json.dumps(plan.as_json()))) == plan


def test_a_cascade_without_a_network_is_refused(folder):
    config, base = read_cascade(folder)
    lacking = replace(config, components={kind: kind for kind in config.components if kind != "controlnet"})
    with pytest.raises(InputError, match="narrow: names no controlnet among its components"):
        plan_sampling(lacking, "narrow", base, "cpu:2", "quick")


@pytest.mark.parametrize("on", ["v5e:2x4", "h200:8"])
def test_narrow_sampling_compiles_for(on: str, folder):
    try:
        devices = topology_devices(on)
    except InputError as error:
        pytest.skip(str(error))
    config, base = read_cascade(folder)
    plan = plan_sampling(config, "narrow", base, on, "quick")
    assert plan.hosts * plan.account.devices == len(devices)
    assert plan.pictures == PLACES * plan.account.devices
    assert plan.account.fits
    assert all(row.known and row.axes == ("tiles",) for row in plan.account.traffic)
    assert {row.kind for row in plan.account.traffic} == {"all-gather"}
    assert plan.pictures_per_second is not None
    assert plan.pictures_per_second > 0
    assert plan.utilisation is not None
    assert 0 < plan.utilisation < 1
