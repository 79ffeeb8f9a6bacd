"""A pipeline of small networks as the hub has one, and what tests of conversion look at."""

import json
from pathlib import Path

import ml_dtypes
import numpy as np

from cassr_jax.diffusion.schedule import Schedule
from cassr_jax.models.clip_text import CLIPTextConfig
from cassr_jax.networks import write_network
from cassr_jax.schedules import write_schedule
from cassr_jax.weights import __main__ as program
from cassr_jax.weights.safetensors import read_safetensors
from tests.weights.published import (
    CONTROLNET,
    UNET,
    VAE,
    assert_same,
    random_component,
)

TEXT = CLIPTextConfig(vocab_size=20, hidden_size=6, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2)
CONFIGS = {"unet": UNET, "vae": VAE, "text_encoder": TEXT, "controlnet": CONTROLNET}
DTYPES = {"unet": np.float16, "vae": np.float32, "text_encoder": ml_dtypes.bfloat16, "controlnet": np.float16}


def run(*arguments: object) -> int:
    return program.main([str(argument) for argument in arguments])


def make_pipeline(folder: Path, schedule: Schedule | None = None) -> Path:
    """A pipeline as the hub has it: networks of several types, and parts that are not used."""
    for kind, config in CONFIGS.items():
        write_network(folder / kind, kind, config, random_component(kind, config), DTYPES[kind])
    write_schedule(folder, schedule or Schedule())
    for name in ("tokenizer/vocab.json", "tokenizer/merges.txt", "feature_extractor/preprocessor_config.json"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("{}")
    (folder / "safety_checker").mkdir()
    (folder / "safety_checker/config.json").write_text('{"_class_name": "StableDiffusionSafetyChecker"}')
    parts = {"unet": ["diffusers", "UNet2DConditionModel"], "safety_checker": ["stable_diffusion", "X"]}
    index = {"_class_name": "StableDiffusionPipeline", "image_encoder": [None, None], **parts}
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


def tensors_of(source: Path) -> dict[str, np.ndarray]:
    """The tensors of all files below a folder, by folder and name."""
    files = sorted(source.rglob("*.safetensors"))
    return {f"{f.parent.name} {name}": t.read() for f in files for name, t in read_safetensors(f).items()}


def assert_bits(actual: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert {name: value.dtype for name, value in actual.items()} == {n: v.dtype for n, v in expected.items()}
    assert_same(actual, expected)
