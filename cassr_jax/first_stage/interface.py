"""The interface of a first stage, and of the engine that runs its networks."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from cassr_jax.choices import ColorFix
from cassr_jax.models.denoisers import MakeDenoiser

# Whatever the engine works on: a first stage hands pictures to it, and computes nothing with them itself.
Pictures = Any


class Engine(Protocol):
    """Runs networks for a first stage.

    The cascade's engine works on a list of photographs of any sizes, (H, W, 3) each, and returns float32 pictures
    in [-1, 1]. The engine that prepares training pairs works on a batch of crops (B, H, W, 3) in [-1, 1], inside a
    traced function.
    """

    def diffuse(self, make_denoiser: MakeDenoiser, images: tuple[Pictures, ...]) -> Pictures:
        """Sample with a denoiser that reads `images`."""
        ...

    def enlarge(self, kind: str, lr: Pictures, lq: Pictures) -> Pictures:
        """Enlarge `lr` with the network `kind`. Returns pictures of the size of `lq`."""
        ...


@dataclass(frozen=True)
class FirstStage:
    """One way to make the reference.

    Attributes:
        name: the value of `activation` in a configuration, and of `--activation`.
        reference: (engine, lr, lq) -> the reference, of the size of `lq`, before its colour fix.
        networks: the kinds of network that it needs besides those of the second stage.
        holder: a cascade that has these networks, for the message about one that lacks them.
        trains: the kinds among them that the training stage of the same name trains; empty if there is none.
        make_denoiser: builds the denoiser that this training stage trains; None if there is no such stage.
        batch_name: the reference's name in a training batch of the second stage.
        color_fix: gives the reference the colours of the LQ image, unless a configuration chooses another fix.
        reference_weight: share of the reference in the result, 0 to 1, unless a configuration chooses another share.
    """

    name: str
    reference: Callable[[Engine, Pictures, Pictures], Pictures]
    networks: tuple[str, ...] = ()
    holder: str = ""
    trains: tuple[str, ...] = ()
    make_denoiser: MakeDenoiser | None = None
    batch_name: str = "reference"
    color_fix: ColorFix = "none"
    reference_weight: float = 0.0

    @property
    def diffuses(self) -> bool:
        """Whether it samples with Stable Diffusion, and so needs its networks, a prompt and noise."""
        return self.make_denoiser is not None


def diffusion_stage(name: str, network: str, holder: str, make_denoiser: MakeDenoiser) -> FirstStage:
    """A first stage made of Stable Diffusion and one trained `network`, which reads the LQ image."""

    def reference(engine: Engine, lr: Pictures, lq: Pictures) -> Pictures:
        del lr
        return engine.diffuse(make_denoiser, (lq,))

    return FirstStage(
        name,
        reference,
        networks=(network,),
        holder=holder,
        trains=(network,),
        make_denoiser=make_denoiser,
        color_fix="wavelet",
    )
