"""TAESD's files: diffusers' folder, and the two of its author."""

import json

import numpy as np
import pytest

from benchmarks.published_configs import TAESD as PUBLISHED
from cassr_jax.errors import InputError
from cassr_jax.models.taesd import TAESDConfig
from cassr_jax.networks import write_network
from tests.narrow import TAESD
from tests.weights.published import assert_same, load_weights, random_component, save, torch_state

PARAMS = random_component("taesd", TAESD)


def original(half: str) -> dict[str, np.ndarray]:
    """The author's file of one half; its decoder counts from the layer that squashes the latents."""
    state, result = torch_state(PARAMS), {}
    for name, value in state.items():
        theirs, _, number, rest = name.split(".", 3)
        if theirs == half:
            result[f"{int(number) + (half == 'decoder')}.{rest}"] = value
    return result


def write_originals(folder):
    return {half: save(folder / f"taesd_{half}.safetensors", original(half)) for half in ("encoder", "decoder")}


@pytest.mark.reference
def test_a_folder_goes_to_diffusers_and_back(tmp_path):
    diffusers = pytest.importorskip("diffusers")
    write_network(tmp_path / "ours", "taesd", TAESD, PARAMS)
    model = diffusers.AutoencoderTiny.from_pretrained(tmp_path / "ours", low_cpu_mem_usage=False)
    assert_same({name: value.numpy() for name, value in model.state_dict().items()}, torch_state(PARAMS))
    model.save_pretrained(tmp_path / "theirs")
    config, params = load_weights(tmp_path / "theirs", "taesd")
    assert config == TAESD
    assert_same(params, PARAMS)


def test_the_published_config_is_the_default(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(PUBLISHED))
    save(tmp_path / "diffusion_pytorch_model.safetensors", torch_state(random_component("taesd", TAESDConfig())))
    assert load_weights(tmp_path, "taesd")[0] == TAESDConfig()


@pytest.mark.parametrize(
    ("field", "value"),
    [("scaling_factor", 0.13025), ("act_fn", "silu"), ("upsampling_scaling_factor", 4), ("upsample_fn", "bilinear")],
)
def test_other_networks_are_refused(tmp_path, field, value):
    write_network(tmp_path, "taesd", TAESD, PARAMS)
    file = tmp_path / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {field: value}))
    with pytest.raises(InputError, match=f"config.json: {field} is {value!r}, expected"):
        load_weights(tmp_path, "taesd")


def test_the_author_s_files_are_read_together(tmp_path):
    files = write_originals(tmp_path)
    for source in (tmp_path, *files.values()):
        config, params = load_weights(source, "taesd", config=TAESD)
        assert config == TAESD
        assert_same(params, PARAMS)


def test_both_halves_in_one_file_are_read(tmp_path):
    state = {f"taesd_{half}.{name}": value for half in ("encoder", "decoder") for name, value in original(half).items()}
    assert_same(load_weights(save(tmp_path / "both.safetensors", state), "taesd", config=TAESD)[1], PARAMS)


@pytest.mark.parametrize("half", ["encoder", "decoder"])
def test_a_half_alone_is_refused(tmp_path, half):
    files = write_originals(tmp_path)
    files.pop(half).unlink()
    with pytest.raises(InputError, match=rf"taesd_{half}\.safetensors: no such file, expected TAESD's {half} beside"):
        load_weights(*files.values(), "taesd", config=TAESD)
