"""Checks that the networks of a cascade fit each other: one must produce the widths that another reads."""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from cassr_jax.errors import InputError
from cassr_jax.models.controlnet import ControlNetConfig
from cassr_jax.models.guided_decoder import GuidedDecoderConfig
from cassr_jax.models.pixel_attention import PixelAttentionConfig
from cassr_jax.typing import Configs
from cassr_jax.weights.configs import AttachedConfig

_IMAGE_CHANNELS = 3


class _Pair(NamedTuple):
    """Two values, one from each of two networks, that have to be equal."""

    kinds: tuple[str, str]
    names: tuple[str, str]  # the values' names in config.json
    values: tuple[object, object]


def check_fitting(configs: Configs, sources: Mapping[str, str]) -> None:
    """Compare every network with those it runs beside.

    Args:
        configs: kind -> the network's configuration; absent kinds are not compared.
        sources: kind -> where the network comes from, for messages; absent kinds are new.

    Raises:
        InputError: two networks do not fit, or one reads or makes pictures that are not RGB; the message names the
            networks and the values.
    """
    for pair in _pairs(configs):
        if pair.values[0] != pair.values[1]:
            first, second = (
                f"the {kind} ({sources.get(kind, 'new')}) has {name} {value}"
                for kind, name, value in zip(*pair, strict=True)
            )
            raise InputError(f"{first}, but {second}: expected the same of networks that work together")
    for kind, name, value in _image_channels(configs):
        if value != _IMAGE_CHANNELS:
            raise InputError(
                f"the {kind} ({sources.get(kind, 'new')}) has {name} {value}, expected {_IMAGE_CHANNELS}: pictures are "
                "RGB"
            )


def _pairs(configs: Configs) -> Iterator[_Pair]:
    vae, unet, text = (configs.get(kind) for kind in ("vae", "unet", "text_encoder"))
    if unet and vae:
        for name in ("in_channels", "out_channels"):
            yield _Pair(("unet", "vae"), (name, "latent_channels"), (getattr(unet, name), vae.latent_channels))
    if vae and (taesd := configs.get("taesd")):
        for name in ("latent_channels", "factor"):
            yield _Pair(("taesd", "vae"), (name, name), (getattr(taesd, name), getattr(vae, name)))
    if unet and text:
        widths = (unet.cross_attention_dim, text.hidden_size)
        yield _Pair(("unet", "text_encoder"), ("cross_attention_dim", "hidden_size"), widths)
    for kind, config in configs.items():
        if not isinstance(config, AttachedConfig):
            continue
        if unet:
            for name in config.own.SHARED:
                yield _Pair((kind, "unet"), (name, name), (getattr(config.unet, name), getattr(unet, name)))
        if vae and not isinstance(config.own, PixelAttentionConfig):
            name = "downsampling factor"
            yield _Pair((kind, "vae"), (name, name), (config.own.factor, vae.factor))
    if unet and (attention := configs.get("multiple_attention")):
        for name in ("block_out_channels", "layers_per_block", "up_block_types"):
            values = getattr(attention, name), getattr(unet, name)
            yield _Pair(("multiple_attention", "unet"), (name, name), values)
    if vae and (fusion := configs.get("fusion")):
        guided = isinstance(fusion, GuidedDecoderConfig)
        for name in ("latent_channels", "factor") if guided else ("block_out_channels",):
            yield _Pair(("fusion", "vae"), (name, name), (getattr(fusion, name), getattr(vae, name)))


def _image_channels(configs: Configs) -> Iterator[tuple[str, str, int]]:
    for kind in ("vae", "taesd"):
        if autoencoder := configs.get(kind):
            yield kind, "in_channels", autoencoder.in_channels
            yield kind, "out_channels", autoencoder.out_channels
    for kind, config in configs.items():
        if isinstance(config, AttachedConfig) and isinstance(config.own, ControlNetConfig):
            yield kind, "conditioning_channels", config.own.conditioning_channels
