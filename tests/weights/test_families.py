"""Other families of diffusion models are refused in one sentence that says what they are, as folders and as files."""

import json
import re

import numpy as np
import pytest

from cassr_jax.errors import InputError
from cassr_jax.kinds import KINDS
from tests.weights.published import UNET, VAE, assert_same, load_weights, original, random_component, save, torch_state
from tests.weights.test_configs import CONTROLNET as CONTROLNET_JSON
from tests.weights.test_configs import SD15

XL = {"addition_embed_type": "text_time", "cross_attention_dim": 2048, "block_out_channels": [320, 640, 1280]}
SD2 = {"cross_attention_dim": 1024, "attention_head_dim": [5, 10, 20, 20], "use_linear_projection": True}


@pytest.mark.parametrize(
    ("kind", "data", "family"),
    [
        ("unet", SD15["unet"] | {"in_channels": 9}, "for inpainting"),
        ("unet", SD15["unet"] | {"in_channels": 8}, "InstructPix2Pix"),
        ("unet", SD15["unet"] | {"in_channels": 7}, "four-fold upscaler"),
        ("unet", SD15["unet"] | {"in_channels": 5}, "from depth"),
        ("unet", SD15["unet"] | SD2, "Stable Diffusion 2"),
        ("unet", SD15["unet"] | SD2 | {"in_channels": 9}, "for inpainting"),
        ("unet", SD15["unet"] | XL, "Stable Diffusion XL"),
        ("unet", SD15["unet"] | XL | {"cross_attention_dim": 1280}, "Stable Diffusion XL"),
        ("unet", {"_class_name": "SD3Transformer2DModel"}, "Stable Diffusion 3"),
        ("unet", {"_class_name": "FluxTransformer2DModel"}, "Flux"),
        ("unet", {"_class_name": "UNetMotionModel"}, "AnimateDiff"),
        ("unet", {"_class_name": "UNetSpatioTemporalConditionModel"}, "Stable Video Diffusion"),
        ("controlnet", CONTROLNET_JSON | XL, "Stable Diffusion XL"),
        ("controlnet", CONTROLNET_JSON | SD2, "Stable Diffusion 2"),
        ("controlnet", {"_class_name": "FluxControlNetModel"}, "Flux"),
        ("text_encoder", SD15["text_encoder"] | {"hidden_size": 1024, "num_hidden_layers": 23}, "Stable Diffusion 2"),
        ("text_encoder", SD15["text_encoder"] | {"hidden_size": 1280, "num_hidden_layers": 32}, "Stable Diffusion XL"),
        ("text_encoder", {"architectures": ["T5EncoderModel"]}, "Stable Diffusion 3 or Flux"),
        ("vae", SD15["vae"] | {"latent_channels": 16, "shift_factor": 0.0609}, "Stable Diffusion 3 or Flux"),
    ],
)
def test_a_folder_of_another_family_is_one_sentence(tmp_path, kind, data, family):
    (tmp_path / "config.json").write_text(json.dumps(data))
    save(tmp_path / KINDS[kind].files.file, {"a": np.zeros(1, np.float32)})
    with pytest.raises(InputError, match=rf"config\.json: is .*{family}.*; expected .*Stable Diffusion 1\.5") as error:
        KINDS[kind].open(tmp_path)
    assert "\n" not in str(error.value)


def test_a_width_alone_makes_no_other_family():
    """Whoever trains from scratch is free to choose."""
    own = SD15["unet"] | {"cross_attention_dim": 1024, "block_out_channels": [64, 128, 128, 128]}
    assert KINDS["unet"].files.config.read_fields(own, "config.json").cross_attention_dim == 1024


ORIGINAL = "model.diffusion_model.input_blocks."
TEXT = "cond_stage_model.transformer.text_model."
HINT = "control_model.input_hint_block.0.weight"


@pytest.mark.parametrize(
    ("kind", "shapes", "family"),
    [
        ("unet", {f"{ORIGINAL}0.0.weight": (320, 9, 3, 3)}, "for inpainting"),
        ("unet", {f"{ORIGINAL}0.0.weight": (320, 8, 3, 3)}, "InstructPix2Pix"),
        ("unet", {"conv_in.weight": (320, 9, 3, 3), "up_blocks.0.x": (1,)}, "for inpainting"),
        ("unet", {f"{ORIGINAL}1.1.transformer_blocks.0.attn2.to_k.weight": (320, 1024)}, "Stable Diffusion 2"),
        ("unet", {"model_ema.diffusion_modelinput_blocks00weight": (320, 9, 3, 3)}, "for inpainting"),
        ("unet", {"model.diffusion_model.label_emb.0.0.weight": (1280, 2816)}, "Stable Diffusion XL"),
        ("unet", {"add_embedding.linear_1.weight": (1280, 2816)}, "Stable Diffusion XL"),
        ("unet", {"model.diffusion_model.joint_blocks.0.x_block.attn.qkv.weight": (4608, 1536)}, "Stable Diffusion 3"),
        ("unet", {"model.diffusion_model.double_blocks.0.img_attn.qkv.weight": (9216, 3072)}, "Flux"),
        ("unet", {"double_blocks.0.img_attn.qkv.weight": (9216, 3072)}, "Flux"),
        ("controlnet", {HINT: (16, 3, 3, 3), "control_model.label_emb.0.0.weight": (1280, 2816)}, "Diffusion XL"),
        (
            "controlnet",
            {HINT: (16, 3, 3, 3), "control_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight": (320, 1024)},
            "Stable Diffusion 2",
        ),
        ("text_encoder", {"cond_stage_model.model.ln_final.weight": (1024,)}, "Stable Diffusion 2"),
        ("text_encoder", {"conditioner.embedders.0.transformer.text_model.x": (1,)}, "Stable Diffusion XL"),
        ("text_encoder", {"text_encoders.clip_l.transformer.text_model.x": (1,)}, "Stable Diffusion 3 or Flux"),
        ("text_encoder", {f"{TEXT}embeddings.token_embedding.weight": (49408, 1024)}, "Stable Diffusion 2"),
        ("text_encoder", {"text_model.embeddings.token_embedding.weight": (49408, 1280)}, "Stable Diffusion XL"),
        ("vae", {"first_stage_model.decoder.conv_in.weight": (512, 16, 3, 3)}, "Stable Diffusion 3 or Flux"),
        ("vae", {"decoder.conv_in.weight": (512, 16, 3, 3)}, "Stable Diffusion 3 or Flux"),
    ],
)
def test_a_file_of_another_family_is_one_sentence(tmp_path, kind, shapes, family):
    tensors = {name: np.broadcast_to(np.zeros((), np.float16), shape) for name, shape in shapes.items()}
    path = save(tmp_path / "model.safetensors", tensors)
    with pytest.raises(InputError, match=rf"model\.safetensors: is .*{family}.*; expected .*1\.5") as error:
        KINDS[kind].open(path)
    assert "\n" not in str(error.value)


def test_what_an_inpainting_file_shares_with_stable_diffusion_is_read(tmp_path):
    """Its autoencoder and its text encoder are Stable Diffusion 1.5's own."""
    params = random_component("vae", VAE)
    state = original("vae", torch_state(params), "first_stage_model.")
    state |= {f"{ORIGINAL}0.0.weight": np.zeros((8, 9, 3, 3), np.float32), f"{TEXT}x": np.zeros(1)}
    assert_same(load_weights(save(tmp_path / "inpaint.safetensors", state), "vae", config=VAE)[1], params)


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("StableDiffusion3Pipeline", "Stable Diffusion 3"),
        ("FluxPipeline", "Flux"),
        ("PixArtAlphaPipeline", "PixArtAlphaPipeline"),
    ],
)
def test_a_pipeline_without_a_unet_says_what_it_is(tmp_path, name, family):
    (tmp_path / "transformer").mkdir()
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": name}))
    with pytest.raises(InputError, match=rf"^{re.escape(str(tmp_path))}: is .*{family}.*; expected .*1\.5"):
        KINDS["unet"].open(tmp_path)


def test_a_network_of_the_family_is_not_taken_for_another(tmp_path):
    state = torch_state(random_component("unet", UNET))
    path = save(tmp_path / "unet.safetensors", original("unet", state, "model.diffusion_model."))
    assert load_weights(path, "unet", config=UNET)[0] == UNET
