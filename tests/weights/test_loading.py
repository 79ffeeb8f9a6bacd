"""Checkpoints as people have them: every layout gives the same parameters, every fault a sentence that names it."""

import json
import math

import jax.numpy as jnp
import numpy as np
import pytest

from cassr_jax.errors import InputError
from cassr_jax.models.clip_text import CLIPTextConfig
from cassr_jax.models.unet import UNetConfig
from cassr_jax.models.vae import VAEConfig
from cassr_jax.networks import shapes_of, write_network
from tests.weights.published import (
    CONTROLNET,
    SCEDIT,
    UNET,
    VAE,
    assert_same,
    bfloat16,
    config_folder,
    half,
    load_weights,
    old_attention,
    original,
    random_component,
    save,
    save_flax,
    save_sharded,
    torch_state,
)

STEM = "diffusion_pytorch_model"
TEXT = CLIPTextConfig(vocab_size=20, hidden_size=8, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2)


class TestAutoencoderNames:
    """The attention's names changed over time, and Flax has its own."""

    params = random_component("vae", VAE)
    state = torch_state(params)

    def test_new_and_old_names(self, tmp_path):
        config_folder(tmp_path, "vae", VAE)
        for state in (self.state, old_attention(self.state)):
            save(tmp_path / f"{STEM}.safetensors", state)
            config, params = load_weights(tmp_path, "vae")
            assert config == VAE
            assert_same(params, self.params)

    def test_old_names_are_really_other_names(self):
        old = set(old_attention(self.state)) - set(self.state)
        assert len(old) == 16
        assert "encoder.mid_block.attentions.0.proj_attn.weight" in old

    def test_flax_names(self, tmp_path):
        config_folder(tmp_path, "vae", VAE)
        for params in (self.params, old_attention(self.params)):
            save_flax(tmp_path / "diffusion_flax_model.msgpack", params)
            assert_same(load_weights(tmp_path, "vae")[1], self.params)

    def test_mixed_names_are_refused(self, tmp_path):
        config_folder(tmp_path, "vae", VAE)
        old = old_attention(self.state)
        mixed = {n: v for n, v in old.items() if n.startswith("encoder")}
        mixed |= {n: v for n, v in self.state.items() if not n.startswith("encoder")}
        save(tmp_path / f"{STEM}.safetensors", mixed)
        with pytest.raises(InputError) as error:
            load_weights(tmp_path, "vae")
        assert "encoder.mid_block.attentions.0.query.weight" in str(error.value)
        assert "decoder.mid_block.attentions.0.to_q.weight" in str(error.value)

    def test_names_are_not_replaced_twice(self, tmp_path):
        config_folder(tmp_path, "vae", VAE)
        twice = {name.replace("to_k", "to_to_k"): value for name, value in self.state.items()}
        save(tmp_path / f"{STEM}.safetensors", twice)
        with pytest.raises(InputError, match=r"missing     encoder\.mid_block\.attentions\.0\.to_k\.weight") as error:
            load_weights(tmp_path, "vae")
        assert "unexpected  encoder.mid_block.attentions.0.to_to_k.weight" in str(error.value)

    def test_scaling_factor_is_the_folders(self, tmp_path):
        config = VAEConfig(block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4, scaling_factor=0.13025)
        write_network(tmp_path / "vae", "vae", config, self.params)
        assert load_weights(tmp_path, "vae")[0].scaling_factor == 0.13025


class TestLinks:
    """A hub's cache holds links, whose targets are named by a hash alone."""

    params = random_component("unet", UNET)

    def test_a_link_is_read_and_found_by_its_own_name(self, tmp_path):
        blob = tmp_path / "blobs" / "0f1e2d3c"
        save(blob, torch_state(self.params))
        snapshot = config_folder(tmp_path / "snapshots" / "main" / "unet", "unet", UNET)
        link = snapshot / f"{STEM}.safetensors"
        link.symlink_to(blob)
        assert_same(load_weights(snapshot, "unet")[1], self.params)
        config, params = load_weights(link, "unet")
        assert config == UNET
        assert_same(params, self.params)


class TestPrecisionsAndShards:
    params = random_component("unet", UNET)
    state = torch_state(params)

    def read(self, folder):
        return load_weights(folder, "unet")[1]

    def test_half_precision_alone(self, tmp_path):
        config_folder(tmp_path, "unet", UNET)
        save(tmp_path / f"{STEM}.fp16.safetensors", half(self.state))
        assert_same(self.read(tmp_path), half(self.params))

    def test_float32_is_preferred(self, tmp_path):
        config_folder(tmp_path, "unet", UNET)
        save(tmp_path / f"{STEM}.fp16.safetensors", half(self.state))
        save(tmp_path / f"{STEM}.safetensors", self.state)
        assert_same(self.read(tmp_path), self.params)

    def test_bfloat16(self, tmp_path):
        config_folder(tmp_path, "unet", UNET)
        save(tmp_path / f"{STEM}.safetensors", bfloat16(self.state))
        read = self.read(tmp_path)
        assert {value.dtype for value in read.values()} == {jnp.dtype(jnp.bfloat16)}
        assert_same(read, bfloat16(self.params))

    def test_cast_on_request(self, tmp_path):
        config_folder(tmp_path, "unet", UNET)
        save(tmp_path / f"{STEM}.safetensors", half(self.state))
        read = load_weights(tmp_path, "unet", dtype=jnp.float32)[1]
        assert_same(read, {name: value.astype(np.float32) for name, value in half(self.params).items()})
        assert read["conv_in.kernel"].dtype == np.float32

    def test_networks_of_different_precision(self, tmp_path):
        vae = random_component("vae", VAE)
        write_network(tmp_path / "vae", "vae", VAE, vae)
        write_network(tmp_path / "unet", "unet", UNET, self.params, dtype=jnp.float16)
        assert_same(load_weights(tmp_path, "vae")[1], vae)
        assert_same(load_weights(tmp_path, "unet")[1], half(self.params))

    @pytest.mark.parametrize("infix", ["", "fp16"])
    def test_shards(self, tmp_path, infix):
        config_folder(tmp_path, "unet", UNET)
        save_sharded(tmp_path, STEM, half(self.state) if infix else self.state, shards=3, infix=infix)
        assert_same(self.read(tmp_path), half(self.params) if infix else self.params)

    @pytest.mark.reference
    def test_shards_of_torch(self, tmp_path):
        torch = pytest.importorskip("torch")
        config_folder(tmp_path, "unet", UNET)
        names = [f"{STEM}-0000{i}-of-00002.bin" for i in (1, 2)]
        for i, name in enumerate(names):
            part = {n: torch.from_numpy(v.copy()) for n, v in list(self.state.items())[i::2]}
            torch.save(part, tmp_path / name)
        weight_map = {n: names[i % 2] for i, n in enumerate(self.state)}
        (tmp_path / f"{STEM}.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))
        assert_same(self.read(tmp_path), self.params)

    def test_an_index_of_indexes_is_refused(self, tmp_path):
        config_folder(tmp_path, "unet", UNET)
        index = tmp_path / f"{STEM}.safetensors.index.json"
        index.write_text(json.dumps({"weight_map": {"a": index.name}}))
        with pytest.raises(InputError, match=r"names '.*index\.json', expected weight files and no other index"):
            self.read(tmp_path)

    def test_missing_shard_is_named(self, tmp_path):
        config_folder(tmp_path, "unet", UNET)
        save_sharded(tmp_path, STEM, self.state)
        missing = f"{STEM}-00002-of-00002.safetensors"
        (tmp_path / missing).unlink()
        with pytest.raises(InputError, match=f"1 of its 2 files are missing: {missing}"):
            self.read(tmp_path)


class TestControlNetLayouts:
    params = random_component("controlnet", CONTROLNET)
    state = torch_state(params)

    def test_folder_and_its_parent(self, tmp_path):
        write_network(tmp_path / "controlnet", "controlnet", CONTROLNET, self.params)
        for source in (tmp_path, tmp_path / "controlnet", str(tmp_path / "controlnet" / f"{STEM}.safetensors")):
            config, params = load_weights(source, "controlnet")
            assert config == CONTROLNET
            assert_same(params, self.params)

    def test_bare_files(self, tmp_path):
        bare = save(tmp_path / "bare.safetensors", self.state)
        prefixed = save(tmp_path / "prefixed.safetensors", original("controlnet", self.state, "control_model."))
        unprefixed = save(tmp_path / "unprefixed.safetensors", original("controlnet", self.state, ""))
        for path in (bare, prefixed, unprefixed):
            config, params = load_weights(path, "controlnet", config=CONTROLNET)
            assert config == CONTROLNET
            assert_same(params, self.params)

    def test_flax_folder(self, tmp_path):
        config_folder(tmp_path, "controlnet", CONTROLNET)
        save_flax(tmp_path / "diffusion_flax_model.msgpack", self.params)
        assert_same(load_weights(tmp_path, "controlnet")[1], self.params)

    def test_missing_hint_encoder_is_listed(self, tmp_path):
        state = original("controlnet", self.state, "control_model.")
        hint = [name for name in state if ".input_hint_block." in name]
        path = save(tmp_path / "half.safetensors", {name: v for name, v in state.items() if name not in hint})
        with pytest.raises(InputError) as error:
            load_weights(path, "controlnet", config=CONTROLNET)
        assert len(hint) == 8
        assert all(f"missing     {name}, expected {state[name].shape}" in str(error.value) for name in hint)

    def test_without_config_the_widths_are_those_of_stable_diffusion(self, tmp_path):
        path = save(tmp_path / "bare.safetensors", self.state)
        with pytest.raises(
            InputError, match=r"without a config\.json of a controlnet beside it.*Stable Diffusion 1\.5"
        ):
            load_weights(path, "controlnet")

    def test_the_wrong_folder_or_file_gets_a_sentence(self, tmp_path):
        write_network(tmp_path / "unet", "unet", UNET, random_component("unet", UNET))
        with pytest.raises(InputError, match="there are no weights of a controlnet"):
            load_weights(tmp_path, "controlnet")
        with pytest.raises(InputError, match="describes UNet2DConditionModel, expected ControlNetModel"):
            load_weights(tmp_path / "unet", "controlnet")
        save(tmp_path / "control_canny.safetensors", self.state)
        with pytest.raises(InputError, match=r"if control_canny\.safetensors is meant, give that file"):
            load_weights(tmp_path, "controlnet")
        with pytest.raises(InputError, match="no such file or folder"):
            load_weights(tmp_path / "nothing" / "here", "controlnet")
        (tmp_path / "empty").mkdir()
        with pytest.raises(InputError, match="there are no weights of a controlnet"):
            load_weights(tmp_path / "empty", "controlnet")


def test_text_encoder_as_flax_numbers_it(tmp_path):
    params = random_component("text_encoder", TEXT)
    config_folder(tmp_path, "text_encoder", TEXT)
    save_flax(tmp_path / "flax_model.msgpack", params, dots=True)
    config, read = load_weights(tmp_path, "text_encoder")
    assert config == TEXT
    assert_same(read, params)


def test_text_encoder_with_harmless_extras(tmp_path):
    params = random_component("text_encoder", TEXT)
    extras = {"text_model.embeddings.position_ids": np.arange(77)[None], "logit_scale": np.ones((), np.float32)}
    config_folder(tmp_path, "text_encoder", TEXT)
    save(tmp_path / "model.safetensors", torch_state(params) | extras)
    assert_same(load_weights(tmp_path, "text_encoder")[1], params)
    save(tmp_path / "model.safetensors", torch_state(params) | {"text_model.extra": np.ones(3, np.float32)})
    with pytest.raises(InputError, match=r"unexpected  text_model\.extra, found \(3,\)"):
        load_weights(tmp_path, "text_encoder")


@pytest.mark.parametrize("prefix", ["", "cond_stage_model.transformer."])
def test_text_encoder_without_the_name_of_its_only_module(tmp_path, prefix):
    params = random_component("text_encoder", TEXT)
    state = {prefix + name.removeprefix("text_model."): value for name, value in torch_state(params).items()}
    assert f"{prefix}embeddings.token_embedding.weight" in state
    state |= {f"{prefix}embeddings.position_ids": np.arange(77)[None]}
    assert_same(load_weights(save(tmp_path / "text.safetensors", state), "text_encoder", config=TEXT)[1], params)


@pytest.mark.parametrize("prefix", ["", "0.", "model.", "model.0."])
def test_published_scedit_weights(tmp_path, prefix):
    params = random_component("scedit", SCEDIT)
    state = {prefix + name: value for name, value in torch_state(params).items()}
    path = save(tmp_path / "tuner.safetensors", state)
    config, read = load_weights(path, "scedit", config=SCEDIT)
    assert config == SCEDIT
    assert_same(read, params)


def test_every_fault_is_in_one_error(tmp_path):
    params = random_component("unet", UNET)
    state = torch_state(params)
    del state["conv_out.bias"]
    state["conv_in.weight"] = state["conv_in.weight"][:, :3]
    state["mid_block.extra.weight"] = np.zeros((2, 2), np.float32)
    config_folder(tmp_path, "unet", UNET)
    save(tmp_path / f"{STEM}.safetensors", state)
    with pytest.raises(InputError) as error:
        load_weights(tmp_path, "unet")
    lines = [line.strip() for line in str(error.value).splitlines()]
    assert lines[0].endswith("3 tensors do not fit the model")
    assert sorted(lines[1:]) == [
        "missing     conv_out.bias, expected (4,)",
        "unexpected  mid_block.extra.weight, found (2, 2)",
        "wrong shape conv_in.weight, found (8, 3, 3, 3), expected (8, 4, 3, 3)",
    ]


def test_quantised_weights_are_refused(tmp_path):
    params = random_component("vae", VAE)
    state = torch_state(params) | {"quant_conv.bias": np.zeros(8, np.int8)}
    config_folder(tmp_path, "vae", VAE)
    save(tmp_path / f"{STEM}.safetensors", state)
    with pytest.raises(InputError, match=r"holds quant_conv\.bias \(int8\), expected"):
        load_weights(tmp_path, "vae")


def test_a_failed_write_leaves_the_old_files(tmp_path):
    params = random_component("vae", VAE)
    write_network(tmp_path, "vae", VAE, params)
    broken = dict(params)
    del broken["quant_conv.bias"]
    with pytest.raises(ValueError, match=r"do not fit the vae: quant_conv\.bias"):
        write_network(tmp_path, "vae", VAE, broken)
    assert_same(load_weights(tmp_path, "vae")[1], params)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["config.json", f"{STEM}.safetensors"]


def test_full_width():
    """The number of Stable Diffusion 1.5's parameters, as published."""
    shapes = shapes_of("unet", UNetConfig())
    assert shapes["conv_in.kernel"].shape == (3, 3, 4, 320)
    assert sum(math.prod(shape.shape) for shape in shapes.values()) == 859_520_964
