"""Denoisers: the networks of one stage, combined for use by a sampler or a training step.

All denoisers share one interface, divided by how often each part has to run:

    text = denoiser.embed_text(encoder_hidden_states)    # once: (N, L, C) -> keys and values
    hints = denoiser.embed_images(*images)               # once an image: (B, H, W, 3) in [-1, 1] each
    temb = denoiser.embed_time(timesteps)                # once for all steps: (S,), or (N,) in training
    prediction = denoiser(latents, temb, text, hints)    # every step: (N, h, w, 4)

N is B, or 2B with classifier-free guidance, where the negative prompts come first. Values that depend on the images
alone are computed for B. A single time embedding, (1, C), serves a whole batch. A call may also state a `fidelity`, how
much the picture that controls the denoiser counts: from 0 to 1, which is as in training.

A denoiser with a ControlNet can be called in two parts, so that the features of one step serve the next ones as well:

    control = denoiser.control(latents, temb, text, hints)
    prediction = denoiser.predict(latents, temb, text, control, fidelity)
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from cassr_jax.models.attention import ImageGuide
from cassr_jax.models.controlnet import ControlNet, ControlNetOutput
from cassr_jax.models.multiple_attention import GuidanceSwitches, MultipleAttention
from cassr_jax.models.pixel_attention import PixelAttention
from cassr_jax.models.scedit import CSCTuner
from cassr_jax.models.unet import TextKeyValues, UNet
from cassr_jax.typing import (
    FeatureList,
    FeatureMap,
    Hint,
    Images,
    Latents,
    Modules,
    Scalar,
    TextEmbedding,
    TimeEmbedding,
    Timesteps,
)


@runtime_checkable
class Denoiser(Protocol):
    """The interface of all denoisers. The embeddings are trees of arrays, whose form depends on the denoiser."""

    def embed_text(self, encoder_hidden_states: TextEmbedding) -> PyTree[Array]: ...

    @property
    def embed_images(self) -> Callable[..., PyTree[Array]]: ...

    def embed_time(self, timesteps: Timesteps) -> PyTree[Array]: ...

    def __call__(
        self,
        latents: Latents,
        temb: PyTree[Array],
        text: PyTree[Array],
        hints: PyTree[Array],
        fidelity: float | Scalar = 1.0,
    ) -> Latents: ...


MakeDenoiser = Callable[[Modules], Denoiser]
"""Builds a stage's denoiser from its networks."""


@runtime_checkable
class ControlledDenoiser(Denoiser, Protocol):
    """A denoiser whose ControlNet can be called by itself. All arrays of its features are (N, ...) or (2N, ...)."""

    def control(
        self, latents: Latents, temb: PyTree[Array], text: PyTree[Array], hints: PyTree[Array]
    ) -> PyTree[Array]: ...

    def predict(
        self,
        latents: Latents,
        temb: PyTree[Array],
        text: PyTree[Array],
        control: PyTree[Array],
        fidelity: float | Scalar = 1.0,
    ) -> Latents: ...


class TextPair(NamedTuple):
    """Keys and values of the text for the U-Net and for the ControlNet beside it."""

    unet: TextKeyValues
    control: TextKeyValues


class TimePair(NamedTuple):
    """Time embeddings for the U-Net and for the ControlNet beside it."""

    unet: TimeEmbedding
    control: TimeEmbedding


@dataclass(frozen=True)
class BaseDenoiser:
    """The U-Net alone, which is Stable Diffusion. It reads no image."""

    unet: UNet

    def embed_text(self, encoder_hidden_states: TextEmbedding) -> TextKeyValues:
        return self.unet.text_key_values(encoder_hidden_states)

    def embed_images(self) -> None:
        return None

    def embed_time(self, timesteps: Timesteps) -> TimeEmbedding:
        return self.unet.embed_time(timesteps)

    def __call__(
        self,
        latents: Latents,
        temb: TimeEmbedding,
        text: TextKeyValues,
        hints: None = None,
        fidelity: float | Scalar = 1.0,
    ) -> Latents:
        del hints, fidelity
        h, skips = self.unet.encode(latents, temb, text)
        return self.unet.decode(h, skips, temb, text)


@dataclass(frozen=True)
class SCEditDenoiser:
    """The U-Net and a CSC-Tuner that reads one image and edits the skips: CasSR's first stage."""

    unet: UNet
    tuner: CSCTuner

    def embed_text(self, encoder_hidden_states: TextEmbedding) -> TextKeyValues:
        return self.unet.text_key_values(encoder_hidden_states)

    def embed_images(self, image: Images) -> list[Hint]:
        return self.tuner.hints(_unit_range(image))

    def embed_time(self, timesteps: Timesteps) -> TimeEmbedding:
        return self.unet.embed_time(timesteps)

    def __call__(
        self,
        latents: Latents,
        temb: TimeEmbedding,
        text: TextKeyValues,
        hints: list[Hint],
        fidelity: float | Scalar = 1.0,
    ) -> Latents:
        del fidelity
        h, skips = self.unet.encode(latents, temb, text)
        skips = self.tuner(skips, [_repeat(hint, len(latents)) for hint in hints])
        return self.unet.decode(h, skips, temb, text)


@dataclass(frozen=True)
class ControlNetDenoiser:
    """The U-Net and a plain ControlNet that reads one image, whose residuals are added to the skips and the middle."""

    unet: UNet
    controlnet: ControlNet

    def embed_text(self, encoder_hidden_states: TextEmbedding) -> TextPair:
        return TextPair(*(net.text_key_values(encoder_hidden_states) for net in (self.unet, self.controlnet)))

    def embed_images(self, image: Images) -> Hint:
        return self.controlnet.embed_hint(_unit_range(image))

    def embed_time(self, timesteps: Timesteps) -> TimePair:
        return TimePair(self.unet.embed_time(timesteps), self.controlnet.embed_time(timesteps))

    def __call__(
        self, latents: Latents, temb: TimePair, text: TextPair, hints: Hint, fidelity: float | Scalar = 1.0
    ) -> Latents:
        return self.predict(latents, temb, text, self.control(latents, temb, text, hints), fidelity)

    def control(self, latents: Latents, temb: TimePair, text: TextPair, hints: Hint) -> ControlNetOutput:
        return self.controlnet(latents, temb.control, text.control, _repeat(hints, len(latents)))

    def predict(
        self,
        latents: Latents,
        temb: TimePair,
        text: TextPair,
        control: ControlNetOutput,
        fidelity: float | Scalar = 1.0,
    ) -> Latents:
        h, skips = self.unet.encode(latents, temb.unet, text.unet)
        residuals, middle = _weighed(control, fidelity)
        skips = [skip + residual for skip, residual in zip(skips, residuals, strict=True)]
        return self.unet.decode(h + middle, skips, temb.unet, text.unet, self._guides(residuals))

    def _guides(self, residuals: FeatureList) -> Sequence[Sequence[ImageGuide]] | None:
        """What the up blocks attend to."""
        return None


@dataclass(frozen=True)
class PASDDenoiser(ControlNetDenoiser):
    """The same whose up blocks also attend to the residuals: PASD (arXiv 2308.14469).

    `fidelity` is its `conditioning_scale`.
    """

    attention: PixelAttention

    def _guides(self, residuals: FeatureList) -> Sequence[Sequence[ImageGuide]]:
        return self.attention.bind(residuals)


@dataclass(frozen=True)
class CasSRDenoiser:
    """CasSR's second stage: one ControlNet reads the LQ image and the reference in one batch. The up blocks
    attend to its features, and its residuals are added to the skips and the middle."""

    unet: UNet
    controlnet: ControlNet
    attention: MultipleAttention
    switches: GuidanceSwitches

    def embed_text(self, encoder_hidden_states: TextEmbedding) -> TextPair:
        text = self.controlnet.text_key_values(encoder_hidden_states)
        return TextPair(self.unet.text_key_values(encoder_hidden_states), jax.tree.map(_duplicate, text))

    def embed_images(self, lq: Images, reference: Images) -> tuple[Hint, Hint]:
        return _split_pairs(self.controlnet.embed_hint(_unit_range(_interleave(lq, reference))))

    def embed_time(self, timesteps: Timesteps) -> TimePair:
        return TimePair(self.unet.embed_time(timesteps), self.controlnet.embed_time(timesteps))

    def __call__(
        self,
        latents: Latents,
        temb: TimePair,
        text: TextPair,
        hints: tuple[Hint, Hint],
        fidelity: float | Scalar = 1.0,
    ) -> Latents:
        return self.predict(latents, temb, text, self.control(latents, temb, text, hints), fidelity)

    def control(self, latents: Latents, temb: TimePair, text: TextPair, hints: tuple[Hint, Hint]) -> ControlNetOutput:
        control_temb = temb.control if len(temb.control) == 1 else _duplicate(temb.control)
        hint = _interleave(*(_repeat(h, len(latents)) for h in hints))
        return self.controlnet(_duplicate(latents), control_temb, text.control, hint)

    def predict(
        self,
        latents: Latents,
        temb: TimePair,
        text: TextPair,
        control: ControlNetOutput,
        fidelity: float | Scalar = 1.0,
    ) -> Latents:
        h, skips = self.unet.encode(latents, temb.unet, text.unet)
        if self.switches.residuals:
            h = h + _sum_pairs(control.middle)
            skips = [skip + _sum_pairs(r) for skip, r in zip(skips, control.residuals, strict=True)]
        guides = None
        if self.switches.attention:
            lq, reference = zip(*map(_split_pairs, control.features), strict=True)
            guides = self.attention.bind(lq, reference, self.switches, fidelity)
        return self.unet.decode(h, skips, temb.unet, text.unet, guides)


def _unit_range(images: Images) -> Images:
    """Images mapped from [-1, 1] to [0, 1], the range that the hint networks expect."""
    return (images + 1) / 2


def _weighed(control: ControlNetOutput, weight: float | Scalar) -> tuple[FeatureList, FeatureMap]:
    """The residuals and the middle, multiplied by a weight."""
    weight = jnp.asarray(weight, control.middle.dtype)
    return [weight * residual for residual in control.residuals], weight * control.middle


def _repeat(x: Hint, batch: int) -> Float[Array, "{batch} _ _ _"]:
    return x if len(x) == batch else jnp.concatenate([x] * (batch // len(x)))


Examples = Float[Array, "batch *rest"]
Paired = Float[Array, "2*batch *rest"]
Pairs = Float[Array, "pairs *rest"]
Parted = Float[Array, "pairs//2 *rest"]

# The two images of an example lie next to each other in the ControlNet's batch. With all LQ images first and all
# references after them, a batch divided among devices would have to be moved between the devices.


def _interleave(lq: Examples, reference: Examples) -> Paired:
    return jnp.stack([lq, reference], axis=1).reshape(-1, *lq.shape[1:])


def _duplicate(x: Examples) -> Paired:
    return _interleave(x, x)


def _split_pairs(x: Pairs) -> tuple[Parted, Parted]:
    """The inverse of `_interleave`."""
    pairs = x.reshape(-1, 2, *x.shape[1:])
    return pairs[:, 0], pairs[:, 1]


def _sum_pairs(x: Pairs) -> Parted:
    lq, reference = _split_pairs(x)
    return lq + reference
