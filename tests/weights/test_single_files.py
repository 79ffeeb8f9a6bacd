"""Single files: several networks in one, averages beside the weights, and keys that mark what the tensors are."""

import logging

import ml_dtypes
import numpy as np
import pytest

from cassr_jax.errors import InputError
from cassr_jax.models.clip_text import CLIPTextConfig
from cassr_jax.networks import shapes_of
from cassr_jax.weights.original import ema_name, unet_names
from tests.weights.published import (
    CONTROLNET,
    UNET,
    VAE,
    assert_same,
    load_weights,
    original,
    random_component,
    save,
    torch_state,
)

TEXT = CLIPTextConfig(vocab_size=20, hidden_size=8, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2)


class TestMovingAverages:
    """An original file may hold two U-Nets."""

    shapes = shapes_of("unet", UNET)

    def file(self, folder, *, plain=True, ema=True):
        ones = torch_state({name: np.ones(shape.shape, np.float32) for name, shape in self.shapes.items()})
        names = unet_names(ones)
        state = {}
        for theirs, value in ones.items():
            if plain:
                state[f"model.diffusion_model.{names[theirs]}"] = value
            if ema:
                state[f"model_ema.{ema_name(names[theirs])}"] = 2 * value
        if ema:
            state |= {"model_ema.decay": np.float32(0.9999).reshape(()), "model_ema.num_updates": np.array(7)}
        return save(folder / "model.safetensors", state)

    @pytest.mark.parametrize(
        ("sets", "mean", "said"),
        [
            ({}, 1, "it holds two U-Nets; the plain weights are taken"),
            ({"ema": False}, 1, ""),
            ({"plain": False}, 2, ""),
        ],
    )
    def test_the_plain_weights_are_taken_or_else_their_averages(self, tmp_path, caplog, sets, mean, said):
        with caplog.at_level(logging.WARNING):
            _, params = load_weights(self.file(tmp_path, **sets), "unet", config=UNET)
        assert len(params) == len(self.shapes)
        assert all(np.all(value == mean) for value in params.values())
        assert said in caplog.text
        assert bool(said) == bool(caplog.text)

    def test_averaged_names_as_published(self):
        assert ema_name("input_blocks.1.0.in_layers.0.weight") == "diffusion_modelinput_blocks10in_layers0weight"


class TestMarks:
    """A key without a parameter may say that the tensors are something else than their names say."""

    controlnet = torch_state(random_component("controlnet", CONTROLNET))
    unet = torch_state(random_component("unet", UNET))

    @pytest.mark.parametrize("mark", ["difference", "control_model.difference", "lora_controlnet"])
    @pytest.mark.parametrize("value", [np.zeros((), np.int64), np.zeros((0,), np.float32)], ids=["int", "float"])
    def test_a_difference_is_no_controlnet(self, tmp_path, mark, value):
        file = save(tmp_path / "control.safetensors", original("controlnet", self.controlnet, "control_model."))
        load_weights(file, "controlnet", config=CONTROLNET)
        save(file, original("controlnet", self.controlnet, "control_model.") | {mark: value})
        with pytest.raises(
            InputError, match=r"control.safetensors: its key '\w+' marks .* difference from its Stable D"
        ):
            load_weights(file, "controlnet", config=CONTROLNET)

    @pytest.mark.parametrize("mark", ["edm_mean", "edm_vpred.sigma_max", "model.diffusion_model.scaled_fp8"])
    def test_a_unet_of_another_noise_or_to_be_scaled_is_refused(self, tmp_path, mark):
        state = original("unet", self.unet, "model.diffusion_model.") | {mark: np.zeros((0,), np.float16)}
        with pytest.raises(InputError, match=r"its key '[\w.]+' marks (a U-Net on EDM's noise|weights in 8 bit)"):
            load_weights(save(tmp_path / "unet.safetensors", state), "unet", config=UNET)

    def test_what_marks_another_network_is_not_looked_at(self, tmp_path):
        marks = {"difference": np.zeros(()), "text_encoders.scaled_fp8": np.zeros((0,), np.float16)}
        state = original("unet", self.unet, "model.diffusion_model.") | marks
        load_weights(save(tmp_path / "unet.safetensors", state), "unet", config=UNET)


class TestSingleFile:
    vae = random_component("vae", VAE)
    unet = random_component("unet", UNET, seed=1)
    text = random_component("text_encoder", TEXT, seed=2)

    def state(self):
        state = original("unet", torch_state(self.unet), "model.diffusion_model.")
        vae = original("vae", torch_state(self.vae), "first_stage_model.")
        # The original has the attention as 1x1 convolutions.
        state |= {n: v[:, :, None, None] if ".attn_1." in n and v.ndim == 2 else v for n, v in vae.items()}
        state |= {f"cond_stage_model.transformer.{name}": value for name, value in torch_state(self.text).items()}
        positions = np.arange(TEXT.max_position_embeddings)[None]
        state["cond_stage_model.transformer.text_model.embeddings.position_ids"] = positions
        state["alphas_cumprod"] = np.linspace(1, 0, 1000, dtype=np.float32)
        return state

    def test_all_three_networks(self, tmp_path, caplog):
        path = save(tmp_path / "v1-5.safetensors", self.state())
        for kind, config, params in (
            ("unet", UNET, self.unet),
            ("vae", VAE, self.vae),
            ("text_encoder", TEXT, self.text),
        ):
            assert_same(load_weights(path, kind, config=config)[1], params)
        assert not caplog.text

    def test_missing_autoencoder_is_refused(self, tmp_path):
        state = {name: v for name, v in self.state().items() if not name.startswith("first_stage_model.")}
        path = save(tmp_path / "no_vae.safetensors", state)
        with pytest.raises(InputError, match=r"no autoencoder \(no `first_stage_model\.\*`\).*give another one"):
            load_weights(path, "vae", config=VAE)

    def test_missing_decoder_is_listed(self, tmp_path):
        state = self.state()
        gone = [name for name in state if name.startswith("first_stage_model.decoder.")]
        path = save(tmp_path / "half_vae.safetensors", {name: v for name, v in state.items() if name not in gone})
        with pytest.raises(InputError, match="give another one") as error:
            load_weights(path, "vae", config=VAE)
        assert all(f"missing     {name}" in str(error.value) for name in gone)

    def test_missing_text_encoder_is_refused(self, tmp_path):
        state = {name: v for name, v in self.state().items() if not name.startswith("cond_stage_model.")}
        with pytest.raises(InputError, match="no text encoder"):
            load_weights(save(tmp_path / "a.safetensors", state), "text_encoder", config=TEXT)

    def test_bare_autoencoder_states_its_scaling_factor(self, tmp_path, caplog):
        path = save(tmp_path / "vae.safetensors", original("vae", torch_state(self.vae), ""))
        with pytest.raises(InputError, match=r"Stable Diffusion 1\.5"):
            load_weights(path, "vae")
        assert "scaling_factor of 0.18215 is assumed" in caplog.text
        assert_same(load_weights(path, "vae", config=VAE)[1], self.vae)

    def test_autoencoder_of_another_family_needs_a_config(self, tmp_path):
        state = original("vae", torch_state(self.vae), "first_stage_model.")
        state["conditioner.embedders.0.weight"] = np.zeros(1, np.float32)
        with pytest.raises(InputError, match=r"Stable Diffusion XL's .* its scaling_factor is not 0\.18215"):
            load_weights(save(tmp_path / "xl.safetensors", state), "vae")


class TestFineTunes:
    """What programs leave in the files of fine-tuned Stable Diffusion, besides its weights."""

    def test_averages_and_the_loss_of_an_autoencoder(self, tmp_path):
        params = random_component("vae", VAE)
        state = original("vae", torch_state(params), "")
        extras = {
            "model_ema.decay": np.float32(0.9).reshape(()),
            "model_ema.encoderconv_inweight": np.ones((8, 3, 3, 3)),
        }
        extras |= {"loss.logvar": np.zeros(()), "loss.discriminator.main.0.weight": np.ones((64, 3, 4, 4))}
        path = save(tmp_path / "vae.safetensors", state | extras)
        assert_same(load_weights(path, "vae", config=VAE)[1], params)

    @pytest.mark.parametrize("dtype", [np.int64, np.float16, np.float32], ids=["int64", "float16", "float32"])
    def test_positions_that_a_program_has_cast(self, tmp_path, dtype):
        params = random_component("text_encoder", TEXT)
        state = {f"cond_stage_model.transformer.{name}": value for name, value in torch_state(params).items()}
        extras = {"cond_stage_model.transformer.text_model.embeddings.position_ids": np.arange(77, dtype=dtype)[None]}
        extras |= {"cond_stage_model.logit_scale": np.ones((), np.float32), "embedding_manager.x": np.ones(3)}
        path = save(tmp_path / "merged.safetensors", state | extras)
        assert_same(load_weights(path, "text_encoder", config=TEXT)[1], params)

    @pytest.mark.parametrize("name", ["float8_e4m3fn", "float8_e5m2"])
    def test_a_pruned_file_in_8_bit_without_scales(self, tmp_path, name):
        params = {n: v.astype(getattr(ml_dtypes, name)) for n, v in random_component("unet", UNET).items()}
        state = original("unet", torch_state(params), "model.diffusion_model.")
        assert_same(load_weights(save(tmp_path / "fp8.safetensors", state), "unet", config=UNET)[1], params)


def test_what_is_not_wanted_does_not_decide(tmp_path):
    """A counter beside the U-Net, and a text encoder in 8 bit."""
    params, text = random_component("unet", UNET), random_component("text_encoder", TEXT)
    state = original("unet", torch_state(params), "model.diffusion_model.")
    state |= {"model.diffusion_model.steps": np.array(7, np.uint64)}
    eighth = {name: value.astype(ml_dtypes.float8_e4m3fn) for name, value in torch_state(text).items()}
    state |= {f"cond_stage_model.transformer.{name}": value for name, value in eighth.items()}
    path = save(tmp_path / "model.safetensors", state)
    assert_same(load_weights(path, "unet", config=UNET)[1], params)
    read = load_weights(path, "text_encoder", config=TEXT, dtype="float32")[1]
    assert_same(torch_state(read), {name: value.astype(np.float32) for name, value in eighth.items()})
