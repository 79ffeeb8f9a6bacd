"""The kinds of network in a cascade or its training: one table, one entry for each kind."""

import re
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import ArrayLike, DTypeLike

from cassr_jax.errors import InputError
from cassr_jax.models.clip_text import CLIPTextConfig, CLIPTextModel, LearnedContext, LearnedContextConfig
from cassr_jax.models.controlnet import ControlNet, ControlNetConfig
from cassr_jax.models.discriminator import Discriminator, DiscriminatorConfig
from cassr_jax.models.fusion import Fusion, FusionConfig
from cassr_jax.models.guided_decoder import GuidedDecoder, GuidedDecoderConfig
from cassr_jax.models.multiple_attention import MultipleAttention
from cassr_jax.models.parameters import Params, Shapes, abstract_of, initialise
from cassr_jax.models.pixel_attention import PixelAttention, PixelAttentionConfig
from cassr_jax.models.rrdbnet import RRDBNet, RRDBNetConfig
from cassr_jax.models.scedit import CSCTuner, SCEditConfig
from cassr_jax.models.taesd import AutoencoderTiny, TAESDConfig
from cassr_jax.models.unet import UNet, UNetConfig
from cassr_jax.models.vae import AutoencoderKL, VAEConfig
from cassr_jax.weights import configs, layouts, taesd
from cassr_jax.weights.configs import AttachedConfig, Config
from cassr_jax.weights.hub import Part
from cassr_jax.weights.published import Published, check_scaling_factor
from cassr_jax.weights.rrdbnet import RRDBNetFiles
from cassr_jax.weights.tensors import Weights


@dataclass(frozen=True)
class Kind:
    """Everything that distinguishes one kind of network.

    Attributes:
        name: its name in `components` and `new`, and the beginning of its parameters' names.
        makers: class of the config -> the function that builds the network from it. The config of a network attached to
            a U-Net is an `AttachedConfig`: its own part is looked up here, and the function takes both parts.
        files: how it is read and written; None if it is never stored in a file.
        bundled: whether a bundle gets it in this program's format; otherwise it gets the files of its source.
        copies_encoder: whether a new network starts with the weights of the U-Net's encoder.
    """

    name: str
    makers: Mapping[type, Callable[..., nnx.Module]]
    files: Published | RRDBNetFiles | None
    bundled: bool = True
    copies_encoder: bool = False

    def abstract(self, config: Config, dtype: DTypeLike = jnp.float32) -> tuple[nnx.GraphDef, Shapes]:
        """The network's definition and its parameters' shapes by name; nothing is computed."""
        return abstract_of(*self._maker(config), dtype=jnp.dtype(dtype))

    def shapes(self, config: Config) -> Shapes:
        return self.abstract(config)[1]

    def draw(self, config: Config, dtype: DTypeLike, key: jax.Array) -> tuple[nnx.GraphDef, Params]:
        """The network's definition and freshly drawn parameters."""
        make, *args = self._maker(config)
        return initialise(lambda rngs: make(*args, dtype=jnp.dtype(dtype), rngs=rngs), key)

    def open(self, source: str | Path) -> Weights:
        """The weights in a folder, a file or a hub id; see `Published.open` and `RRDBNetFiles.open`.

        Raises:
            InputError: the source holds no network of this kind.
        """
        return self._files(source).open(source, self.shapes)

    def part(self, source: str) -> Part | None:
        """What is to be fetched from the hub; None if the network lies on this disk.

        Raises:
            InputError: it is neither on this disk nor a hub id.
        """
        return self._files(source).part(source)

    def configuration(self, source: str | Path) -> Config:
        """The config of the network in a source, read without its weights where possible."""
        return self._files(source).configuration(source)

    def write(
        self, folder: Path | str, config: Config, params: Mapping[str, ArrayLike], dtype: DTypeLike | None = None
    ) -> None:
        """Write a folder that `open` can read; floats are cast to `dtype` if it is given."""
        if self.files is None:
            raise TypeError(f"a {self.name} is not written")
        self.files.write(folder, config, self.shapes(config), params, dtype)

    def _files(self, source: str | Path) -> Published | RRDBNetFiles:
        if self.files is None:
            raise InputError(f"{source}: a {self.name} cannot be read from a file, expected one among `new`")
        return self.files

    def _maker(self, config: Config) -> tuple[Callable[..., nnx.Module], *tuple[Hashable, ...]]:
        """The function that makes the network, and its arguments besides `dtype` and `rngs`."""
        parts = (config.unet, config.own) if isinstance(config, AttachedConfig) else (config,)
        make = self.makers.get(type(parts[-1]))
        if make is None:
            expected = " or ".join(cls.__name__ for cls in self.makers)
            raise InputError(f"{self.name}: its config is of class {type(parts[-1]).__name__}, expected {expected}")
        return make, *parts


_PIXEL_ATTENTION = r"up_blocks\.\d+\.(pixel_attentions\.|.*\.(proj_in|norm2|attn2)_plus\.).*"

UNET_FILES = Published(
    UNetConfig(),
    configs.UNET,
    ("unet",),
    layouts.unet_layout,
    # The third and fourth mark the schedule of its training; the others are PASD's, of its kind `pixel_attention`.
    harmless=re.compile(rf"decay|num_updates|v_pred|ztsnr|{_PIXEL_ATTENTION}"),
    projections=True,
    scheduled=True,
)
_CONTROLNET = Published(
    AttachedConfig(UNetConfig(), ControlNetConfig()),
    configs.CONTROLNET,
    ("controlnet",),
    layouts.controlnet_layout,
    projections=True,
    completed=layouts.with_hint_additions,
)

KINDS: Mapping[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind(
            "vae",
            {VAEConfig: AutoencoderKL},
            Published(
                VAEConfig(),
                configs.VAE,
                ("vae",),
                layouts.vae_layout,
                harmless=re.compile(r"(loss|model_ema)\..*"),  # of its training: the discriminator, and averages
                check_assumption=check_scaling_factor,
            ),
        ),
        Kind("unet", {UNetConfig: UNet}, UNET_FILES),
        Kind(
            "text_encoder",
            {CLIPTextConfig: CLIPTextModel, LearnedContextConfig: LearnedContext},
            Published(
                CLIPTextConfig(),
                configs.TEXT_ENCODER,
                ("text_encoder",),
                layouts.text_encoder_layout,
                harmless=re.compile(r"(text_model\.)?embeddings\.position_ids|logit_scale|text_projection\.weight"),
                stem="model",
                old_stem="pytorch_model",
                flax_name="flax_model.msgpack",
            ),
        ),
        Kind("controlnet", {ControlNetConfig: ControlNet}, _CONTROLNET, copies_encoder=True),
        Kind(
            "activation_controlnet",
            {ControlNetConfig: ControlNet},
            replace(_CONTROLNET, folders=("activation_controlnet", "controlnet")),
            copies_encoder=True,
        ),
        Kind(
            "scedit",
            {SCEditConfig: CSCTuner},
            Published(
                AttachedConfig(UNetConfig(), SCEditConfig()),
                configs.SCEDIT,
                ("scedit", "0_SwiftSCETuning"),  # the second as in SCEdit's published archives
                layouts.scedit_layout,
                old_stem="pytorch_model",
            ),
        ),
        Kind(
            "multiple_attention",
            {UNetConfig: MultipleAttention},
            Published(UNetConfig(), configs.MULTIPLE_ATTENTION, ("multiple_attention",)),
        ),
        Kind(
            "pixel_attention",
            {PixelAttentionConfig: PixelAttention},
            Published(
                AttachedConfig(UNetConfig(), PixelAttentionConfig()),
                configs.PIXEL_ATTENTION,
                ("pixel_attention", "unet"),  # the second as PASD publishes it, within its U-Net
                harmless=re.compile(rf"(?!{_PIXEL_ATTENTION}).*"),
                projections=True,
                completed=layouts.with_variant,
            ),
        ),
        Kind(
            "fusion",
            {FusionConfig: Fusion, GuidedDecoderConfig: GuidedDecoder},
            Published(FusionConfig(), configs.FUSION, ("fusion",)),
        ),
        Kind(
            "taesd",
            {TAESDConfig: AutoencoderTiny},
            Published(
                TAESDConfig(),
                configs.TAESD,
                ("taesd",),
                taesd.taesd_layout,
                originals=taesd.FILES,
                read=taesd.read_halves,
            ),
        ),
        Kind("rrdbnet", {RRDBNetConfig: RRDBNet}, RRDBNetFiles(), bundled=False),
        Kind("discriminator", {DiscriminatorConfig: Discriminator}, None),
    )
}

# Every class of network config, by its name in JSON.
CONFIGS: Mapping[str, type] = {
    cls.__name__: cls for cls in (AttachedConfig, *(cls for kind in KINDS.values() for cls in kind.makers))
}


def holds_pixel_attention(names: Iterable[str]) -> bool:
    """Whether the tensors of a U-Net with these names include PASD's attention."""
    return any(re.fullmatch(_PIXEL_ATTENTION, name) for name in names)


def kind_of(name: str) -> Kind:
    """The entry of a kind.

    Raises:
        InputError: there is no such kind.
    """
    if name not in KINDS:
        raise InputError(f"{name!r} is not a kind of network, expected one of {', '.join(KINDS)}")
    return KINDS[name]
