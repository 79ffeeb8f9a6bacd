"""Weights converted between folders and single files: every bit is kept, and what comes with them stays."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from cassr_jax.commands.running import INTERRUPTED
from cassr_jax.config_files import to_json
from cassr_jax.diffusion.schedule import Schedule
from cassr_jax.kinds import KINDS
from cassr_jax.networks import write_network
from cassr_jax.schedules import agreed
from cassr_jax.weights import published, single_file
from cassr_jax.weights.safetensors import read_safetensors
from tests.pipelines import CONFIGS, assert_bits, make_pipeline, run, tensors_of
from tests.random_cascade import write_random_cascade
from tests.weights.published import (
    CONTROLNET,
    SCEDIT,
    UNET,
    assert_same,
    load_weights,
    original,
    random_component,
    save,
)


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory) -> Path:
    return make_pipeline(tmp_path_factory.mktemp("models") / "sd")


def test_to_one_file_and_back_every_bit_is_kept(pipeline, tmp_path):
    file, back, again = tmp_path / "model.safetensors", tmp_path / "back", tmp_path / "again.safetensors"
    assert run("convert", pipeline, file, "--layout", "original") == 0
    assert run("convert", file, back) == 0
    assert run("convert", back, again, "--layout", "original") == 0
    assert_bits(tensors_of(back), tensors_of(pipeline))
    assert file.read_bytes() == again.read_bytes()
    for kind, config in CONFIGS.items():
        assert load_weights(file, kind)[0] == config  # from its metadata
        assert KINDS[kind].configuration(file) == config
    assert load_weights(file, "activation_controlnet")[0] == CONTROLNET
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again.safetensors", "back", "model.safetensors"]


def test_the_file_has_the_names_and_shapes_of_the_original_programs(pipeline, tmp_path):
    run("convert", pipeline, tmp_path / "model.safetensors", "--layout", "original")
    found = read_safetensors(tmp_path / "model.safetensors")
    state = {}
    for kind, prefix in (
        ("unet", "model.diffusion_model."),
        ("vae", "first_stage_model."),
        ("controlnet", "control_model."),
    ):
        files = {f.split(" ")[1]: v for f, v in tensors_of(pipeline / kind).items()}
        state |= original(kind, files, prefix)
    text = {f.split(" ")[1]: v for f, v in tensors_of(pipeline / "text_encoder").items()}
    state |= {f"cond_stage_model.transformer.{name}": value for name, value in text.items()}
    assert found.keys() == state.keys()
    assert found["first_stage_model.encoder.mid.attn_1.q.weight"].shape == (16, 16, 1, 1)
    assert found["model.diffusion_model.input_blocks.1.1.proj_in.weight"].shape == (8, 8, 1, 1)
    assert found["first_stage_model.encoder.mid.block_1.conv1.weight"].shape == (16, 16, 3, 3)


def test_what_comes_with_the_networks_stays(pipeline, tmp_path):
    assert run("convert", pipeline, tmp_path / "sd") == 0
    for name in ("scheduler/scheduler_config.json", "tokenizer/vocab.json", "tokenizer/merges.txt"):
        assert (tmp_path / "sd" / name).read_bytes() == (pipeline / name).read_bytes()
    index = json.loads((tmp_path / "sd/model_index.json").read_text())
    assert index["scheduler"] == ["diffusers", "DDIMScheduler"]
    assert index["safety_checker"] == [None, None]


@pytest.mark.parametrize("zero", [False, True])
def test_the_noise_of_the_training_is_marked_in_a_single_file(tmp_path, zero):
    trained = Schedule(prediction_type="v_prediction", rescale_betas_zero_snr=zero, timestep_spacing="trailing")
    folder, file = make_pipeline(tmp_path / "v", trained), tmp_path / "v.safetensors"
    assert run("convert", folder, file, "--layout", "original", "--kind", "unet") == 0
    assert {"v_pred", "ztsnr"} & set(read_safetensors(file)) == {"v_pred", *["ztsnr"] * zero}
    assert run("convert", file, tmp_path / "back") == 0
    found = agreed(None, str(tmp_path / "back"), "")
    assert (found.prediction_type, found.rescale_betas_zero_snr) == ("v_prediction", zero)


def test_a_noise_that_no_single_file_can_say_is_refused(tmp_path, capsys):
    folder = make_pipeline(tmp_path / "own", Schedule(beta_end=0.02))
    assert run("convert", folder, tmp_path / "own.safetensors", "--layout", "original") == 2
    assert "beta_end is 0.02, which no single file can say, expected --layout diffusers" in capsys.readouterr().err
    assert run("convert", folder, tmp_path / "own.safetensors", "--layout", "original", "--kind", "vae") == 0


@pytest.mark.parametrize("name", ["float8_e4m3fn", "float8_e5m2", "bfloat16"])
def test_narrow_types_are_kept_and_widened(tmp_path, name):
    dtype = np.dtype(getattr(ml_dtypes, name))
    folder = tmp_path / "unet"
    write_network(folder, "unet", UNET, random_component("unet", UNET))
    state = {name.split(" ")[1]: value.astype(dtype) for name, value in tensors_of(folder).items()}
    save(folder / "diffusion_pytorch_model.safetensors", state)
    assert run("convert", folder, tmp_path / "kept") == 0
    assert_bits({n.split(" ")[1]: v for n, v in tensors_of(tmp_path / "kept").items()}, state)
    assert run("convert", folder, tmp_path / "wide", "--dtype", "float32") == 0
    wide = {n.split(" ")[1]: v for n, v in tensors_of(tmp_path / "wide").items()}
    assert_bits(wide, {n: v.astype(np.float32) for n, v in state.items()})


def test_a_number_that_a_type_cannot_hold_is_named(tmp_path, capsys):
    params = {name: np.array(value) for name, value in random_component("unet", UNET).items()}
    params["conv_in.bias"][3] = 1e6
    write_network(tmp_path / "unet", "unet", UNET, params)
    assert run("convert", tmp_path / "unet", tmp_path / "half", "--dtype", "float16") == 2
    assert "conv_in.bias holds 1000000.0, which is too large for float16" in capsys.readouterr().err
    assert not (tmp_path / "half").exists()
    assert run("convert", tmp_path / "unet", tmp_path / "half", "--dtype", "bfloat16") == 0


def test_networks_of_this_program_alone(tmp_path, capsys):
    write_network(tmp_path / "net", "scedit", SCEDIT, random_component("scedit", SCEDIT))
    assert run("convert", tmp_path / "net", tmp_path / "out") == 0
    written, expected = (
        {name.split(" ")[1]: value for name, value in tensors_of(tmp_path / folder).items()}
        for folder in ("out", "net")
    )
    assert_bits(written, expected)
    assert run("convert", tmp_path / "net", tmp_path / "a.safetensors", "--layout", "original") == 2
    assert "a scedit like this has no original layout" in capsys.readouterr().err


def test_a_cascade_gives_its_networks(tmp_path):
    source = write_random_cascade(tmp_path / "cascade")
    assert run("convert", source, tmp_path / "out", "--kind", "unet", "multiple_attention") == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["multiple_attention", "scheduler", "unet"]
    expected = tensors_of(source / "unet") | tensors_of(source / "multiple_attention")
    assert_bits(tensors_of(tmp_path / "out"), expected)


def test_a_cascades_own_schedule_goes_with_its_unet(tmp_path):
    trained = Schedule(prediction_type="v_prediction")
    source = write_random_cascade(tmp_path / "cascade", schedule=to_json(trained))
    assert run("convert", source, tmp_path / "out", "--kind", "unet") == 0
    assert agreed(None, str(tmp_path / "out"), "").prediction_type == "v_prediction"
    assert run("convert", source, tmp_path / "v.safetensors", "--kind", "unet", "--layout", "original") == 0
    assert "v_pred" in read_safetensors(tmp_path / "v.safetensors")


def test_a_controlnet_with_pasds_additions_has_no_original_layout(tmp_path, capsys):
    config = replace(CONTROLNET, own=replace(CONTROLNET.own, return_rgbs=True))
    write_network(tmp_path / "controlnet", "controlnet", config, random_component("controlnet", config))
    assert run("convert", tmp_path / "controlnet", tmp_path / "a.safetensors", "--layout", "original") == 2
    assert "a ControlNet with PASD's additions (return_rgbs) has no original layout" in capsys.readouterr().err
    assert run("convert", tmp_path / "controlnet", tmp_path / "out") == 0


def test_a_lora_is_not_lost_in_8_bits(tmp_path):
    params = {name: value.astype(ml_dtypes.float8_e4m3fn) for name, value in random_component("unet", UNET).items()}
    name = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
    side = params[f"{name}.kernel"].shape[0]
    lora = {f"unet.{name}.lora_A.weight": np.full((1, side), 1e-3), f"unet.{name}.lora_B.weight": np.ones((side, 1))}
    save(tmp_path / "lora.safetensors", {key: value.astype(np.float32) for key, value in lora.items()})
    parts = {"components": {"unet": str(tmp_path / "unet")}, "loras": {str(tmp_path / "lora.safetensors"): 1}}
    source = write_random_cascade(tmp_path / "cascade", **parts)
    write_network(tmp_path / "unet", "unet", UNET, params)
    assert run("convert", source, tmp_path / "out") == 0
    written = {key.split(" ")[1]: value for key, value in tensors_of(tmp_path / "out/unet").items()}
    before = np.asarray(params[f"{name}.kernel"], np.float32).T
    np.testing.assert_allclose(written[f"{name}.weight"], before + 1e-3, rtol=1e-6)
    assert written["conv_in.weight"].dtype == ml_dtypes.float8_e4m3fn


def test_sigterm_leaves_nothing_behind(pipeline, tmp_path):
    code = """
import sys
from cassr_jax.weights import __main__ as program, published
def wait(*_):
    print("writing", flush=True)
    sys.stdin.read()
published.write_safetensors = wait
sys.exit(program.main(sys.argv[1:]))
"""
    command = [sys.executable, "-c", code, "convert", str(pipeline), str(tmp_path / "out")]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, **pipes, text=True, cwd=Path(__file__).parents[1]) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "writing\n"
        assert [path.name[:5] for path in tmp_path.iterdir()] == [".out."]
        process.terminate()
        assert process.wait(20) == 143
    assert list(tmp_path.iterdir()) == []


def test_a_tokenizer_is_checked_before_anything_is_written(pipeline, tmp_path, monkeypatch, capsys):
    source = shutil.copytree(pipeline, tmp_path / "source")
    (source / "tokenizer/merges.txt").unlink()
    monkeypatch.setattr(published, "write_safetensors", None)
    assert run("convert", source, tmp_path / "out") == 2
    assert "merges.txt: cannot be read" in capsys.readouterr().err


class TestOutput:
    def test_an_existing_one_is_refused_unless_it_may_be_replaced(self, pipeline, tmp_path, capsys):
        output = tmp_path / "out"
        output.mkdir()
        (output / "mine.txt").write_text("mine")
        assert run("convert", pipeline, output) == 2
        assert "out: exists, expected a free name, or --overwrite" in capsys.readouterr().err
        assert (output / "mine.txt").exists()
        assert run("convert", pipeline, output, "--overwrite") == 2
        assert "out: holds mine.txt, expected a folder that this command wrote" in capsys.readouterr().err
        (output / "mine.txt").rename(output / "model_index.json")
        assert run("convert", pipeline, output, "--overwrite") == 0
        assert (output / "unet").is_dir()
        assert_bits(tensors_of(output), tensors_of(pipeline))
        assert list(tmp_path.iterdir()) == [output]

    def test_a_failure_leaves_the_old_one(self, pipeline, tmp_path, monkeypatch, capsys):
        output = tmp_path / "out"
        assert run("convert", pipeline, output, "--kind", "vae") == 0
        before, write = tensors_of(output), published.write_safetensors

        def interrupted(path, shapes, read):
            write(path, shapes, read)
            raise KeyboardInterrupt

        monkeypatch.setattr(published, "write_safetensors", interrupted)
        assert run("convert", pipeline, output, "--overwrite") == INTERRUPTED
        assert_bits(tensors_of(output), before)
        assert list(tmp_path.iterdir()) == [output]

    @pytest.mark.parametrize(
        ("output", "options", "message"),
        [
            ("out", ["--layout", "original"], "out: expected a name that ends in .safetensors"),
            ("out.safetensors", [], "expected a folder's name, or --layout original for one file"),
            ("file/out", [], "file is a file; expected a folder"),
            ("folder.safetensors", ["--layout", "original", "--overwrite"], "is a folder, and would be replaced"),
        ],
    )
    def test_what_cannot_be_written_is_refused_before_anything_is_read(
        self, pipeline, tmp_path, monkeypatch, capsys, output, options, message
    ):
        (tmp_path / "file").write_text("")
        (tmp_path / "folder.safetensors").mkdir()
        for module in (published, single_file):
            monkeypatch.setattr(module, "write_safetensors", None)
        assert run("convert", pipeline, tmp_path / output, *options) == 2
        assert message in capsys.readouterr().err

    def test_a_full_disk_is_known_before(self, pipeline, tmp_path, monkeypatch, capsys):
        usage = shutil.disk_usage(tmp_path)
        monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
        assert run("convert", pipeline, tmp_path / "out") == 2
        assert f"and {tmp_path} has 0.00 GB left, expected room" in capsys.readouterr().err

    def test_the_source_is_not_replaced(self, pipeline, capsys):
        assert run("convert", pipeline / "unet", pipeline / "unet", "--overwrite") == 2
        assert "holds config.json" in capsys.readouterr().err
        assert run("convert", pipeline / "unet", pipeline, "--overwrite") == 2
        assert "holds feature_extractor, safety_checker, expected a folder that this command" in capsys.readouterr().err
        assert (pipeline / "unet").is_dir()

    def test_nor_is_a_network_that_a_configuration_reads(self, pipeline, tmp_path, capsys):
        own = shutil.copytree(pipeline, tmp_path / "own", ignore=shutil.ignore_patterns("model_index*", "s*", "f*"))
        parts = {kind: str(own / kind) for kind in ("unet", "vae", "text_encoder")}
        (tmp_path / "c.py").write_text(
            f"from cassr_jax.config import CascadeConfig\ncascade = CascadeConfig(components={parts})\n"
        )
        assert run("convert", tmp_path / "c.py", own, "--overwrite") == 2
        assert "safetensors: lies within what is to be replaced" in capsys.readouterr().err
        file = own / "unet/diffusion_pytorch_model.safetensors"
        before = file.read_bytes()
        assert run("convert", own, file, "--layout", "original", "--overwrite", "--kind", "vae") == 2
        assert "lies within the source" in capsys.readouterr().err
        assert file.read_bytes() == before

    def test_nor_is_a_folder_that_holds_it(self, pipeline, tmp_path, capsys):
        assert run("convert", pipeline, tmp_path / "sd", "--kind", "unet") == 0
        assert run("convert", tmp_path / "sd/unet", tmp_path / "sd", "--overwrite") == 2
        assert "sd/unet: lies within what is to be replaced" in capsys.readouterr().err
        assert (tmp_path / "sd/unet/config.json").is_file()


@pytest.mark.reference
def test_torch_diffusers_reads_what_is_written(pipeline, tmp_path):
    pytest.importorskip("torch")
    diffusers = pytest.importorskip("diffusers")
    file = tmp_path / "model.safetensors"
    run("convert", pipeline, file, "--layout", "original", "--dtype", "float32")
    run("convert", file, tmp_path / "back")
    for kind, cls in (("unet", "UNet2DConditionModel"), ("vae", "AutoencoderKL"), ("controlnet", "ControlNetModel")):
        expected = {n.split(" ")[1]: v.astype(np.float32) for n, v in tensors_of(pipeline / kind).items()}
        whole = getattr(diffusers, cls).from_pretrained(tmp_path / "back" / kind).state_dict()
        states = [whole]
        if (
            kind != "controlnet"
        ):  # it takes every original ControlNet's hint net to have Stable Diffusion's eight layers
            single = getattr(diffusers, cls).from_single_file(str(file), config=str(pipeline / kind))
            states.append(single.state_dict())
        for state in states:
            found = {name: value.numpy() for name, value in state.items()}
            assert_same({n: v.reshape(expected[n].shape) for n, v in found.items()}, expected)
