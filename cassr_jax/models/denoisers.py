"""The networks of a stage put together: what a sampler or a training step calls.

All denoisers share one interface, in parts by how often each has to run:

    text = denoiser.embed_text(encoder_hidden_states)    # once: (N, L, C) -> keys and values
    hints = denoiser.embed_images(*images)               # once an image: (B, H, W, 3) in [-1, 1] each
    temb = denoiser.embed_time(timesteps)                # once for all steps: (S,), or (N,) in training
    prediction = denoiser(latents, temb, text, hints)    # every step: (N, h, w, 4)

N is B, or with classifier-free guidance 2B, negative prompts first; what comes from the images is computed for B.
A single time embedding, (1, C), serves a whole batch.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from cassr_jax.models.controlnet import ControlNet
from cassr_jax.models.multiple_attention import GuidanceSwitches, MultipleAttention
from cassr_jax.models.scedit import CSCTuner
from cassr_jax.models.unet import TextKeyValues, UNet


class Denoiser(Protocol):
    def embed_text(self, encoder_hidden_states: jax.Array) -> Any: ...

    @property
    def embed_images(self) -> Callable[..., Any]: ...

    def embed_time(self, timesteps: jax.Array) -> Any: ...

    def __call__(self, latents: jax.Array, temb: Any, text: Any, hints: Any) -> jax.Array: ...


class Pair(NamedTuple):
    """The same kind of thing for the U-Net and for the ControlNet beside it."""

    unet: Any
    control: Any


@dataclass(frozen=True)
class BaseDenoiser:
    """The U-Net alone: Stable Diffusion. Reads no image."""

    unet: UNet

    def embed_text(self, encoder_hidden_states: jax.Array) -> TextKeyValues:
        return self.unet.text_key_values(encoder_hidden_states)

    def embed_images(self) -> None:
        return None

    def embed_time(self, timesteps: jax.Array) -> jax.Array:
        return self.unet.embed_time(timesteps)

    def __call__(self, latents: jax.Array, temb: jax.Array, text: TextKeyValues, hints: None = None) -> jax.Array:
        del hints
        h, skips = self.unet.encode(latents, temb, text)
        return self.unet.decode(h, skips, temb, text)


@dataclass(frozen=True)
class SCEditDenoiser:
    """The U-Net with its skips edited by a CSC-Tuner that reads one image: CasSR's first stage."""

    unet: UNet
    tuner: CSCTuner

    def embed_text(self, encoder_hidden_states: jax.Array) -> TextKeyValues:
        return self.unet.text_key_values(encoder_hidden_states)

    def embed_images(self, image: jax.Array) -> list[jax.Array]:
        return self.tuner.hints(_unit_range(image))

    def embed_time(self, timesteps: jax.Array) -> jax.Array:
        return self.unet.embed_time(timesteps)

    def __call__(self, latents: jax.Array, temb: jax.Array, text: TextKeyValues, hints: list[jax.Array]) -> jax.Array:
        h, skips = self.unet.encode(latents, temb, text)
        skips = self.tuner(skips, [_repeat(hint, len(latents)) for hint in hints])
        return self.unet.decode(h, skips, temb, text)


@dataclass(frozen=True)
class ControlNetDenoiser:
    """The U-Net and a plain ControlNet that reads one image: the first stage of the paper's Table 2."""

    unet: UNet
    controlnet: ControlNet

    def embed_text(self, encoder_hidden_states: jax.Array) -> Pair:
        return Pair(*(net.text_key_values(encoder_hidden_states) for net in (self.unet, self.controlnet)))

    def embed_images(self, image: jax.Array) -> jax.Array:
        return self.controlnet.embed_hint(_unit_range(image))

    def embed_time(self, timesteps: jax.Array) -> Pair:
        return Pair(self.unet.embed_time(timesteps), self.controlnet.embed_time(timesteps))

    def __call__(self, latents: jax.Array, temb: Pair, text: Pair, hints: jax.Array) -> jax.Array:
        control = self.controlnet(latents, temb.control, text.control, _repeat(hints, len(latents)))
        h, skips = self.unet.encode(latents, temb.unet, text.unet)
        skips = [skip + residual for skip, residual in zip(skips, control.residuals, strict=True)]
        return self.unet.decode(h + control.middle, skips, temb.unet, text.unet)


@dataclass(frozen=True)
class CasSRDenoiser:
    """CasSR's second stage: one ControlNet reads the LR image and the reference in one batch; their
    features are attended to in the up blocks, their residuals added to the skips and the middle."""

    unet: UNet
    controlnet: ControlNet
    attention: MultipleAttention
    switches: GuidanceSwitches

    def embed_text(self, encoder_hidden_states: jax.Array) -> Pair:
        of_one = self.controlnet.text_key_values(encoder_hidden_states)
        return Pair(self.unet.text_key_values(encoder_hidden_states), jax.tree.map(_twice, of_one))

    def embed_images(self, lq: jax.Array, reference: jax.Array) -> tuple[jax.Array, jax.Array]:
        return _apart(self.controlnet.embed_hint(_unit_range(_together(lq, reference))))

    def embed_time(self, timesteps: jax.Array) -> Pair:
        return Pair(self.unet.embed_time(timesteps), self.controlnet.embed_time(timesteps))

    def __call__(self, latents: jax.Array, temb: Pair, text: Pair, hints: tuple[jax.Array, jax.Array]) -> jax.Array:
        control_temb = temb.control if len(temb.control) == 1 else _twice(temb.control)
        hint = _together(*(_repeat(h, len(latents)) for h in hints))
        control = self.controlnet(_twice(latents), control_temb, text.control, hint)
        h, skips = self.unet.encode(latents, temb.unet, text.unet)
        if self.switches.residuals:
            h = h + _sum_of_both(control.middle)
            skips = [skip + _sum_of_both(r) for skip, r in zip(skips, control.residuals, strict=True)]
        guides = None
        if self.switches.attention:
            lr, reference = zip(*map(_apart, control.features), strict=True)
            guides = self.attention.bind(lr, reference, self.switches)
        return self.unet.decode(h, skips, temb.unet, text.unet, guides)


def _unit_range(images: jax.Array) -> jax.Array:
    return (images + 1) / 2


def _repeat(x: jax.Array, batch: int) -> jax.Array:
    return x if len(x) == batch else jnp.concatenate([x] * (batch // len(x)))


# What belongs to the LR image and what to the reference stand side by side for every example. One after the other,
# the halves of a batch that is divided among devices would have to move between them.


def _together(lr: jax.Array, reference: jax.Array) -> jax.Array:
    """(B, ...) each -> (2 B, ...)."""
    return jnp.stack([lr, reference], axis=1).reshape(-1, *lr.shape[1:])


def _twice(x: jax.Array) -> jax.Array:
    return _together(x, x)


def _apart(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The inverse of `_together`."""
    pairs = x.reshape(-1, 2, *x.shape[1:])
    return pairs[:, 0], pairs[:, 1]


def _sum_of_both(x: jax.Array) -> jax.Array:
    lr, reference = _apart(x)
    return lr + reference
