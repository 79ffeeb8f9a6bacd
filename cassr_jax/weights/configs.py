"""Conversion between diffusers' and transformers' config.json and this program's configs.

Fields that name a width are read. Fields that would change the network are accepted only with the value that this
program builds. All others (sample sizes, versions, dropouts) are ignored.
"""

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cassr_jax.errors import InputError
from cassr_jax.files import Json, is_file, read_json
from cassr_jax.models.clip_text import CLIPTextConfig, LearnedContextConfig
from cassr_jax.models.controlnet import ControlNetConfig
from cassr_jax.models.discriminator import DiscriminatorConfig
from cassr_jax.models.fusion import FusionConfig
from cassr_jax.models.guided_decoder import GuidedDecoderConfig
from cassr_jax.models.pixel_attention import PixelAttentionConfig
from cassr_jax.models.rrdbnet import RRDBNetConfig
from cassr_jax.models.scedit import SCEditConfig
from cassr_jax.models.taesd import TAESDConfig
from cassr_jax.models.unet import UNetConfig
from cassr_jax.models.vae import VAEConfig
from cassr_jax.weights.families import refuse_config

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


@dataclass(frozen=True)
class AttachedConfig:
    """The config of a network that takes its widths from the U-Net to which it is attached."""

    unet: UNetConfig
    own: ControlNetConfig | SCEditConfig | PixelAttentionConfig


TextConfig = CLIPTextConfig | LearnedContextConfig
AnyFusionConfig = FusionConfig | GuidedDecoderConfig
AutoencoderConfig = VAEConfig | TAESDConfig
Config = (
    AutoencoderConfig | AnyFusionConfig | UNetConfig | TextConfig | AttachedConfig | RRDBNetConfig | DiscriminatorConfig
)

_VERSION = "0.39.0"  # the version of diffusers whose format is written

# Variants that diffusers has and this program lacks. The values are diffusers' defaults, so a field may be absent.
_ENCODER_FIXED: Json = {
    "act_fn": "silu",
    "addition_embed_type": None,
    "class_embed_type": None,
    "downsample_padding": 1,
    "encoder_hid_dim": None,
    "encoder_hid_dim_type": None,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "mid_block_scale_factor": 1,
    "mid_block_type": "UNetMidBlock2DCrossAttn",
    "norm_eps": 1e-5,
    "num_attention_heads": None,
    "num_class_embeds": None,
    "only_cross_attention": False,
    "projection_class_embeddings_input_dim": None,
    "resnet_time_scale_shift": "default",
    "transformer_layers_per_block": 1,
    "use_linear_projection": False,
}
_UNET_FIXED: Json = {
    **_ENCODER_FIXED,
    "attention_type": "default",
    "center_input_sample": False,
    "class_embeddings_concat": False,
    "conv_in_kernel": 3,
    "conv_out_kernel": 3,
    "cross_attention_norm": None,
    "dual_cross_attention": False,
    "mid_block_only_cross_attention": None,
    "resnet_out_scale_factor": 1.0,
    "resnet_skip_time_act": False,
    "reverse_transformer_layers_per_block": None,
    "time_cond_proj_dim": None,
    "time_embedding_act_fn": None,
    "time_embedding_dim": None,
    "time_embedding_type": "positional",
    "timestep_post_act": None,
}
_CONTROLNET_FIXED: Json = {
    **_ENCODER_FIXED,
    "controlnet_conditioning_channel_order": "rgb",
    "global_pool_conditions": False,
}
_VAE_FIXED: Json = {
    "act_fn": "silu",
    "latents_mean": None,
    "latents_std": None,
    "shift_factor": None,
    "use_post_quant_conv": True,
    "use_quant_conv": True,
}
# `latent_magnitude` and `latent_shift` are not here: they only say how latents are stored as 8-bit pictures.
_TAESD_FIXED: Json = {
    "act_fn": "relu",
    "scaling_factor": 1.0,
    "shift_factor": 0.0,
    "upsample_fn": "nearest",
    "upsampling_scaling_factor": 2,
}


@dataclass(frozen=True)
class ConfigFormat:
    """The config.json of one kind of network.

    Attributes:
        classes: the allowed values of `_class_name` or `architectures`; the first one is written.
        parse: makes a config from the fields.
        write: makes the fields of a config.
    """

    classes: tuple[str, ...]
    parse: Callable[["_Fields"], Config]
    write: Callable[[Any], Json]

    def read(self, path: Path) -> Config:
        """The config of a network from its config.json.

        Raises:
            InputError: the file is absent or damaged, lacks a width, or describes a network that this program lacks, of
                Stable Diffusion's family or another.
        """
        return self.read_fields(read_json(path), str(path))

    def read_fields(self, data: Json, where: str) -> Config:
        """The config of a network from the contents of its config.json; `where` names the file in messages."""
        refuse_config(data, where)
        names = _class_names(data)
        if names and not set(names) & set(self.classes):
            raise InputError(f"{where}: describes {', '.join(names)}, expected {self.classes[0]}")
        try:
            return self.parse(_Fields(data, where))
        except InputError:
            raise
        except ValueError as error:  # the configs' own checks of their widths
            raise InputError(f"{where}: {error}") from error

    def describes(self, path: Path) -> bool:
        """Whether a config.json exists and names this kind of network."""
        return is_file(path) and bool(set(_class_names(read_json(path))) & set(self.classes))


class _Fields:
    """The fields of one config.json, checked as they are taken."""

    def __init__(self, data: Json, what: str):
        self.data, self.what = data, what

    def fixed(self, values: Json) -> None:
        for name, value in values.items():
            found = _single(self.data.get(name, value))
            if found != value:
                raise InputError(f"{self.what}: {name} is {found!r}, expected {value!r}")

    def take(self, cls: type, **optional: object) -> Json:
        """Values for the fields of the dataclass `cls`; `optional` holds defaults for absent ones."""
        result = {}
        for field in dataclasses.fields(cls):
            if field.name not in self.data and field.name in optional:
                result[field.name] = optional[field.name]
                continue
            if field.name not in self.data:
                raise InputError(f"{self.what}: {field.name} is missing")
            result[field.name] = self._typed(field.name, self.data[field.name], field.default)
        return result

    def _typed(self, name: str, value: object, like: Any) -> object:
        if isinstance(like, tuple):
            if isinstance(value, list) and value and all(_is(entry, like[0]) for entry in value):
                return tuple(value)
            raise InputError(f"{self.what}: {name} is {value!r}, expected a list like {list(like)}")
        value = _single(value)
        if not _is(value, like):
            raise InputError(
                f"{self.what}: {name} is {value!r}, expected a value like {like!r}, the same for all blocks"
            )
        return type(like)(value)


def _is(value: object, like: object) -> bool:
    if isinstance(like, bool | str):
        return type(value) is type(like)
    if type(value) is float and isinstance(like, float):
        return 0 < value < math.inf
    return type(value) is int and 0 < value < 2**31


def _single(value: object) -> object:
    """The common value of a list with one entry for each block; any other value is returned unchanged."""
    if isinstance(value, list) and value and all(entry == value[0] for entry in value):
        return value[0]
    return value


def _read_vae(fields: _Fields) -> VAEConfig:
    fields.fixed(_VAE_FIXED)
    config = VAEConfig(
        **fields.take(VAEConfig, norm_num_groups=32, scaling_factor=0.18215, mid_block_add_attention=True)
    )
    for name, kind in (("down_block_types", "DownEncoderBlock2D"), ("up_block_types", "UpDecoderBlock2D")):
        expected = [kind] * len(config.block_out_channels)
        if (found := fields.data.get(name, expected)) != expected:
            raise InputError(f"{fields.what}: {name} is {found!r}, expected {expected}")
    return config


def _write_vae(config: VAEConfig) -> Json:
    n = len(config.block_out_channels)
    blocks = {"down_block_types": ["DownEncoderBlock2D"] * n, "up_block_types": ["UpDecoderBlock2D"] * n}
    return _head("AutoencoderKL") | _VAE_FIXED | blocks | _fields(config)


def _read_taesd(fields: _Fields) -> TAESDConfig:
    fields.fixed(_TAESD_FIXED)
    return TAESDConfig(**fields.take(TAESDConfig))


def _write_taesd(config: TAESDConfig) -> Json:
    return _head("AutoencoderTiny") | _TAESD_FIXED | _fields(config)


def _read_unet(fields: _Fields) -> UNetConfig:
    fields.fixed(_UNET_FIXED)
    return UNetConfig(**fields.take(UNetConfig, norm_num_groups=32))


def _write_unet(config: UNetConfig) -> Json:
    return _head("UNet2DConditionModel") | _UNET_FIXED | _fields(config)


def _read_controlnet(fields: _Fields) -> AttachedConfig:
    fields.fixed(_CONTROLNET_FIXED)
    own = ControlNetConfig(**fields.take(ControlNetConfig, conditioning_channels=3, return_rgbs=False, use_rrdb=False))
    mirrored = {"out_channels": fields.data.get("in_channels"), "up_block_types": ()}
    values = fields.take(UNetConfig, norm_num_groups=32, **mirrored)
    values["up_block_types"] = tuple(kind.replace("Down", "Up") for kind in reversed(values["down_block_types"]))
    return AttachedConfig(UNetConfig(**values), own)


def _write_controlnet(config: AttachedConfig) -> Json:
    widths = _fields(config.unet)
    del widths["out_channels"], widths["up_block_types"]  # a ControlNet ends with the middle block
    own = {name: value for name, value in _fields(config.own).items() if value is not False}  # PASD's alone
    return _head("ControlNetModel") | _CONTROLNET_FIXED | widths | own


def _read_scedit(fields: _Fields) -> AttachedConfig:
    return AttachedConfig(UNetConfig(**fields.take(UNetConfig)), SCEditConfig(**fields.take(SCEditConfig)))


def _write_scedit(config: AttachedConfig) -> Json:
    return {"_class_name": "CSCTuner"} | _fields(config.unet) | _fields(config.own)


def _read_multiple_attention(fields: _Fields) -> UNetConfig:
    return UNetConfig(**fields.take(UNetConfig))


def _write_multiple_attention(config: UNetConfig) -> Json:
    return {"_class_name": "MultipleAttention"} | _fields(config)


def _read_pixel_attention(fields: _Fields) -> AttachedConfig:
    """PASD's own files are those of its U-Net, and do not say which variant it is."""
    unet = UNetConfig(**fields.take(UNetConfig, norm_num_groups=32))
    return AttachedConfig(unet, PixelAttentionConfig(**fields.take(PixelAttentionConfig, light=False)))


def _write_pixel_attention(config: AttachedConfig) -> Json:
    return {"_class_name": "PixelAttention"} | _fields(config.unet) | _fields(config.own)


def _read_fusion(fields: _Fields) -> AnyFusionConfig:
    kind = GuidedDecoderConfig if fields.data.get("_class_name") == "GuidedDecoder" else FusionConfig
    return kind(**fields.take(kind))


def _write_fusion(config: AnyFusionConfig) -> Json:
    return {"_class_name": type(config).__name__.removesuffix("Config")} | _fields(config)


def _read_text_encoder(fields: _Fields) -> TextConfig:
    if fields.data.get("_class_name") == "LearnedContext":
        # Older files do not name the prompt; all of them were trained with the same one.
        return LearnedContextConfig(**fields.take(LearnedContextConfig, prompt=LearnedContextConfig.prompt))
    defaults = {"hidden_act": "quick_gelu", "layer_norm_eps": 1e-5}
    return CLIPTextConfig(**fields.take(CLIPTextConfig, **defaults))


def _write_text_encoder(config: TextConfig) -> Json:
    if isinstance(config, LearnedContextConfig):
        return {"_class_name": "LearnedContext"} | _fields(config)
    return {"architectures": ["CLIPTextModel"], "model_type": "clip_text_model"} | _fields(config)


VAE = ConfigFormat(("AutoencoderKL", "FlaxAutoencoderKL"), _read_vae, _write_vae)
TAESD = ConfigFormat(("AutoencoderTiny",), _read_taesd, _write_taesd)
UNET = ConfigFormat(("UNet2DConditionModel", "FlaxUNet2DConditionModel"), _read_unet, _write_unet)
TEXT_ENCODER = ConfigFormat(
    ("CLIPTextModel", "CLIPTextModelWithProjection", "FlaxCLIPTextModel", "LearnedContext"),
    _read_text_encoder,
    _write_text_encoder,
)
CONTROLNET = ConfigFormat(("ControlNetModel", "FlaxControlNetModel"), _read_controlnet, _write_controlnet)
SCEDIT = ConfigFormat(("CSCTuner",), _read_scedit, _write_scedit)
MULTIPLE_ATTENTION = ConfigFormat(("MultipleAttention",), _read_multiple_attention, _write_multiple_attention)
PIXEL_ATTENTION = ConfigFormat(
    ("PixelAttention", "UNet2DConditionModel"), _read_pixel_attention, _write_pixel_attention
)
FUSION = ConfigFormat(("Fusion", "GuidedDecoder"), _read_fusion, _write_fusion)


def _class_names(data: Json) -> list[str]:
    names = data.get("_class_name") or data.get("architectures") or []
    return [str(name) for name in names] if isinstance(names, list) else [str(names)]


def _head(name: str) -> Json:
    return {"_class_name": name, "_diffusers_version": _VERSION}


def _fields(config: "DataclassInstance") -> Json:
    return {name: list(v) if isinstance(v, tuple) else v for name, v in dataclasses.asdict(config).items()}
