"""Networks that do not fit each other are refused when they are loaded, in one sentence that names both."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import cassr_jax
from cassr_jax.errors import InputError
from cassr_jax.fitting import check_fitting
from cassr_jax.models.controlnet import ControlNetConfig
from cassr_jax.models.guided_decoder import GuidedDecoderConfig
from cassr_jax.models.scedit import SCEditConfig
from cassr_jax.models.taesd import TAESDConfig
from cassr_jax.networks import shapes_of, write_network
from cassr_jax.training.setup import build
from cassr_jax.weights.configs import AttachedConfig
from tests.random_cascade import HINT, NETWORKS, UNET, write_random_cascade
from tests.training.runs import configure

SOURCES = {kind: f"models/{kind}" for kind in NETWORKS}
CONTROL = ControlNetConfig(conditioning_embedding_out_channels=HINT)
WIDE = replace(UNET, block_out_channels=(16, 16))
DEEP = replace(UNET, layers_per_block=2)
OTHER_CONTEXT = replace(UNET, cross_attention_dim=12)
OTHER_LATENTS = replace(UNET, in_channels=9)
OTHER_BLOCKS = replace(UNET, up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"))
UNFIT: list[tuple[str, Any, str, str]] = [
    (
        "text_encoder",
        replace(NETWORKS["text_encoder"], hidden_size=12),
        "unet",
        "cross_attention_dim 8.*hidden_size 12",
    ),
    ("unet", OTHER_LATENTS, "vae", "in_channels 9.*latent_channels 4"),
    ("unet", replace(UNET, out_channels=8), "vae", "out_channels 8.*latent_channels 4"),
    ("vae", replace(NETWORKS["vae"], latent_channels=16), "unet", "in_channels 4.*latent_channels 16"),
    ("controlnet", AttachedConfig(OTHER_CONTEXT, CONTROL), "unet", "cross_attention_dim 12.*cross_attention_dim 8"),
    ("controlnet", AttachedConfig(WIDE, CONTROL), "unet", r"channels \(16, 16\).*channels \(8, 16\)"),
    ("controlnet", AttachedConfig(OTHER_LATENTS, CONTROL), "unet", "in_channels 9.*in_channels 4"),
    ("controlnet", AttachedConfig(UNET, ControlNetConfig()), "vae", "downsampling factor 8.*factor 4"),
    ("activation_controlnet", AttachedConfig(DEEP, CONTROL), "unet", "layers_per_block 2.*layers_per_block 1"),
    ("scedit", AttachedConfig(WIDE, SCEditConfig(HINT)), "unet", r"channels \(16, 16\).*channels \(8, 16\)"),
    ("scedit", AttachedConfig(UNET, SCEditConfig(HINT[1:])), "vae", "downsampling factor 2.*factor 4"),
    ("multiple_attention", WIDE, "unet", r"channels \(16, 16\).*channels \(8, 16\)"),
    ("multiple_attention", OTHER_BLOCKS, "unet", "up_block_types.*up_block_types"),
    ("fusion", replace(NETWORKS["fusion"], block_out_channels=(8, 8, 32)), "vae", r"\(8, 8, 32\).*\(8, 8, 16\)"),
    ("fusion", GuidedDecoderConfig(8, factor=4), "vae", "latent_channels 8.*latent_channels 4"),
    ("fusion", GuidedDecoderConfig(4, factor=8), "vae", "factor 8.*factor 4"),
    ("taesd", TAESDConfig(), "vae", "factor 8.*factor 4"),
    ("taesd", replace(NETWORKS["taesd"], latent_channels=16), "vae", "latent_channels 16.*latent_channels 4"),
]


def test_the_narrow_cascade_fits():
    check_fitting(NETWORKS, SOURCES)
    for kind in NETWORKS:  # whatever is missing
        check_fitting({name: config for name, config in NETWORKS.items() if name != kind}, SOURCES)


@pytest.mark.parametrize(
    ("kind", "config", "other", "values"), UNFIT, ids=[f"{u[0]}-{u[2]}-{u[3][:12]}" for u in UNFIT]
)
def test_networks_that_do_not_fit_are_both_named(kind, config, other, values):
    with pytest.raises(InputError, match=values) as caught:
        check_fitting(NETWORKS | {kind: config}, SOURCES)
    message = str(caught.value)
    assert f"the {kind} (models/{kind}) has" in message
    assert f"the {other} (models/{other}) has" in message
    assert "\n" not in message
    with pytest.raises(InputError, match=rf"the {kind} \(new\) has"):
        check_fitting(NETWORKS | {kind: config}, {})


def test_a_network_of_any_kind_is_compared_with_the_unet_that_it_is_attached_to():
    with pytest.raises(InputError, match=r"the poses \(new\) has block_out_channels \(16, 16\), but the unet"):
        check_fitting(NETWORKS | {"poses": AttachedConfig(WIDE, SCEditConfig(HINT))}, SOURCES)


@pytest.mark.parametrize(
    ("kind", "config", "found"),
    [
        ("controlnet", AttachedConfig(UNET, replace(CONTROL, conditioning_channels=1)), "conditioning_channels 1"),
        ("vae", replace(NETWORKS["vae"], in_channels=4), "in_channels 4"),
    ],
)
def test_networks_of_other_pictures_are_refused(kind, config, found):
    with pytest.raises(
        InputError, match=re.escape(f"the {kind} (models/{kind}) has {found}, expected 3: pictures are")
    ):
        check_fitting(NETWORKS | {kind: config}, SOURCES)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cascade whose ControlNet is another U-Net's."""
    path, other = write_random_cascade(tmp_path_factory.mktemp("cascade")), AttachedConfig(OTHER_CONTEXT, CONTROL)
    shapes = shapes_of("controlnet", other)
    write_network(path / "controlnet", "controlnet", other, {n: np.zeros(s.shape, "f4") for n, s in shapes.items()})
    return path


MESSAGE = r"the controlnet \(.*controlnet\) has cross_attention_dim 12, but the unet \(.*unet\) has .* 8"


def test_sampling_refuses_when_it_loads(folder):
    with pytest.raises(InputError, match=MESSAGE):
        cassr_jax.load(folder)


def test_training_refuses_when_it_loads(folder):
    with pytest.raises(InputError, match=MESSAGE):
        build(configure("cassr", folder))


def test_a_new_controlnet_of_another_unet_is_refused_before_it_copies(folder, monkeypatch):
    monkeypatch.setattr(jax.random, "fold_in", lambda *_: pytest.fail("a network was drawn"))
    new = {"activation_controlnet": AttachedConfig(WIDE, CONTROL)}
    with pytest.raises(InputError, match=r"the activation_controlnet \(new\) has block_out_channels \(16, 16\), but"):
        build(
            configure(
                "controlnet",
                folder,
                new=new,
                components={k: str(folder / k) for k in NETWORKS if k in ("vae", "unet", "text_encoder")},
            )
        )
