"""Folders exchanged with the programs whose formats they are: torch diffusers, transformers, and diffusers' Flax."""

import warnings
from dataclasses import asdict

import jax
import numpy as np
import pytest

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

import transformers  # noqa: E402

from cassr_jax.models.clip_text import CLIPTextConfig  # noqa: E402
from cassr_jax.models.parameters import abstract, merge  # noqa: E402
from cassr_jax.models.unet import UNetConfig  # noqa: E402
from cassr_jax.models.vae import AutoencoderKL, VAEConfig  # noqa: E402
from cassr_jax.networks import write_network  # noqa: E402
from cassr_jax.weights.configs import AttachedConfig  # noqa: E402
from tests import narrow, references  # noqa: E402
from tests.weights.published import (  # noqa: E402
    UNET,
    VAE,
    assert_same,
    config_folder,
    half,
    load_weights,
    old_attention,
    random_component,
    save,
    save_flax,
    torch_state,
)

pytestmark = pytest.mark.reference

STEM = "diffusion_pytorch_model"
TEXT = CLIPTextConfig(vocab_size=20, hidden_size=8, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2)


def test_torch_diffusers_loads_what_is_written_and_gives_the_same(tmp_path):
    name = "shallowest_plain"
    config = narrow.UNETS[name]
    for kind, own, seed in (("unet", config, 0), ("controlnet", AttachedConfig(config, narrow.CONTROLNET), 1)):
        write_network(tmp_path / kind, kind, own, random_component(kind, own, seed))
    unet = diffusers.UNet2DConditionModel.from_pretrained(tmp_path / "unet", low_cpu_mem_usage=False)
    controlnet = diffusers.ControlNetModel.from_pretrained(tmp_path / "controlnet", low_cpu_mem_usage=False)
    given = narrow.inputs(config.cross_attention_dim)
    expected = references.diffusion_outputs(unet.eval(), controlnet.eval(), given)
    errors = narrow.errors(narrow.run_diffusion(name), expected)
    assert max(errors.values()) <= 1e-5, errors


def test_torch_diffusers_loads_the_autoencoder(tmp_path):
    name = "without_attention"
    write_network(tmp_path, "vae", narrow.VAES[name], random_component("vae", narrow.VAES[name]))
    vae = diffusers.AutoencoderKL.from_pretrained(tmp_path, low_cpu_mem_usage=False)
    errors = narrow.errors(narrow.run_vae(name), references.vae_outputs(vae.eval(), narrow.inputs()))
    assert max(errors.values()) <= 1e-5, errors
    assert vae.config.scaling_factor == narrow.VAES[name].scaling_factor


def test_transformers_loads_the_text_encoder(tmp_path):
    params = random_component("text_encoder", TEXT)
    write_network(tmp_path, "text_encoder", TEXT, params)
    model = transformers.CLIPTextModel.from_pretrained(tmp_path)
    assert_same({name: value.numpy() for name, value in model.state_dict().items()}, torch_state(params))
    assert model.config.num_attention_heads == 2
    assert model.config.hidden_act == "quick_gelu"
    model.save_pretrained(tmp_path / "theirs")
    config, read = load_weights(tmp_path / "theirs", "text_encoder")
    assert config == TEXT
    assert_same(read, params)


@pytest.mark.parametrize(
    "options",
    [{}, {"max_shard_size": "20KB"}, {"safe_serialization": False}, {"variant": "fp16"},
     {"variant": "fp16", "max_shard_size": "20KB"}],
    ids=lambda options: "-".join(options) or "plain",
)  # fmt: skip
def test_what_diffusers_saves_is_read(tmp_path, options):
    model = references.randomise(references.unet(UNET))
    params = random_component("unet", UNET)
    if "variant" in options:
        model, params = model.half(), half(params)
    model.save_pretrained(tmp_path, **options)
    assert ("max_shard_size" in options) == bool(list(tmp_path.glob("*.index*.json")))
    config, read = load_weights(tmp_path, "unet")
    assert config == UNET
    assert_same(read, params)


def test_one_latent_decoded_with_every_naming(tmp_path):
    params = random_component("vae", VAE)
    latents = np.random.default_rng(0).normal(size=(1, 6, 4, 4)).astype(np.float32)
    graphdef, _ = abstract(lambda rngs: AutoencoderKL(VAE, rngs=rngs))
    decode = jax.jit(lambda params, latents: merge(graphdef, params).decode(latents))

    theirs = references.give_weights(references.vae(VAE), torch_state(params))
    with torch.no_grad():
        expected = references.nhwc(theirs.decode(references.nchw(latents) / VAE.scaling_factor).sample)
    folders = [config_folder(tmp_path / name, "vae", VAE) for name in ("new", "old", "flax")]
    save(folders[0] / f"{STEM}.safetensors", torch_state(params))
    save(folders[1] / f"{STEM}.safetensors", old_attention(torch_state(params)))
    save_flax(folders[2] / "diffusion_flax_model.msgpack", old_attention(params))
    for folder in folders:
        assert narrow.relative_l2(decode(load_weights(folder, "vae")[1], latents), expected) <= 1e-5


FLAX_UNET = UNetConfig(
    down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
    up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    block_out_channels=(32, 64),
    cross_attention_dim=6,
)
FLAX_VAE = VAEConfig(block_out_channels=(32, 64))


def flax_model(kind):
    unet = asdict(FLAX_UNET)
    del unet["norm_num_groups"]  # always 32 there
    if kind == "unet":
        return diffusers.FlaxUNet2DConditionModel(**unet)
    if kind == "controlnet":
        del unet["out_channels"], unet["up_block_types"]
        return diffusers.FlaxControlNetModel(**unet)
    levels = len(FLAX_VAE.block_out_channels)
    fields = asdict(FLAX_VAE) | {
        "down_block_types": ("DownEncoderBlock2D",) * levels,
        "up_block_types": ("UpDecoderBlock2D",) * levels,
    }
    del fields["mid_block_add_attention"]
    return diffusers.FlaxAutoencoderKL(**fields)


def random_tree(shapes):
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda shape: rng.normal(size=shape.shape).astype(np.float32), shapes)


@pytest.mark.parametrize("kind", ["unet", "controlnet", "vae"])
def test_what_diffusers_flax_classes_save_is_read(tmp_path, kind):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # these classes are deprecated, and warn of what JAX has deprecated since
        model = flax_model(kind)
        tree = random_tree(jax.eval_shape(model.init_weights, jax.random.key(0)))
        model.save_pretrained(tmp_path, tree)
    assert (tmp_path / "diffusion_flax_model.msgpack").is_file()
    config, read = load_weights(tmp_path, kind)
    assert (config.unet if kind == "controlnet" else config) == (FLAX_VAE if kind == "vae" else FLAX_UNET)
    flat = {"/".join(part.key for part in path): value for path, value in jax.tree.leaves_with_path(tree)}
    assert len(flat) == len(read)
    if kind == "vae":
        np.testing.assert_array_equal(
            read["decoder.mid_block.attentions.0.to_v.kernel"], flat["decoder/mid_block/attentions_0/value/kernel"]
        )
    else:
        inner = "transformer_blocks_0/attn2/to_out_0/kernel"
        np.testing.assert_array_equal(
            read["mid_block.attentions.0.transformer_blocks.0.attn2.to_out.0.kernel"],
            flat[f"mid_block/attentions_0/{inner}"],
        )
        np.testing.assert_array_equal(
            read["down_blocks.0.attentions.1.proj_in.kernel"], flat["down_blocks_0/attentions_1/proj_in/kernel"][0, 0]
        )


def test_what_transformers_flax_saves_is_read(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = transformers.FlaxCLIPTextModel(
            transformers.CLIPTextConfig(**asdict(TEXT)), input_shape=(1, 7), _do_init=False
        )
        tree = random_tree(jax.eval_shape(lambda key: model.init_weights(key, (1, 7)), jax.random.key(0)))
        model.save_pretrained(tmp_path, params=tree)
    config, read = load_weights(tmp_path, "text_encoder")
    assert config == TEXT
    layer = tree["text_model"]["encoder"]["layers"]["1"]
    np.testing.assert_array_equal(
        read["text_model.encoder.layers.1.self_attn.q_proj.kernel"], layer["self_attn"]["q_proj"]["kernel"]
    )
    assert len(jax.tree.leaves(tree)) == len(read)
