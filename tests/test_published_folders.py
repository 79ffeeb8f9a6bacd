"""Folders like the hub's: torch's programs and this one read what `benchmarks.published_folders` writes."""

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import published_folders
from benchmarks.published_folders import configs, lora_tensors, main, network_tensors
from cassr_jax.diffusion.schedule import Schedule
from cassr_jax.kinds import KINDS
from cassr_jax.schedules import agreed
from cassr_jax.weights import __main__ as program
from cassr_jax.weights.safetensors import read_safetensors
from cassr_jax.weights.tokenizer import load_tokenizer
from tests.weights.published import assert_same, load_weights

FLOAT = np.dtype(np.float32)
SD, TILE = "stable-diffusion-v1-5", "control_v11f1e_sd15_tile"
NETWORKS = {"unet": SD, "vae": SD, "text_encoder": SD, "controlnet": TILE}
WORDS = ["<|startoftext|>", "<|endoftext|>", "a</w>"]


@pytest.fixture(scope="module")
def hub(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("hub")
    tokenizer = folder / "clip"
    tokenizer.mkdir()
    (tokenizer / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(WORDS)}))
    (tokenizer / "merges.txt").write_text("#version: 0.2\n")
    main([str(folder), "--width", "8", "--tokenizer", str(tokenizer)])
    return folder


@pytest.mark.parametrize("kind", NETWORKS)
def test_the_networks_are_read_here(hub, kind):
    config, params = load_weights(hub / NETWORKS[kind], kind)
    assert config == KINDS[kind].files.config.read_fields(configs(8)[kind], "")
    assert all(np.isfinite(value).all() and value.dtype == FLOAT for value in params.values())


def test_the_whole_pipeline_is_known_and_converted(hub, tmp_path, capsys):
    file = tmp_path / "v1-5.safetensors"
    assert program.main(["show", str(hub / SD)]) == 0
    shown = capsys.readouterr().out
    assert "a pipeline (StableDiffusionPipeline)" in shown
    assert shown.endswith("  ignored: feature_extractor, safety_checker\n")
    assert agreed(None, str(hub / SD), "") == Schedule()
    assert load_tokenizer(hub / SD).encode("a").ids[:3] == [0, 2, 1]
    assert program.main(["convert", str(hub / SD), str(file), "--layout", "original"]) == 0
    for kind in ("unet", "vae", "text_encoder"):
        assert_same(load_weights(file, kind)[1], load_weights(hub / SD, kind)[1])


def test_variants_and_shards_hold_the_same_weights(hub, tmp_path):
    main([str(tmp_path), "--width", "8", "--only", SD, "--variants", "fp32", "fp16", "--shards", "3"])
    unet = tmp_path / SD / "unet"
    assert len(list(unet.glob("diffusion_pytorch_model-0000?-of-00003.safetensors"))) == 3
    assert len(list(unet.glob("diffusion_pytorch_model.fp16-0000?-of-00003.safetensors"))) == 3
    expected = load_weights(hub / SD, "unet")[1]
    assert_same(load_weights(tmp_path / SD, "unet")[1], expected)
    (unet / "diffusion_pytorch_model.safetensors.index.json").unlink()
    half = {name: value.astype(np.float16) for name, value in expected.items()}
    assert_same(load_weights(tmp_path / SD, "unet")[1], half)


def test_sizes_are_the_published_ones():
    """859.5 million parameters of the U-Net, 361.3 of the ControlNet; LCM-LoRA's file takes 134.6 MB."""
    full, half = configs(), np.dtype(np.float16)

    def count(tensors: published_folders.Tensors) -> int:
        return sum(int(np.prod(shape)) for shape, _ in tensors.values())

    assert count(network_tensors("unet", full["unet"], FLOAT)) == 859_520_964
    assert count(network_tensors("controlnet", full["controlnet"], FLOAT)) == 361_279_120
    assert count(network_tensors("vae", full["vae"], FLOAT)) == 83_653_863
    assert count(network_tensors("text_encoder", full["text_encoder"], FLOAT)) == 123_060_480
    assert 2 * count(lora_tensors(full["unet"], half)) == pytest.approx(134.6e6, rel=2e-3)


@pytest.mark.parametrize("arguments", [["--width", "12"], ["--width", "0"], ["--shards", "0"]])
def test_impossible_options(tmp_path, capsys, arguments):
    with pytest.raises(SystemExit):
        main([str(tmp_path), *arguments])
    assert f"{arguments[0]} is {arguments[1]}, expected" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.reference
class TestTorch:
    @pytest.fixture(autouse=True)
    def _torch(self):
        pytest.importorskip("torch")
        pytest.importorskip("diffusers")

    @pytest.mark.parametrize("width", [None, 8])
    @pytest.mark.parametrize(
        ("kind", "name"),
        [
            ("unet", "UNet2DConditionModel"),
            ("vae", "AutoencoderKL"),
            ("controlnet", "ControlNetModel"),
            ("taesd", "AutoencoderTiny"),
        ],
    )
    def test_names_and_shapes_are_diffusers(self, kind, name, width):
        import diffusers
        import torch

        config = configs(width)[kind]
        with torch.device("meta"):
            state = getattr(diffusers, name).from_config(config).state_dict()
        own = (
            published_folders.taesd_tensors(config, FLOAT) if kind == "taesd" else network_tensors(kind, config, FLOAT)
        )
        assert {n: tuple(v.shape) for n, v in state.items()} == {n: shape for n, (shape, _) in own.items()}

    def test_diffusers_reads_the_autoencoders_older_names(self, hub):
        from diffusers import AutoencoderKL

        net, info = AutoencoderKL.from_pretrained(hub / SD, subfolder="vae", output_loading_info=True)
        assert not any(info.values())
        params = load_weights(hub / SD, "vae")[1]
        query = net.encoder.mid_block.attentions[0].to_q.weight.detach().numpy()
        np.testing.assert_array_equal(query, params["encoder.mid_block.attentions.0.to_q.kernel"].T)
        names = read_safetensors(hub / SD / "vae/diffusion_pytorch_model.safetensors")
        assert "encoder.mid_block.attentions.0.proj_attn.weight" in names

    def test_the_pipeline_opens(self, hub):
        from diffusers import StableDiffusionPipeline

        pipe = StableDiffusionPipeline.from_pretrained(hub / SD, safety_checker=None, feature_extractor=None)
        assert type(pipe.scheduler).__name__ == "PNDMScheduler"
        text = load_weights(hub / SD, "text_encoder")[1]["text_model.embeddings.token_embedding.embedding"]
        weights = pipe.text_encoder.get_input_embeddings().weight.detach().numpy()
        np.testing.assert_array_equal(weights, text)

    @pytest.mark.parametrize(
        "file",
        ["lcm-lora-sdv1-5/pytorch_lora_weights.safetensors", "Hyper-SD/Hyper-SD15-8steps-lora.safetensors"],
    )
    def test_every_tensor_of_a_lora_finds_its_layer(self, hub, file):
        from diffusers import StableDiffusionPipeline, UNet2DConditionModel

        path = hub / file
        unet = UNet2DConditionModel.from_pretrained(hub / SD, subfolder="unet")
        state, alphas = StableDiffusionPipeline.lora_state_dict(str(path.parent), weight_name=path.name)
        unet.load_lora_adapter(state, network_alphas=alphas, prefix="unet")
        loaded = [name for name, _ in unet.named_parameters() if ".lora_" in name]
        own = read_safetensors(path)
        assert len(loaded) == sum(".lora_" in name for name in own) == 556
        assert {tensor.dtype for tensor in own.values()} == {np.dtype("f2" if "lcm" in file else "f4")}

    def test_the_halves_of_taesd_are_those_of_the_whole(self, hub):
        whole = read_safetensors(hub / "taesd/diffusion_pytorch_model.safetensors")
        decoder = read_safetensors(hub / "taesd/taesd_decoder.safetensors")
        encoder = read_safetensors(hub / "taesd/taesd_encoder.safetensors")
        assert len(whole) == len(decoder) + len(encoder)
        assert decoder["1.weight"].shape == whole["decoder.layers.0.weight"].shape == (8, 4, 3, 3)
        assert encoder["0.weight"].shape == whole["encoder.layers.0.weight"].shape == (8, 3, 3, 3)


@pytest.mark.parametrize("width", [None, 8])
def test_pasd_s_transformers_attend_to_the_skips(width):
    """As its U-Net makes them: 998 tensors, and a context as wide as the skip but in the block without text."""
    config = configs(width)["unet"]
    tensors = published_folders.pasd_unet_tensors(config, FLOAT)
    assert len(tensors) == 998
    key = "up_blocks.{}.pixel_attentions.{}.transformer_blocks.0.attn2.to_k.weight"
    channels = {(i, j): tensors[key.format(i, j)][0] for i in range(4) for j in range(3)}
    first, second, third, _ = config["block_out_channels"]
    assert channels[0, 2] == (third, third)
    assert channels[1, 1] == (third, third)
    assert channels[1, 2] == (third, second)
    assert channels[2, 2] == (second, first)
    assert channels[3, 2] == (first, first)
    assert len(published_folders.pasd_controlnet_tensors(configs(width)["controlnet"], FLOAT)) == 346


def test_pasds_attention_is_listed_and_converted_with_its_unet(hub, tmp_path, capsys):
    checkpoint = hub / "PASD" / "pasd" / "checkpoint-100000"
    for source in (checkpoint, checkpoint / "unet"):
        assert program.main(["show", str(source)]) == 0
        assert "pixel_attention" in capsys.readouterr().out
    assert program.main(["show", str(hub / SD)]) == 0
    assert "pixel_attention" not in capsys.readouterr().out
    assert program.main(["convert", str(checkpoint), str(tmp_path / "out")]) == 0
    assert {"controlnet", "pixel_attention", "unet"} < {path.name for path in (tmp_path / "out").iterdir()}
    for kind in ("unet", "pixel_attention"):
        assert_same(load_weights(tmp_path / "out" / kind, kind)[1], load_weights(checkpoint / "unet", kind)[1])
