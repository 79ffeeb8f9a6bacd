"""The interface of a control scheme."""

from dataclasses import dataclass
from typing import Protocol

from cassr_jax.models.denoisers import Denoiser
from cassr_jax.models.multiple_attention import GuidanceSwitches
from cassr_jax.typing import Modules

PICTURES = ("lq", "reference")
"""What there is to read: the enlarged input and the first stage's picture."""


class MakeControlled(Protocol):
    """Builds a denoiser; the switches turn parts of it off for an ablation."""

    def __call__(self, modules: Modules, /, switches: GuidanceSwitches) -> Denoiser: ...


@dataclass(frozen=True)
class ControlScheme:
    """One way in which pictures control Stable Diffusion.

    Attributes:
        name: the value of `control` in a cascade's configuration, and the stage of training that trains its networks.
        networks: the kinds of network that it adds to Stable Diffusion; these are trained.
        reads: the pictures that its denoiser reads, some of `PICTURES`, in the denoiser's order.
        make_denoiser: builds the denoiser.
        method: whose method it is, for a model card; the end of "enlarges photographs by".
        paper: its number on arXiv.
        switchable: whether there is anything to switch off.
    """

    name: str
    networks: tuple[str, ...]
    reads: tuple[str, ...]
    make_denoiser: MakeControlled
    method: str
    paper: str
    switchable: bool = False
