"""Other families of diffusion models, told by their configs, names and shapes, so that a refusal says what they are.

Everything here is a network that its own programs publish in the formats that are read, and that a cascade cannot use.
"""

import re
from collections.abc import Mapping
from typing import Protocol

from cassr_jax.errors import InputError
from cassr_jax.files import Json

SD15 = "Stable Diffusion 1.5"
_SD2, _XL, _SD3, _FLUX = "Stable Diffusion 2", "Stable Diffusion XL", "Stable Diffusion 3", "Flux"
_LATER = f"{_SD3} or {_FLUX}"

# Channels that a U-Net reads: its latents' 4, and what it sees beside them.
_READERS = {
    5: "Stable Diffusion's U-Net that paints from depth",
    7: "the U-Net of Stable Diffusion's four-fold upscaler",
    8: "an InstructPix2Pix U-Net",
    9: "a Stable Diffusion U-Net for inpainting",
}
_CLASSES = {  # the beginnings of class names of diffusers and transformers
    "SD3": _SD3,
    "StableDiffusion3": _SD3,
    "Flux": _FLUX,
    "StableDiffusionXL": _XL,
    "UNetMotion": "AnimateDiff",
    "AnimateDiff": "AnimateDiff",
    "UNetSpatioTemporal": "Stable Video Diffusion",
    "StableVideoDiffusion": "Stable Video Diffusion",
    "T5": _LATER,
}
_CONTEXTS = {1024: _SD2, 1280: _XL, 2048: _XL}  # widths of the text's embedding
_MARKS = {  # names of tensors that only one family has
    "unet": {
        r"(.*\.)?joint_blocks\.0\..*": _SD3,
        r"(.*\.)?transformer_blocks\.0\.attn\.add_q_proj\..*": _LATER,
        r"(.*\.)?(double_blocks|single_transformer_blocks)\.0\..*": _FLUX,
        r"(.*\.)?label_emb\.0\.0\.weight|add_embedding\.linear_1\.weight": _XL,
        r"(.*\.)?motion_modules\.0\..*": "AnimateDiff",
    },
    "text_encoder": {
        r"cond_stage_model\.model\..*": _SD2,
        r"conditioner\.embedders\..*": _XL,
        r"text_encoders\..*|.*\.SelfAttention\.relative_attention_bias\.weight": _LATER,
    },
}
_MARKS["controlnet"] = _MARKS["unet"]
_FIRST = re.compile(
    r"(model\.diffusion_model\.)?(input_blocks\.0\.0|conv_in)\.weight|model_ema\.\w+input_blocks00weight"
)
_CONTEXT = re.compile(r"(.*\.)?transformer_blocks\.0\.attn2\.to_k\.weight|model_ema\.\w+attn2to_kweight")
_TOKENS = re.compile(r"(.*\.)?embeddings\.token_embedding\.weight")
_LATENTS = re.compile(r"(first_stage_model\.)?decoder\.conv_in\.weight")


class _Shaped(Protocol):
    @property
    def shape(self) -> tuple[int, ...]: ...


def refuse_config(data: Json, where: str) -> None:
    """Refuse the config.json of a network of another family; `where` names the file.

    Raises:
        InputError: the class or the widths are another family's.
    """
    names = data.get("_class_name") or data.get("architectures") or ""
    for name in map(str, names) if isinstance(names, list) else [str(names)]:
        if family := _family_of_class(name):
            raise _refusal(where, f"a network of {family} ({name})")
    get = data.get
    if get("out_channels") == 4 and "cross_attention_dim" in data and (what := _look_up(_READERS, get("in_channels"))):
        raise _refusal(where, f"{what} (in_channels {get('in_channels')})")
    context, published = get("cross_attention_dim"), str(get("block_out_channels")).startswith("[320, 640, 1280")
    if published and (family := _look_up(_CONTEXTS, context)):
        raise _refusal(where, f"a network of {family} (cross_attention_dim {context})")
    if (size := (get("hidden_size"), get("num_hidden_layers"))) in ((1024, 23), (1024, 24), (1280, 32)):
        raise _refusal(where, f"the text encoder of {_look_up(_CONTEXTS, size[0])} (hidden_size {size[0]})")
    if get("latent_channels") == 16 and get("shift_factor") is not None:
        raise _refusal(where, f"the autoencoder of {_LATER} (latent_channels 16)")


def refuse_tensors(kind: str, tensors: Mapping[str, _Shaped], where: str) -> None:
    """Refuse a file without a config whose tensors are a network of another family.

    Args:
        kind: unet, controlnet, text_encoder or vae: the network that is wanted. What other networks the file holds does
            not matter. Any other kind has no family.

    Raises:
        InputError: the names or the shapes are another family's.
    """
    for pattern, family in _MARKS.get(kind, {}).items():
        if found := next(filter(re.compile(pattern).fullmatch, tensors), None):
            raise _refusal(where, f"a network of {family} (it has {found})")
    for name, tensor in tensors.items():
        width = tensor.shape[1] if len(tensor.shape) > 1 else 0
        if kind == "unet" and _FIRST.fullmatch(name) and width in _READERS:
            raise _refusal(where, f"{_READERS[width]} ({name} reads {width} channels)")
        if kind in ("unet", "controlnet") and _CONTEXT.fullmatch(name) and width in _CONTEXTS:
            raise _refusal(where, f"a network of {_CONTEXTS[width]} ({name} reads {width} channels)")
        if kind == "text_encoder" and _TOKENS.fullmatch(name) and width in _CONTEXTS:
            raise _refusal(where, f"the text encoder of {_CONTEXTS[width]} ({name} has {width} channels)")
        if kind == "vae" and _LATENTS.fullmatch(name) and width == 16:
            raise _refusal(where, f"the autoencoder of {_LATER} ({name} reads 16 channels)")


def refuse_pipeline(name: str, where: str) -> None:
    """Refuse a pipeline's folder that lacks a network; `name` is the class in its model_index.json.

    Raises:
        InputError: the class is not one of Stable Diffusion's own, which lack no network.
    """
    if family := _family_of_class(name):
        raise _refusal(where, f"a pipeline of {family} ({name})")
    if not name.startswith(("StableDiffusion", "FlaxStableDiffusion")):
        raise _refusal(where, f"a pipeline of another kind ({name})")


def _family_of_class(name: str) -> str | None:
    return next((family for start, family in _CLASSES.items() if name.startswith(start)), None)


def _look_up(names: Mapping[int, str], value: object) -> str | None:
    return names.get(value) if type(value) is int else None


def _refusal(where: str, what: str) -> InputError:
    return InputError(f"{where}: is {what}; expected one of {SD15}'s family")
