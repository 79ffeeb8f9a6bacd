"""The presets that need no training, on folders in the layout in which their weights are published."""

import json
import os
import re
import subprocess
import sys
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
    assert result.std() > 1
    assert np.any(result != cassr.upscale(PICTURE, seed=1))
    assert np.any(result != cassr.upscale(PICTURE, fidelity=0.3))


def test_tiles_settings_are_those_of_its_users():
    config, _ = read_cascade(CONFIGS / "sd15_tile.py")
    sampling = config.sampling
    assert (config.control, config.activation, config.components["rrdbnet"]) == (
        "residuals",
        "rrdbnet",
        "realesrgan-x4plus",
    )
    assert (sampling.sampler, sampling.num_steps, sampling.guidance_scale) == ("dpmpp_2m", 12, 7.0)
    assert (sampling.start, sampling.strength, sampling.prompt) == ("reference", 0.35, "best quality")
    assert (config.process_size, config.tile, config.color_fix) == (512, 512, "wavelet")


def test_pasds_own_settings_are_those_of_its_program():
    config, _ = read_cascade(CONFIGS / "pasd.py")
    sampling = config.sampling
    assert (config.control, config.activation, config.tile) == ("pasd", "identity", 768)
    assert sampling.prompt == "clean, high-resolution, 8k"
    assert sampling.negative_prompt.startswith("blurry, dotted, noise, raster lines, unclear, lowres")
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


FULL = """
import json, sys, time
from dataclasses import replace
from pathlib import Path
import numpy as np
import cassr_jax
from tests.end_to_end.test_presets import CONFIGS, LORAS, local
name, hub, speed = sys.argv[1], Path(sys.argv[2]), sys.argv[3] or None
loras = {str(hub / LORAS[speed]): 1.0} if speed else None
change = lambda config: replace(local(hub)(config), process_size=512, tile=512)
start = time.monotonic()
cassr = cassr_jax.load(CONFIGS / f"{name}.py", change=change, loras=loras)
loaded = time.monotonic()
picture = np.random.default_rng(0).integers(0, 256, (128, 128, 3)).astype(np.uint8)
result = cassr.upscale(picture, speed=speed, steps=2)
sampled = time.monotonic() - loaded
print(json.dumps({"shape": result.shape, "spread": float(result.std()), "load": loaded - start, "sample": sampled}))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "speed", "options"),
    [
        ("pasd", "", ["--variants", "fp16"]),
        ("sd15_tile", "", ["--variants", "fp16"]),
        ("sd15_tile", "lcm", ["--variants", "fp32", "--shards", "2"]),
        ("sd15_tile", "hyper", ["--variants", "fp16"]),
    ],
)
def test_a_preset_at_full_size(tmp_path, name, speed, options, capsys):
    """128 to 512 px in two steps, with weights of the published sizes, in a process of its own: its memory is read."""
    own = {"pasd": ["PASD"], "sd15_tile": ["control_v11f1e_sd15_tile"]}[name]
    own += {"": [], "lcm": ["lcm-lora-sdv1-5"], "hyper": ["Hyper-SD"]}[speed]
    hub = write_hub(tmp_path, *options, "--only", "stable-diffusion-v1-5", *own)
    command = [sys.executable, "-c", FULL, name, str(hub), speed]
    with subprocess.Popen(command, cwd=CONFIGS.parent, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        printed = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    found = json.loads(printed.splitlines()[-1])
    with capsys.disabled():
        took = f"loaded in {found['load']:.0f} s, sampled in {found['sample']:.0f} s"
        print(f"\n{name} {speed} {' '.join(options)}: {took}, peak {usage.ru_maxrss / 2**20:.1f} GiB")
    assert found["shape"] == [512, 512, 3]
    assert found["spread"] > 1
