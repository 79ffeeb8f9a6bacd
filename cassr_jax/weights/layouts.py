"""The layouts in which a network's weights are published, recognised by the names in the file.

A layout gives each parameter's name in the file. The known ones are diffusers' and transformers' own names, the older
names of the autoencoder's attention (query, key, value, proj_attn), Flax's, SCEdit's, and the names of original single
files (`model.diffusion_model.`, `first_stage_model.`, `cond_stage_model.transformer.`, `control_model.`).
"""

import logging
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace

import jax.numpy as jnp
import numpy as np

from cassr_jax.errors import InputError
from cassr_jax.models.controlnet import ControlNetConfig
from cassr_jax.models.parameters import Shapes
from cassr_jax.models.pixel_attention import PixelAttentionConfig
from cassr_jax.weights.configs import AttachedConfig
from cassr_jax.weights.convert import check_tensors, to_flax, torch_name, torch_shapes
from cassr_jax.weights.files import Tensors
from cassr_jax.weights.original import controlnet_names, ema_name, unet_names, vae_names
from cassr_jax.weights.tensors import Shape, type_name

logger = logging.getLogger(__name__)

_NEW_TO_OLD = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
_OLD_ATTENTION = re.compile(r"\.attentions[._]\d+\.(query|key|value|proj_attn)\.\w+$")
_NEW_ATTENTION = re.compile(r"\.attentions[._]\d+\.(to_q|to_k|to_v|to_out[._]0)\.\w+$")
_VAE_HINT = (
    "an autoencoder cannot be left at random: give another one, as a folder with config.json "
    "(the `vae` folder of a Stable Diffusion 1.5 checkpoint) or as a file of its own"
)

# Keys by which programs mark that the tensors beside them are not plain weights.
_PARTS_OF_CONTROLNETS = {
    "difference": "a ControlNet's difference from its Stable Diffusion",
    "lora_controlnet": "a ControlNet's low-rank difference from its Stable Diffusion",
}
_OTHER_UNETS = {
    "edm_mean": "a U-Net on EDM's noise",
    "edm_vpred.sigma_max": "a U-Net on EDM's noise",
    "scaled_fp8": "weights in 8 bit, to be multiplied by scales",
}


@dataclass(frozen=True)
class Layout:
    """The names of parameters in a file, `prefix` + `names[parameter]`, and its axes, Flax's or torch's."""

    names: Mapping[str, str]
    prefix: str = ""
    flax: bool = False
    hint: str = field(default="", compare=False)

    def __getitem__(self, parameter: str) -> str:
        return self.prefix + self.names[parameter]

    def convert(self, parameter: str, array: np.ndarray, ndim: int) -> np.ndarray:
        """The file's array as a view with the parameter's axes."""
        if not self.flax:
            return to_flax(parameter, array, ndim)
        if array.ndim == ndim:
            return array
        return array[0, 0] if array.ndim > ndim else array[None, None]


# Finds the layout of a file, given the names in it, the shapes of the parameters, and the file's name in messages.
Detect = Callable[[set[str], Shapes, str], Layout]


def match(
    detect: Detect,
    tensors: Tensors,
    shapes: Shapes,
    source: str,
    *,
    harmless: re.Pattern[str] | None = None,
    hint: str = "",
) -> Layout:
    """The layout of a file, whose tensors are checked to be those of the network.

    Args:
        harmless: matches, after the prefix, the names of tensors that published files hold beside the parameters and
            that may be ignored.

    Raises:
        InputError: parameters are missing, wrongly shaped or not floating-point, or the file holds further
            floating-point tensors; the message lists all by their names in the file, after the hint.
    """
    layout = detect(set(tensors), shapes, source)
    expected = {layout[name]: _file_shapes(layout, name, shape.shape) for name, shape in shapes.items()}
    wanted = {name: tensor for name, tensor in tensors.items() if name in expected}
    if wrong := [f"{name} ({type_name(tensor)})" for name, tensor in wanted.items() if not is_float(tensor.dtype)]:
        raise InputError(f"{source}: holds {', '.join(wrong)}, expected floating-point weights")
    # Integers, such as counters, are not weights; further floats mean that it is another network.
    others = {
        name: tensor
        for name, tensor in tensors.items()
        if name not in expected
        and name.startswith(layout.prefix)
        and is_float(tensor.dtype)
        and not (harmless is not None and harmless.fullmatch(name.removeprefix(layout.prefix)))
    }
    hints = "; ".join(filter(None, (layout.hint, hint)))
    found = {name: tensor.shape for name, tensor in (wanted | others).items()}
    check_tensors(found, expected, source=source, hint=hints)
    return layout


def is_float(dtype: np.dtype) -> bool:
    return bool(jnp.issubdtype(dtype, jnp.floating))


def plain_layout(names: set[str], shapes: Shapes, source: str) -> Layout:
    """The names of the modules here, as this program writes them."""
    return Layout(_published(shapes))


def _published(shapes: Shapes) -> dict[str, str]:
    return {name: torch_name(name) for name in shapes}


def _renamed(shapes: Shapes, names: Mapping[str, str]) -> dict[str, str]:
    return {name: names[torch_name(name)] for name in shapes}


def _is_flax(names: set[str]) -> bool:
    return any(name.endswith(".kernel") for name in names)


def _flax(published: Mapping[str, str]) -> Layout:
    """The layout of diffusers' Flax files, which number modules with an underscore (`down_blocks_0`)."""
    return Layout({name: re.sub(r"\.(\d+)(?=\.)", r"_\1", theirs) for name, theirs in published.items()}, flax=True)


def vae_layout(names: set[str], shapes: Shapes, source: str) -> Layout:
    if _is_flax(names):
        return _flax(_attention_names({name: name for name in shapes}, names, source))
    for prefix in ("first_stage_model.", ""):
        if any(name.startswith((f"{prefix}encoder.mid.", f"{prefix}decoder.mid.")) for name in names):
            return Layout(_renamed(shapes, vae_names(_published(shapes).values())), prefix, hint=_VAE_HINT)
    if any(name.startswith(("model.diffusion_model.", "cond_stage_model.")) for name in names):
        raise InputError(f"{source}: it has no autoencoder (no `first_stage_model.*`); {_VAE_HINT}")
    return Layout(_attention_names(_published(shapes), names, source), hint=_VAE_HINT)


def _attention_names(published: Mapping[str, str], names: set[str], source: str) -> dict[str, str]:
    """The names with the attention's older ones if the file has those; no program mixes the two."""
    old = sorted(name for name in names if _OLD_ATTENTION.search(name))
    new = sorted(name for name in names if _NEW_ATTENTION.search(name))
    if old and new:
        raise InputError(
            f"{source}: its attentions mix new names ({', '.join(new)}) with old ones ({', '.join(old)}); "
            "expected to_q, to_k, to_v, to_out.0 throughout, or query, key, value, proj_attn"
        )
    if not old:
        return dict(published)

    def rename(name: str) -> str:
        return re.sub(r"(?<=\.)(to_q|to_k|to_v|to_out\.0)(?=\.\w+$)", lambda part: _NEW_TO_OLD[part[0]], name)

    return {name: rename(theirs) for name, theirs in published.items()}


def unet_layout(names: set[str], shapes: Shapes, source: str) -> Layout:
    """The layout of a U-Net; if a file holds both the plain weights and their moving average, the plain ones."""
    _refuse_marked(names, source, "model.diffusion_model.", _OTHER_UNETS)
    if _is_flax(names):
        return _flax({name: name for name in shapes})
    averaged = any(name.startswith("model_ema.diffusion_model") for name in names)
    for prefix in ("model.diffusion_model.", ""):
        if any(name.startswith(f"{prefix}input_blocks.") for name in names):
            if averaged:
                logger.warning("%s: it holds two U-Nets; the plain weights are taken, not the EMA ones", source)
            return Layout(_renamed(shapes, unet_names(_published(shapes).values())), prefix)
    if averaged:
        original = _renamed(shapes, unet_names(_published(shapes).values()))
        return Layout({name: ema_name(theirs) for name, theirs in original.items()}, "model_ema.")
    return Layout(_published(shapes))


def controlnet_layout(names: set[str], shapes: Shapes, source: str) -> Layout:
    _refuse_marked(names, source, "control_model.", _PARTS_OF_CONTROLNETS)
    if _is_flax(names):
        return _flax({name: name for name in shapes})
    for prefix in ("control_model.", ""):
        if any(name.startswith(f"{prefix}input_blocks.") for name in names):
            return Layout(_renamed(shapes, controlnet_names(_published(shapes).values())), prefix)
    return Layout(_published(shapes))


def with_hint_additions(config: AttachedConfig, names: Collection[str]) -> AttachedConfig:
    """A ControlNet's config with PASD's additions to its hint network, if a file's names have them."""
    assert isinstance(config.own, ControlNetConfig), "it is a ControlNet's"
    hint = "controlnet_cond_embedding."
    own = replace(
        config.own,
        return_rgbs=any(name.startswith(f"{hint}to_rgbs.") for name in names),
        use_rrdb=any(name.startswith(f"{hint}preprocesser.") for name in names),
    )
    return replace(config, own=own)


def with_variant(config: AttachedConfig, names: Collection[str]) -> AttachedConfig:
    """The config of a PASD's attention of the variant that a file's names have."""
    return replace(config, own=PixelAttentionConfig(light=any("attn2_plus" in name for name in names)))


def _refuse_marked(names: set[str], source: str, prefix: str, marks: Mapping[str, str]) -> None:
    """Refuses marked files.

    Raises:
        InputError: a key marks the tensors as something other than plain weights.
    """
    for mark, meaning in marks.items():
        if {mark, prefix + mark} & names:
            raise InputError(f"{source}: its key {mark!r} marks {meaning}, expected the weights themselves")


def text_encoder_layout(names: set[str], shapes: Shapes, source: str) -> Layout:
    if _is_flax(names):  # transformers' Flax files number modules with a dot (`layers.0`)
        return Layout({name: name for name in shapes}, flax=True)
    prefix = "cond_stage_model.transformer."
    # transformers 5 and some programs before it leave out the name of the outermost module.
    bare = {name: theirs.removeprefix("text_model.") for name, theirs in _published(shapes).items()}
    for start in (prefix, ""):
        if any(name.startswith((f"{start}embeddings.", f"{start}encoder.layers.")) for name in names):
            return Layout(bare, start)
    if any(name.startswith(prefix) for name in names):
        return Layout(_published(shapes), prefix)
    if any(name.startswith("model.diffusion_model.") for name in names):
        raise InputError(
            f"{source}: it has no text encoder of Stable Diffusion 1.5 (no `{prefix}*`); give another one, "
            "as a folder with config.json (the `text_encoder` folder of a Stable Diffusion 1.5 checkpoint)"
        )
    return Layout(_published(shapes))


def scedit_layout(names: set[str], shapes: Shapes, source: str) -> Layout:
    """The layout of SCEdit's tuners, which scepter saves as the first of a list, in some versions inside a `model`."""
    prefixes = ("model.0.", "0.", "model.")
    prefix = next((prefix for prefix in prefixes if any(name.startswith(f"{prefix}lsc_") for name in names)), "")
    return Layout(_published(shapes), prefix)


def _file_shapes(layout: Layout, name: str, shape: Shape) -> tuple[Shape, ...]:
    if not layout.flax:
        return torch_shapes(name, shape)
    if not name.endswith(".kernel"):
        return (shape,)
    return (shape, (1, 1, *shape)) if len(shape) == 2 else (shape, shape[2:]) if shape[:2] == (1, 1) else (shape,)
