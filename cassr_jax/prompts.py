"""Prompts as the numbers that a text encoder takes."""

from collections.abc import Sequence

import numpy as np

from cassr_jax.errors import InputError
from cassr_jax.models.clip_text import LearnedContextConfig
from cassr_jax.weights.configs import TextConfig
from cassr_jax.weights.tokenizer import load_tokenizer, tokenize


def blank_ids(text_encoder: TextConfig, prompts: int) -> np.ndarray:
    """Zeros in the shape that `prompt_ids` gives for so many prompts, for programs that are compiled but not run."""
    length = 1 if isinstance(text_encoder, LearnedContextConfig) else text_encoder.max_position_embeddings
    return np.zeros((prompts, length), np.int32)


def prompt_ids(text_encoder: TextConfig, tokenizer: str | None, prompts: Sequence[str]) -> np.ndarray:
    """The prompts as int32: tokens (B, 77) for CLIP, numbers of contexts (B, 1) for a learned context.

    Args:
        tokenizer: a folder or a hub id; only CLIP needs it.

    Raises:
        InputError: a learned context does not know a prompt, or CLIP's tokenizer is missing or another network's.
    """
    check_prompts(text_encoder, prompts)
    if isinstance(text_encoder, LearnedContextConfig):
        return np.asarray([[text_encoder.prompts.index(prompt)] for prompt in prompts], np.int32)
    if tokenizer is None:
        raise InputError("the text encoder is CLIP's, but the configuration names no tokenizer among its components")
    ids = tokenize(load_tokenizer(tokenizer), prompts)
    if ids.max() >= text_encoder.vocab_size or ids.shape[1] > text_encoder.max_position_embeddings:
        raise InputError(
            f"{tokenizer}: gives {ids.shape[1]} tokens up to {ids.max()}, but the text encoder takes "
            f"{text_encoder.max_position_embeddings} of a vocabulary of {text_encoder.vocab_size}; expected its own "
            "tokenizer"
        )
    return ids


def check_prompts(text_encoder: TextConfig, prompts: Sequence[str]) -> None:
    """Checks that the text encoder can take the prompts.

    Raises:
        InputError: a learned context does not know one of the prompts, or one holds half of a surrogate pair, as JSON
            can spell it; CLIP takes any other.
    """
    for prompt in prompts:
        try:
            prompt.encode()
        except UnicodeEncodeError as error:
            raise InputError(f"a prompt is {prompt!r}, expected whole characters ({error.reason})") from error
        if isinstance(text_encoder, LearnedContextConfig) and prompt not in text_encoder.prompts:
            known = " or ".join(map(repr, text_encoder.prompts))
            raise InputError(f"a prompt is {prompt!r}, expected {known}: the text encoder has learned no other")


def usual_negative_prompt(text_encoder: object, usual: str) -> str:
    """The default negative prompt: `usual` for CLIP, the empty one for a learned context, which knows no other."""
    return "" if isinstance(text_encoder, LearnedContextConfig) else usual
