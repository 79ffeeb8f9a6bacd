"""The kinds of network of a cascade: how each is built, and where it lies in a folder of diffusers' format."""

from collections.abc import Mapping
from dataclasses import dataclass

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from cassr_jax.models.clip_text import CLIPTextConfig, CLIPTextModel, LearnedContext, LearnedContextConfig
from cassr_jax.models.controlnet import ControlNet, ControlNetConfig
from cassr_jax.models.multiple_attention import MultipleAttention
from cassr_jax.models.parameters import Shapes, abstract_of
from cassr_jax.models.scedit import CSCTuner, SCEditConfig
from cassr_jax.models.unet import UNet, UNetConfig
from cassr_jax.models.vae import AutoencoderKL, VAEConfig
from cassr_jax.weights.configs import AttachedConfig, Config
from cassr_jax.weights.files import weight_names


@dataclass(frozen=True)
class Component:
    """`sd15` is the config assumed for a file that comes without one; `folders` are where it may lie, ours first."""

    sd15: Config
    folders: tuple[str, ...]
    stem: str = "diffusion_pytorch_model"
    old_stem: str = ""  # of torch.save's files, where it is another one
    flax_name: str = "diffusion_flax_model.msgpack"

    @property
    def folder(self) -> str:
        return self.folders[0]

    @property
    def file(self) -> str:
        """The file that is written."""
        return f"{self.stem}.safetensors"

    @property
    def files(self) -> list[list[str]]:
        """The files that are read, best first, as `weight_names` gives them."""
        return weight_names([self.stem, *filter(None, [self.old_stem])], self.flax_name)


COMPONENTS: Mapping[str, Component] = {
    "vae": Component(VAEConfig(), ("vae",)),
    "unet": Component(UNetConfig(), ("unet",)),
    "text_encoder": Component(CLIPTextConfig(), ("text_encoder",), "model", "pytorch_model", "flax_model.msgpack"),
    "controlnet": Component(AttachedConfig(UNetConfig(), ControlNetConfig()), ("controlnet",)),
    # The second is that of SCEdit's published archives, which have `pytorch_model.bin` in it.
    "scedit": Component(
        AttachedConfig(UNetConfig(), SCEditConfig()), ("scedit", "0_SwiftSCETuning"), old_stem="pytorch_model"
    ),
    "multiple_attention": Component(UNetConfig(), ("multiple_attention",)),
}


def build(kind: str, config: Config, *, dtype: DTypeLike = jnp.float32, rngs: nnx.Rngs) -> nnx.Module:
    """The network of a kind: `VAEConfig` for "vae", `UNetConfig` for "unet" and "multiple_attention", `CLIPTextConfig`
    or `LearnedContextConfig` for "text_encoder", `AttachedConfig` for "controlnet" and "scedit"."""
    match kind, config:
        case "vae", VAEConfig():
            return AutoencoderKL(config, dtype=dtype, rngs=rngs)
        case "unet", UNetConfig():
            return UNet(config, dtype=dtype, rngs=rngs)
        case "text_encoder", CLIPTextConfig():
            return CLIPTextModel(config, dtype=dtype, rngs=rngs)
        case "text_encoder", LearnedContextConfig():
            return LearnedContext(config, dtype=dtype, rngs=rngs)
        case "controlnet", AttachedConfig(unet, ControlNetConfig() as own):
            return ControlNet(unet, own, dtype=dtype, rngs=rngs)
        case "scedit", AttachedConfig(unet, SCEditConfig() as own):
            return CSCTuner(unet, own, dtype=dtype, rngs=rngs)
        case "multiple_attention", UNetConfig():
            return MultipleAttention(config, dtype=dtype, rngs=rngs)
    raise TypeError(f"{type(config).__name__} is not the config of a {kind}")


def component_shapes(kind: str, config: Config) -> Shapes:
    """Shapes of the parameters by name; nothing is computed."""
    return abstract_of(build, kind, config, dtype=jnp.dtype("float32"))[1]
