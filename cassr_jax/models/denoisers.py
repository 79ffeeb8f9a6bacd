"""The networks of a stage put together: what a sampler or a training step calls.

All denoisers share one interface, in three parts by how often each has to run:

    condition = denoiser.condition(encoder_hidden_states, *images)   # once for an image: text, hints
    temb = denoiser.embed_time(timesteps)                            # once for all steps
    prediction = denoiser(latents, temb, condition)                  # every step

`encoder_hidden_states` (N, L, C) and `latents` (N, h, w, 4) may hold a multiple of the images (B, H, W, 3) in [-1, 1]:
with classifier-free guidance N = 2B, negative prompts first, and what comes from the images is computed for B.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from cassr_jax.models.controlnet import ControlNet
from cassr_jax.models.multiple_attention import GuidanceSwitches, MultipleAttention
from cassr_jax.models.scedit import CSCTuner
from cassr_jax.models.unet import TextKeyValues, UNet


class Denoiser(Protocol):
    def condition(self, encoder_hidden_states: jax.Array, *images: jax.Array) -> Any: ...

    def embed_time(self, timesteps: jax.Array) -> Any: ...

    def __call__(self, latents: jax.Array, temb: Any, condition: Any) -> jax.Array: ...


@dataclass(frozen=True)
class BaseDenoiser:
    """The U-Net alone: Stable Diffusion."""

    unet: UNet

    def condition(self, encoder_hidden_states: jax.Array, *images: jax.Array) -> TextKeyValues:
        del images
        return self.unet.text_key_values(encoder_hidden_states)

    def embed_time(self, timesteps: jax.Array) -> jax.Array:
        return self.unet.embed_time(timesteps)

    def __call__(self, latents: jax.Array, temb: jax.Array, condition: TextKeyValues) -> jax.Array:
        h, skips = self.unet.encode(latents, temb, condition)
        return self.unet.decode(h, skips, temb, condition)


class SCEditCondition(NamedTuple):
    text: TextKeyValues
    hints: list[jax.Array]


@dataclass(frozen=True)
class SCEditDenoiser:
    """The U-Net with its skips edited by a CSC-Tuner that reads one image: CasSR's first stage."""

    unet: UNet
    tuner: CSCTuner

    def condition(self, encoder_hidden_states: jax.Array, *images: jax.Array) -> SCEditCondition:
        (image,) = images
        hints = [_repeat(hint, len(encoder_hidden_states)) for hint in self.tuner.hints(_unit_range(image))]
        return SCEditCondition(self.unet.text_key_values(encoder_hidden_states), hints)

    def embed_time(self, timesteps: jax.Array) -> jax.Array:
        return self.unet.embed_time(timesteps)

    def __call__(self, latents: jax.Array, temb: jax.Array, condition: SCEditCondition) -> jax.Array:
        h, skips = self.unet.encode(latents, temb, condition.text)
        return self.unet.decode(h, self.tuner(skips, condition.hints), temb, condition.text)


class ControlCondition(NamedTuple):
    text: TextKeyValues  # of the U-Net
    control_text: TextKeyValues  # of the ControlNet
    hint: jax.Array


class ControlTemb(NamedTuple):
    unet: jax.Array
    control: jax.Array


@dataclass(frozen=True)
class ControlNetDenoiser:
    """The U-Net and a plain ControlNet that reads one image: the first stage of the paper's Table 2."""

    unet: UNet
    controlnet: ControlNet

    def condition(self, encoder_hidden_states: jax.Array, *images: jax.Array) -> ControlCondition:
        (image,) = images
        return ControlCondition(
            self.unet.text_key_values(encoder_hidden_states),
            self.controlnet.text_key_values(encoder_hidden_states),
            _repeat(self.controlnet.embed_hint(_unit_range(image)), len(encoder_hidden_states)),
        )

    def embed_time(self, timesteps: jax.Array) -> ControlTemb:
        return ControlTemb(self.unet.embed_time(timesteps), self.controlnet.embed_time(timesteps))

    def __call__(self, latents: jax.Array, temb: ControlTemb, condition: ControlCondition) -> jax.Array:
        control = self.controlnet(latents, temb.control, condition.control_text, condition.hint)
        h, skips = self.unet.encode(latents, temb.unet, condition.text)
        skips = [skip + residual for skip, residual in zip(skips, control.residuals, strict=True)]
        return self.unet.decode(h + control.middle, skips, temb.unet, condition.text)


@dataclass(frozen=True)
class CasSRDenoiser:
    """CasSR's second stage: one ControlNet reads the LR image and the reference, stacked along the batch; their
    features are attended to in the up blocks, their residuals added to the skips and the middle."""

    unet: UNet
    controlnet: ControlNet
    attention: MultipleAttention
    switches: GuidanceSwitches

    def condition(self, encoder_hidden_states: jax.Array, *images: jax.Array) -> ControlCondition:
        lq, reference = images
        hints = self.controlnet.embed_hint(_unit_range(jnp.concatenate([lq, reference])))
        twice = jnp.concatenate([encoder_hidden_states] * 2)
        return ControlCondition(
            self.unet.text_key_values(encoder_hidden_states),
            self.controlnet.text_key_values(twice),
            jnp.concatenate([_repeat(hint, len(encoder_hidden_states)) for hint in jnp.split(hints, 2)]),
        )

    def embed_time(self, timesteps: jax.Array) -> ControlTemb:
        return ControlTemb(self.unet.embed_time(timesteps), self.controlnet.embed_time(timesteps))

    def __call__(self, latents: jax.Array, temb: ControlTemb, condition: ControlCondition) -> jax.Array:
        twice = jnp.concatenate([latents] * 2)
        # One embedding for the whole batch broadcasts as it is.
        control_temb = temb.control if len(temb.control) == 1 else jnp.concatenate([temb.control] * 2)
        control = self.controlnet(twice, control_temb, condition.control_text, condition.hint)
        h, skips = self.unet.encode(latents, temb.unet, condition.text)
        if self.switches.residuals:
            h = h + _sum_of_both(control.middle)
            skips = [skip + _sum_of_both(r) for skip, r in zip(skips, control.residuals, strict=True)]
        guides = None
        if self.switches.attention:
            lr, reference = zip(*(jnp.split(feature, 2) for feature in control.features), strict=True)
            guides = self.attention.bind(lr, reference, self.switches)
        return self.unet.decode(h, skips, temb.unet, condition.text, guides)


def _unit_range(images: jax.Array) -> jax.Array:
    return (images + 1) / 2


def _repeat(x: jax.Array, batch: int) -> jax.Array:
    return jnp.concatenate([x] * (batch // len(x)))


def _sum_of_both(x: jax.Array) -> jax.Array:
    lr, reference = jnp.split(x, 2)
    return lr + reference
