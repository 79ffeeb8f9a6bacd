"""The presets that need no training, on folders in the layout in which their weights are published."""

import json
import re
import resource
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import cassr_jax
from benchmarks.published_folders import main as write_folders
from cassr_jax.config import CascadeConfig
from cassr_jax.loading import read_cascade

CONFIGS = Path(__file__).parents[2] / "configs"
PICTURE = np.random.default_rng(0).integers(0, 256, (16, 12, 3)).astype(np.uint8)
WORDS = ["<|startoftext|>", "<|endoftext|>", *map(chr, range(97, 123)), *(f"{chr(i)}</w>" for i in range(97, 123))]
HUB = {  # ids in configurations -> the folders that stand for them
    "stable-diffusion-v1-5/stable-diffusion-v1-5": "stable-diffusion-v1-5",
    "lllyasviel/control_v11f1e_sd15_tile": "control_v11f1e_sd15_tile",
    "runs/pasd/": "PASD/pasd/",
}
LORAS = {"lcm": "lcm-lora-sdv1-5", "hyper": "Hyper-SD/Hyper-SD15-1step-lora.safetensors"}


def write_hub(folder: Path, *options: str) -> Path:
    tokenizer = folder / "clip"
    tokenizer.mkdir()
    (tokenizer / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(WORDS)}))
    (tokenizer / "merges.txt").write_text("#version: 0.2\n")
    write_folders([str(folder), "--tokenizer", str(tokenizer), *options])
    return folder


@pytest.fixture(scope="module")
def hub(tmp_path_factory) -> Path:
    return write_hub(tmp_path_factory.mktemp("hub"), "--width", "8")


def local(hub: Path, **changes: object) -> Callable[[CascadeConfig], CascadeConfig]:
    """A change of a configuration that takes each network from the folder that stands for its source."""
    pattern = re.compile("|".join(map(re.escape, HUB)))

    def change(config: CascadeConfig) -> CascadeConfig:
        components = {
            kind: pattern.sub(lambda found: str(hub / HUB[found[0]]) + "/" * found[0].endswith("/"), source)
            for kind, source in config.components.items()
        }
        sampling = replace(config.sampling, num_steps=2)
        return replace(config, components=components, sampling=sampling, process_size=64, tile=64, **changes)

    return change


@pytest.mark.parametrize("name", ["pasd", "sd15_tile"])
def test_a_preset_gives_a_picture(hub, name):
    cassr = cassr_jax.load(CONFIGS / f"{name}.py", change=local(hub))
    assert cassr.config.control == {"pasd": "pasd", "sd15_tile": "residuals"}[name]
    result = cassr.upscale(PICTURE)
    assert result.shape == (64, 48, 3)
    assert np.any(result != cassr.upscale(PICTURE, seed=1))
    assert np.any(result != cassr.upscale(PICTURE, fidelity=0.3))


def test_pasds_own_settings_are_those_of_its_program():
    config, _ = read_cascade(CONFIGS / "pasd.py")
    sampling = config.sampling
    assert (sampling.sampler, sampling.num_steps, sampling.guidance_scale) == ("unipc", 20, 9.0)
    assert (sampling.start, sampling.strength, sampling.added_noise_level) == ("lq", 1.0, 900)
    assert (config.process_size, config.color_fix) == (768, "wavelet")
    assert config.known_schedule.timestep_spacing == "linspace"


@pytest.mark.parametrize("speed", ["lcm", pytest.param("hyper", marks=pytest.mark.slow)])
def test_few_steps_with_a_lora_made_for_them(hub, speed):
    change = local(hub)
    plain = cassr_jax.load(CONFIGS / "sd15_tile.py", change=change)
    cassr = cassr_jax.load(CONFIGS / "sd15_tile.py", change=change, loras={str(hub / LORAS[speed]): 1.0})
    made = cassr.upscale(PICTURE, speed=speed, strength=1.0)
    assert made.shape == (64, 48, 3)
    assert np.any(made != plain.upscale(PICTURE, speed=speed, strength=1.0))


def test_previews_and_the_result_by_taesd(hub):
    def with_taesd(config: CascadeConfig) -> CascadeConfig:
        changed = local(hub)(config)
        return replace(changed, components=changed.components | {"taesd": str(hub / "taesd")})

    cassr = cassr_jax.load(CONFIGS / "pasd.py", change=with_taesd)
    seen = []
    usual = cassr.upscale(PICTURE, preview=seen.append)
    assert [(preview.stage, preview.step) for preview in seen] == [("result", 1), ("result", 2)]
    assert np.any(cassr.upscale(PICTURE, decoder="taesd") != usual)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["pasd", "sd15_tile"])
def test_a_preset_at_full_size(tmp_path, name, capsys):
    """128 to 512 px in two steps, with weights of the published sizes."""
    own = {"pasd": "PASD", "sd15_tile": "control_v11f1e_sd15_tile"}[name]
    hub = write_hub(tmp_path, "--variants", "fp16", "--only", "stable-diffusion-v1-5", own)

    def change(config: CascadeConfig) -> CascadeConfig:
        return replace(local(hub)(config), process_size=512, tile=512)

    start = time.monotonic()
    cassr = cassr_jax.load(CONFIGS / f"{name}.py", change=change)
    loaded = time.monotonic()
    result = cassr.upscale(np.random.default_rng(0).integers(0, 256, (128, 128, 3)).astype(np.uint8))
    sampled = time.monotonic() - loaded
    with capsys.disabled():
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(f"\n{name}: loaded in {loaded - start:.0f} s, sampled in {sampled:.0f} s, peak {peak:.1f} GiB")
    assert result.shape == (512, 512, 3)
    assert np.isfinite(result).all()
