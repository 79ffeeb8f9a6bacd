"""Prompts to what a text encoder takes."""

from collections.abc import Sequence

import numpy as np

from cassr_jax.errors import InputError
from cassr_jax.models.clip_text import CLIPTextConfig, LearnedContextConfig
from cassr_jax.weights.tokenizer import load_tokenizer, tokenize


def blank_ids(text_encoder: CLIPTextConfig | LearnedContextConfig, prompts: int) -> np.ndarray:
    """What `prompt_ids` gives for so many prompts, all zero: for programs that are counted and compiled, not run."""
    length = 1 if isinstance(text_encoder, LearnedContextConfig) else text_encoder.max_position_embeddings
    return np.zeros((prompts, length), np.int32)


def prompt_ids(
    text_encoder: CLIPTextConfig | LearnedContextConfig, tokenizer: str | None, prompts: Sequence[str], positive: str
) -> np.ndarray:
    """int32 (B, 77) tokens for CLIP, (B, 1) numbers of contexts for a learned context.

    A learned context knows one prompt, `positive`, which is context 1; every other prompt is context 0.
    `tokenizer` is a folder or a hub id, needed for CLIP alone.
    """
    if isinstance(text_encoder, LearnedContextConfig):
        return np.asarray([[int(prompt == positive)] for prompt in prompts], np.int32)
    if tokenizer is None:
        raise InputError("the text encoder is CLIP's, but the configuration names no tokenizer among its components")
    return tokenize(load_tokenizer(tokenizer), prompts)
