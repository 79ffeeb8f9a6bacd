"""Every kind of network goes to a folder and comes back the same."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cassr_jax import kinds
from cassr_jax.errors import InputError
from cassr_jax.kinds import KINDS, Kind
from cassr_jax.models.clip_text import CLIPTextConfig, LearnedContextConfig
from cassr_jax.models.controlnet import ControlNetConfig
from cassr_jax.models.fusion import FusionConfig
from cassr_jax.models.guided_decoder import GuidedDecoderConfig
from cassr_jax.models.parameters import select
from cassr_jax.models.scedit import SCEditConfig
from cassr_jax.models.unet import UNetConfig
from cassr_jax.models.vae import VAEConfig
from cassr_jax.networks import Networks, host, shapes_of, write_network
from cassr_jax.weights.configs import AttachedConfig
from tests.training.runs import zeros

UNET = UNetConfig(
    block_out_channels=(8, 16, 16, 16),
    cross_attention_dim=12,
    norm_num_groups=4,
    attention_head_dim=2,
    layers_per_block=1,
)
CONTROLNET = AttachedConfig(UNET, ControlNetConfig(conditioning_embedding_out_channels=(4, 4, 8, 8)))
SCEDIT = AttachedConfig(UNET, SCEditConfig(hint_channels=(4, 4, 8, 8), ratio=0.5, control_scale=0.7))
CONFIGS = [
    ("vae", VAEConfig(block_out_channels=(8, 16), norm_num_groups=4, layers_per_block=1, scaling_factor=0.13025)),
    ("unet", UNET),
    (
        "text_encoder",
        CLIPTextConfig(vocab_size=30, hidden_size=12, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2),
    ),
    ("text_encoder", LearnedContextConfig(num_contexts=2, num_tokens=3, hidden_size=12)),
    ("controlnet", CONTROLNET),
    ("activation_controlnet", CONTROLNET),
    ("scedit", SCEDIT),
    ("multiple_attention", UNET),
    ("fusion", FusionConfig((8, 16), strides=(1, 2), num_guides=2, num_blocks=1)),
    ("fusion", GuidedDecoderConfig(4, 2, num_guides=1, features=8, num_blocks=1, pixel_features=4, num_pixel_blocks=1)),
]


@pytest.mark.parametrize(("kind", "config"), CONFIGS, ids=[f"{k}-{type(c).__name__}" for k, c in CONFIGS])
@pytest.mark.parametrize("dtype", [None, jnp.bfloat16, jnp.float16])
def test_round_trip(tmp_path, kind, config, dtype):
    rng = np.random.default_rng(0)
    shapes = shapes_of(kind, config)
    params = {name: rng.normal(size=shape.shape).astype(np.float32) for name, shape in shapes.items()}
    write_network(tmp_path, kind, config, params, dtype=dtype)
    networks = Networks().with_read(kind, str(tmp_path), "float32")
    assert networks.configs == {kind: config}
    read = select(networks.params, kind)
    assert list(read) == list(params)
    for name, value in params.items():
        assert isinstance(read[name], jax.Array)
        assert read[name].dtype == (dtype or np.float32)
        np.testing.assert_array_equal(read[name], value.astype(dtype or np.float32))
    assert not list(tmp_path.glob("*.tmp"))


def test_parameters_are_placed_in_the_order_of_their_names(tmp_path):
    """So that a hash of them can be made on the way; the twelve skips here have numbers of one and of two digits."""
    config = AttachedConfig(replace(UNET, layers_per_block=2), SCEDIT.own)
    shapes = shapes_of("scedit", config)
    write_network(tmp_path, "scedit", config, {name: np.zeros(shape.shape, "f4") for name, shape in shapes.items()})
    names = []

    def place(name, array):
        names.append(name.removeprefix("scedit."))
        return jnp.asarray(array)

    networks = Networks().with_read("scedit", str(tmp_path), "float32", place=place)
    assert names == sorted(shapes) != list(shapes)
    assert list(select(networks.params, "scedit")) == list(shapes)


def test_the_host_is_no_device_where_jax_leaves_it_out(monkeypatch):
    found = host()
    assert found is not None
    assert (found.platform, found.process_index) == ("cpu", jax.process_index())

    def absent(*, backend):
        raise RuntimeError(f"Unknown backend: '{backend}' requested")

    monkeypatch.setattr(jax, "local_devices", absent)
    assert host() is None


def test_another_kind_of_network_is_one_entry(tmp_path, monkeypatch):
    adapter = Kind("adapter", KINDS["scedit"].makers, replace(KINDS["scedit"].files, folders=("adapter",)))
    monkeypatch.setattr(kinds, "KINDS", {**KINDS, "adapter": adapter})
    networks = Networks().with_new("adapter", SCEDIT, "float32", jax.random.key(0))
    write_network(tmp_path / "adapter", "adapter", SCEDIT, select(networks.params, "adapter"))
    assert Networks().with_read("adapter", str(tmp_path), "float32").configs == {"adapter": SCEDIT}
    assert Networks().with_shapes("adapter", SCEDIT, "float32").params.keys() == networks.params.keys()


@pytest.mark.parametrize(
    ("kind", "config", "message"),
    [
        ("unnet", UNET, "'unnet' is not a kind of network, expected one of vae, unet, text_encoder, "),
        ("controlnet", UNET, "controlnet: its config is of class UNetConfig, expected ControlNetConfig"),
        ("text_encoder", UNET, "text_encoder: its config is of class UNetConfig, expected CLIPTextConfig or Learned"),
    ],
)
def test_a_new_network_of_no_kind_is_named(kind, config, message):
    with pytest.raises(InputError, match=message):
        Networks().with_new(kind, config, "float32", jax.random.key(0))


def test_a_discriminator_is_never_read(tmp_path):
    with pytest.raises(InputError, match="a discriminator cannot be read from a file"):
        Networks().with_read("discriminator", str(tmp_path), "float32")


def test_a_new_controlnet_without_an_encoder_to_start_as_is_refused(monkeypatch):
    monkeypatch.setattr("cassr_jax.kinds.initialise", zeros)
    with pytest.raises(InputError, match="the new controlnet starts as a copy of a U-Net's encoder, expected a unet "):
        Networks().with_new("controlnet", CONTROLNET, "float32", jax.random.key(0))


@pytest.mark.parametrize("kind", ["controlnet", "activation_controlnet"])
def test_a_new_controlnet_starts_as_the_encoder(kind):
    networks = Networks().with_new("unet", UNET, "float32", jax.random.key(0))
    networks = networks.with_new(kind, CONTROLNET, "float32", jax.random.key(1))
    encoder, own = select(networks.params, "unet"), select(networks.params, kind)
    shared = own.keys() & encoder.keys()
    assert any(name.startswith("mid_block.") for name in shared)
    assert all(np.array_equal(own[name], encoder[name]) for name in shared)
