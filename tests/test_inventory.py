"""What `show` lists of a source, and how the networks in a file are known."""

from pathlib import Path

import numpy as np
import pytest

from cassr_jax.inventory import take_inventory
from cassr_jax.weights import single_file
from tests.pipelines import CONFIGS, TEXT, make_pipeline, run, tensors_of
from tests.weights.published import (
    SCEDIT,
    UNET,
    VAE,
    original,
    random_component,
    save,
    torch_state,
)


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory) -> Path:
    return make_pipeline(tmp_path_factory.mktemp("models") / "sd")


class TestShow:
    def test_a_pipeline(self, pipeline, capsys):
        assert run("show", pipeline) == 0
        shown = capsys.readouterr().out
        assert shown.startswith(f"{pipeline}: a pipeline (StableDiffusionPipeline)\n")
        count = sum(value.size for value in tensors_of(pipeline / "unet").values())
        assert f"  unet: {count:,} parameters, float16, {2 * count / 1e6:,.1f} MB, {pipeline}/unet/diff" in shown
        assert (
            "config: in_channels 4, out_channels 4, down_block_types ['CrossAttnDownBlock2D', 'DownBlock2D']" in shown
        )
        assert "own.conditioning_embedding_out_channels [4, 6]" in shown
        assert "  tokenizer: vocab.json, merges.txt\n" in shown
        assert f"  scheduler: epsilon, {pipeline}/scheduler/scheduler_config.json\n" in shown
        assert shown.endswith("  ignored: feature_extractor, safety_checker\n")

    def test_a_single_file(self, tmp_path, capsys):
        state = original("unet", torch_state(random_component("unet", UNET)), "model.diffusion_model.")
        extras = {
            "alphas_cumprod": np.zeros(4, np.float32),
            "embedding_manager.a": np.zeros(1),
            "embedding_manager.b": np.zeros(1),
        }
        state |= {"model.diffusion_model.input_blocks.0.0.weight": np.zeros((8, 9, 3, 3), np.float32)}
        state |= original("vae", torch_state(random_component("vae", VAE)), "first_stage_model.") | extras
        path = save(tmp_path / "inpaint.safetensors", state)
        assert run("show", path) == 0
        shown = capsys.readouterr().out
        assert f"  unet: cannot be used: {path}: is a Stable Diffusion U-Net for inpainting" in shown
        assert "  vae: cannot be used: " in shown  # its widths are not Stable Diffusion 1.5's
        assert shown.endswith("  ignored: alphas_cumprod, embedding_manager (2 tensors)\n")
        assert run("convert", path, tmp_path / "out") == 2
        assert "for inpainting" in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("source", "message"),
        [
            ("nothing/here/at/all", "no such file or folder, and no hub id either"),
            ("owner/name", "owner/name: is a hub id, expected --kind"),
            (".", "holds no network known here, expected a config.json in it or in its folders; if a.ckpt is meant"),
        ],
    )
    def test_no_network(self, tmp_path, monkeypatch, capsys, source, message):
        monkeypatch.chdir(tmp_path)
        (tmp_path / "a.ckpt").write_bytes(b"")
        assert run("show", source) == 2
        assert message in capsys.readouterr().err

    def test_what_is_wanted_and_not_there(self, pipeline, capsys):
        assert run("show", pipeline, "--kind", "scedit") == 2
        assert f"{pipeline}: holds no scedit, expected one" in capsys.readouterr().err
        assert run("show", pipeline, "--step", 3) == 2
        assert "holds no checkpoints, expected a run's working folder" in capsys.readouterr().err

    def test_what_is_wanted_decides_between_two_kinds(self, pipeline):
        assert list(take_inventory(str(pipeline / "controlnet")).networks) == ["controlnet"]
        wanted = ["activation_controlnet"]
        assert list(take_inventory(str(pipeline / "controlnet"), wanted).networks) == wanted


@pytest.mark.parametrize(
    ("kind", "prefix"),
    [("unet", "model.diffusion_model."), ("vae", "first_stage_model."), ("controlnet", "control_model."), ("unet", ""),
     ("vae", ""), ("controlnet", "")],
)  # fmt: skip
def test_the_network_of_a_file_is_known_by_its_names(kind, prefix):
    state = torch_state(random_component(kind, CONFIGS[kind]))
    assert single_file.kinds_in_file(original(kind, state, prefix)) == [kind]
    assert single_file.kinds_in_file(state) == [kind]


def test_other_networks_known_by_their_names():
    text = torch_state(random_component("text_encoder", TEXT))
    assert single_file.kinds_in_file(text) == ["text_encoder"]
    assert single_file.kinds_in_file(torch_state(random_component("scedit", SCEDIT))) == ["scedit"]
    assert single_file.kinds_in_file(["params_ema.body.0.rdb1.conv1.weight"]) == ["rrdbnet"]
    assert single_file.kinds_in_file(["model_ema.diffusion_modeltime_embed0weight"]) == ["unet"]
    assert single_file.kinds_in_file(["something.else"]) == []
