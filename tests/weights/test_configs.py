"""config.json: what diffusers writes is read, what would be another network is refused."""

import json
from dataclasses import asdict, replace

import pytest

from benchmarks.published_configs import configs
from cassr_jax.errors import InputError
from cassr_jax.kinds import CONFIGS, KINDS
from cassr_jax.models.clip_text import CLIPTextConfig, LearnedContextConfig
from cassr_jax.models.controlnet import ControlNetConfig
from cassr_jax.models.fusion import FusionConfig
from cassr_jax.models.pixel_attention import PixelAttentionConfig
from cassr_jax.models.rrdbnet import RRDBNetConfig
from cassr_jax.models.scedit import SCEditConfig
from cassr_jax.models.unet import UNetConfig
from cassr_jax.models.vae import VAEConfig
from cassr_jax.weights.configs import UNET, VAE, AttachedConfig

# As they stand in the published repository of Stable Diffusion 1.5.
SD15 = {kind: config for kind, config in configs().items() if kind in ("unet", "vae", "text_encoder")}
CONTROLNET = {
    **{k: v for k, v in SD15["unet"].items() if k not in ("out_channels", "up_block_types", "center_input_sample")},
    "_class_name": "ControlNetModel",
    "class_embed_type": None,
    "conditioning_embedding_out_channels": [16, 32, 96, 256],
    "controlnet_conditioning_channel_order": "rgb",
    "global_pool_conditions": False,
    "only_cross_attention": False,
    "projection_class_embeddings_input_dim": None,
    "resnet_time_scale_shift": "default",
    "upcast_attention": False,
    "use_linear_projection": False,
}


@pytest.mark.parametrize(
    ("kind", "data", "expected"),
    [
        ("unet", SD15["unet"], UNetConfig()),
        ("vae", SD15["vae"], VAEConfig()),
        ("text_encoder", SD15["text_encoder"], CLIPTextConfig()),
        ("controlnet", CONTROLNET, AttachedConfig(UNetConfig(), ControlNetConfig())),
    ],
)
def test_published_configs_are_the_defaults(kind, data, expected):
    assert KINDS[kind].files.config.read_fields(data, "config.json") == expected
    written = KINDS[kind].files.config.write(expected)
    # Every published field that matters is written, with the same value.
    ignored = {"_diffusers_version", "sample_size", "upcast_attention"}
    assert {k: v for k, v in data.items() if k in written and k not in ignored} == {
        k: v for k, v in written.items() if k in data and k not in ignored
    }
    assert KINDS[kind].files.config.read_fields(json.loads(json.dumps(written)), "config.json") == expected


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("act_fn", "gelu"),
        ("addition_embed_type", "text_time"),
        ("attention_head_dim", [5, 10, 20, 20]),
        ("attention_type", "gated"),
        ("class_embed_type", "timestep"),
        ("conv_in_kernel", 1),
        ("cross_attention_dim", [768, 1024, 768, 768]),
        ("dual_cross_attention", True),
        ("encoder_hid_dim_type", "text_proj"),
        ("flip_sin_to_cos", False),
        ("freq_shift", 1),
        ("layers_per_block", [1, 2, 2, 2]),
        ("mid_block_type", "UNetMidBlock2D"),
        ("norm_eps", 1e-6),
        ("num_attention_heads", 4),
        ("num_class_embeds", 10),
        ("only_cross_attention", [True, False, False, False]),
        ("resnet_time_scale_shift", "scale_shift"),
        ("time_cond_proj_dim", 256),
        ("time_embedding_type", "fourier"),
        ("transformer_layers_per_block", [1, 2, 10, 10]),
        ("use_linear_projection", True),
        ("block_out_channels", [320, "640"]),
        ("block_out_channels", []),
        ("in_channels", 0),
        ("in_channels", True),
        ("norm_num_groups", None),
    ],
)
def test_other_networks_are_refused_by_field(field, value):
    with pytest.raises(InputError, match=rf"config\.json: {field} is "):
        UNET.read_fields(SD15["unet"] | {field: value}, "config.json")


def test_lists_that_say_the_same_for_every_block():
    data = SD15["unet"] | {"attention_head_dim": [8] * 4, "transformer_layers_per_block": [1] * 4}
    data |= {"only_cross_attention": [False] * 4, "cross_attention_dim": [768] * 4}
    assert UNET.read_fields(data, "config.json") == UNetConfig()


@pytest.mark.parametrize(
    ("kind", "data", "message"),
    [
        (
            "unet",
            {k: v for k, v in SD15["unet"].items() if k != "cross_attention_dim"},
            "cross_attention_dim is missing",
        ),
        ("unet", SD15["unet"] | {"down_block_types": ["DownBlock2D"] * 3}, "expected 4, one for each width"),
        ("unet", SD15["unet"] | {"up_block_types": ["AttnUpBlock2D"] * 4}, "block types hold"),
        ("unet", SD15["vae"], "describes AutoencoderKL, expected UNet2DConditionModel"),
        ("vae", SD15["vae"] | {"shift_factor": 0.1159}, "shift_factor is 0.1159"),
        ("vae", SD15["vae"] | {"use_quant_conv": False}, "use_quant_conv is False"),
        ("vae", SD15["vae"] | {"scaling_factor": -1.0}, "scaling_factor is -1.0"),
        ("vae", SD15["vae"] | {"down_block_types": ["AttnDownEncoderBlock2D"] * 4}, "down_block_types is"),
        ("text_encoder", SD15["text_encoder"] | {"hidden_act": "relu"}, "hidden_act is 'relu'"),
        ("controlnet", CONTROLNET | {"controlnet_conditioning_channel_order": "bgr"}, "channel_order is 'bgr'"),
        ("controlnet", CONTROLNET | {"global_pool_conditions": True}, "global_pool_conditions is True"),
    ],
)
def test_refusals_say_why(kind, data, message):
    with pytest.raises(InputError, match=message):
        KINDS[kind].files.config.read_fields(data, "config.json")


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        ("unet", {"norm_num_groups": 7}, "norm_num_groups is 7, expected a divisor of 320 and 640 and 1280"),
        ("unet", {"norm_num_groups": 640}, "norm_num_groups is 640, expected a divisor of 320"),
        ("unet", {"attention_head_dim": 7}, "attention_head_dim, the number of heads, is 7, expected a divisor of 320"),
        ("unet", {"block_out_channels": [33, 66, 66, 66], "norm_num_groups": 33}, "block_out_channels begin with 33"),
        ("unet", {"layers_per_block": 2**30}, "layers_per_block is 1073741824, expected 1 to 1000"),
        ("controlnet", {"norm_num_groups": 7}, "norm_num_groups is 7, expected a divisor of 320"),
        ("vae", {"norm_num_groups": 24}, "norm_num_groups is 24, expected a divisor of 128 and 256 and 512"),
        ("vae", {"scaling_factor": 1e-300}, "scaling_factor is 1e-300, expected a number of 0.001 to 1000"),
        ("vae", {"scaling_factor": float("inf")}, "scaling_factor is inf, expected a value like 0.18215"),
        ("vae", {"scaling_factor": float("nan")}, "scaling_factor is nan, expected a value like 0.18215"),
        ("vae", {"scaling_factor": 0}, "scaling_factor is 0, expected a value like 0.18215"),
        ("vae", {"down_block_types": 4}, "down_block_types is 4, expected"),
        ("vae", {"up_block_types": None}, "up_block_types is None, expected"),
        ("vae", {"layers_per_block": 2**30}, "layers_per_block is 1073741824, expected 1 to 1000"),
        ("text_encoder", {"num_attention_heads": 7}, "num_attention_heads is 7, expected a divisor of 768"),
        ("text_encoder", {"num_hidden_layers": 2**30}, "num_hidden_layers is 1073741824, expected 1 to 1000"),
        ("text_encoder", {"layer_norm_eps": float("inf")}, "layer_norm_eps is inf, expected a value like"),
    ],
)
def test_numbers_that_make_no_network_are_refused_with_the_file(kind, changes, message):
    data = SD15.get(kind, CONTROLNET) | changes
    with pytest.raises(InputError, match=rf"^a/config\.json: {message}"):
        KINDS[kind].files.config.read_fields(data, "a/config.json")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: UNetConfig(norm_num_groups=0), "norm_num_groups is 0, expected 1 to 1048576"),
        (lambda: UNetConfig(attention_head_dim=0), "attention_head_dim is 0, expected 1 to 1048576"),
        (lambda: VAEConfig(scaling_factor=0.0), "scaling_factor is 0.0, expected a number of"),
        (lambda: VAEConfig(scaling_factor=float("nan")), "scaling_factor is nan, expected a number of"),
        (lambda: CLIPTextConfig(num_attention_heads=0), "num_attention_heads is 0, expected 1 to 1048576"),
        (lambda: LearnedContextConfig(num_contexts=1), "num_contexts is 1, expected at least 2"),
        (lambda: FusionConfig(num_blocks=0), "num_blocks is 0, expected 1 to 1000"),
        (lambda: SCEditConfig(ratio=float("inf")), "ratio is inf, expected a number above 0 and at most 64"),
        (lambda: RRDBNetConfig(scale=3), "scale is 3, expected 1, 2 or 4"),
    ],
)
def test_a_new_network_is_checked_too(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("cls", [cls for cls in CONFIGS.values() if cls not in (AttachedConfig, PixelAttentionConfig)])
def test_every_number_of_a_network_is_the_size_of_something(cls):
    sound, wrong = cls(), {}
    for name, value in asdict(sound).items():
        if isinstance(value, tuple):
            wrong[name] = [()] + [(number, *value[1:]) for number in (-8, 0, 2**40) if isinstance(value[0], int)]
        elif type(value) is int:
            wrong[name] = [-8, 0, 2**40]
    assert wrong
    for name, value in ((name, value) for name, values in wrong.items() for value in values):
        with pytest.raises(ValueError, match=r"is .*, expected|but \d block types"):
            replace(sound, **{name: value})


def test_an_unknown_activation_is_refused_where_it_is_named():
    with pytest.raises(ValueError, match=r"hidden_act is 'relu', expected one of \['gelu', 'quick_gelu'\]"):
        CLIPTextConfig(hidden_act="relu")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "not JSON"),
        (b"[1]", "holds list"),
        (b"\xff\xfe\x00", "not JSON"),
        (b"[" * 100_000, "nested too deep"),
        (None, "cannot be read"),
    ],
    ids=["cut", "list", "text", "deep", "absent"],
)
def test_files_that_are_no_config(tmp_path, content, message):
    path = tmp_path / "config.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        UNET.read(path)


def test_scaling_factor_of_another_autoencoder():
    config = VAE.read_fields(SD15["vae"] | {"scaling_factor": 0.13025}, "config.json")
    assert config == VAEConfig(scaling_factor=0.13025)
