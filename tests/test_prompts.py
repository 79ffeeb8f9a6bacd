"""A learned context knows the prompt that it was trained with, and says so."""

import json
import re
import runpy
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest

import cassr_jax
from cassr_jax.config import SamplingConfig
from cassr_jax.errors import InputError
from cassr_jax.loading import read_cascade
from cassr_jax.models.clip_text import CLIPTextConfig, LearnedContextConfig
from cassr_jax.networks import Networks, write_network
from cassr_jax.prompts import prompt_ids
from tests.random_cascade import NETWORKS, random_params, write_random_cascade
from tests.training.runs import configure, objective_and_params

TEXT = LearnedContextConfig(num_tokens=2, hidden_size=8, prompt="sharp")
ABLATIONS = Path(__file__).parents[1] / "configs" / "ablations"


def ablation(name: str):
    return runpy.run_path(str(ABLATIONS / f"{name}.py"))["change"]


def test_each_prompt_has_its_context():
    np.testing.assert_array_equal(prompt_ids(TEXT, None, ["", "sharp", ""]), [[0], [1], [0]])


@pytest.mark.parametrize("prompt", ["clean, high-resolution", "Sharp", "sharp "])
def test_an_unknown_prompt_is_refused_with_those_that_are_known(prompt):
    with pytest.raises(InputError, match=re.escape(f"a prompt is {prompt!r}, expected '' or 'sharp'")):
        prompt_ids(TEXT, None, ["", prompt])


def test_the_prompt_is_written_with_the_network(tmp_path):
    networks = Networks().with_new("text_encoder", TEXT, "float32", jax.random.key(0))
    params = {name.removeprefix("text_encoder."): value for name, value in networks.params.items()}
    write_network(tmp_path, "text_encoder", TEXT, params)
    assert Networks().with_read("text_encoder", str(tmp_path), "float32").configs["text_encoder"] == TEXT
    fields = json.loads((tmp_path / "config.json").read_text())
    del fields["prompt"]  # as it was written before
    (tmp_path / "config.json").write_text(json.dumps(fields))
    read = Networks().with_read("text_encoder", str(tmp_path), "float32").configs["text_encoder"]
    assert read.prompts == ("", "clean, high-resolution")


def test_training_with_another_prompt_is_refused(tmp_path):
    write_network(tmp_path / "text_encoder", "text_encoder", TEXT, random_params("text_encoder"))
    for kind in ("vae", "unet"):
        write_network(tmp_path / kind, kind, NETWORKS[kind], random_params(kind))
    objective_and_params(configure("base", tmp_path, prompt="sharp"))
    with pytest.raises(InputError, match="a prompt is 'clear', expected '' or 'sharp'"):
        objective_and_params(configure("base", tmp_path, prompt="clear"))


def test_a_cascade_with_an_unknown_prompt_is_refused_when_it_is_loaded(tmp_path):
    folder = write_random_cascade(tmp_path)

    def with_prompts(**prompts):
        cassr_jax.load(folder, change=lambda cascade: replace(cascade, sampling=SamplingConfig(**prompts)))

    with pytest.raises(InputError, match=r"a prompt is 'more', expected '' or 'clean, high-resolution'"):
        with_prompts(prompt="more", negative_prompt="")
    with pytest.raises(InputError, match=r"a prompt is 'dotted', expected ''"):
        with_prompts(negative_prompt="dotted", guidance_scale=2.0)
    with_prompts(negative_prompt="dotted", guidance_scale=1.0)  # without guidance nobody reads it


@pytest.mark.parametrize("stage", ["sampling", "activation_sampling"])
def test_an_ablated_prompt_is_another_context_of_the_embedded_cascade(stage):
    whole = cassr_jax.load("tiny", activation="scedit")
    ablated = cassr_jax.load("tiny", activation="scedit", change=ablation("prompt_none"))
    texts = [np.asarray(cassr._text(getattr(cassr.config, stage)))[1] for cassr in (whole, ablated)]
    contexts = np.asarray(whole.networks.params["text_encoder.contexts"])
    np.testing.assert_array_equal(texts, [contexts[1], contexts[0]])
    assert np.abs(contexts[1] - contexts[0]).max() > 0.1


def test_guidance_alone_is_refused_where_nothing_is_guided():
    change, (tiny, _) = ablation("prompt_guidance_only"), read_cascade("tiny")
    with pytest.raises(
        InputError, match="guidance_scale is 1, expected another: without guidance this row is prompt_n"
    ):
        change(tiny)
    guided = replace(tiny.sampling, guidance_scale=2.0)
    assert change(replace(tiny, sampling=guided)).sampling == replace(guided, prompt="")


def test_tokens_that_the_text_encoder_does_not_have_are_refused(monkeypatch):
    ids = np.array([[0, 29, 40]], np.int32)
    monkeypatch.setattr("cassr_jax.prompts.load_tokenizer", lambda source: None)
    monkeypatch.setattr("cassr_jax.prompts.tokenize", lambda tokenizer, prompts: ids)
    np.testing.assert_array_equal(prompt_ids(CLIPTextConfig(vocab_size=41), "models/sd", ["x"]), ids)
    for small in (CLIPTextConfig(vocab_size=40), CLIPTextConfig(max_position_embeddings=2)):
        with pytest.raises(InputError, match="models/sd: gives 3 tokens up to 40, but the text encoder takes"):
            prompt_ids(small, "models/sd", ["x"])
