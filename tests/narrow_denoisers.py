"""The denoisers on narrow networks with random weights: what each predicts, its ablations included.

`tests.torch_denoisers` has the same cases in torch, under the same names. Nothing here needs torch.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from cassr_jax.diffusion.guidance import guide
from cassr_jax.models.controlnet import ControlNet
from cassr_jax.models.denoisers import BaseDenoiser, CasSRDenoiser, ControlNetDenoiser, Denoiser, SCEditDenoiser
from cassr_jax.models.multiple_attention import GuidanceSwitches, MultipleAttention
from cassr_jax.models.parameters import Params, abstract, merge, nest, select
from cassr_jax.models.scedit import CSCTuner, SCEditConfig
from cassr_jax.models.unet import UNet
from tests import narrow

CONFIG = narrow.SMALL
# As scepter's program can be: groups of 32 channels, three halvings of the hint.
SCEPTER_UNET = replace(CONFIG, block_out_channels=(32, 64), norm_num_groups=32)
SCEPTER_TUNER = SCEditConfig(hint_channels=(4, 8, 24, 16), ratio=0.75, control_scale=0.8)
FACTORIES: dict[str, Callable[..., Any]] = {
    "unet": lambda rngs: UNet(CONFIG, rngs=rngs),
    "controlnet": lambda rngs: ControlNet(CONFIG, narrow.CONTROLNET, rngs=rngs),
    "multiple_attention": lambda rngs: MultipleAttention(CONFIG, rngs=rngs),
    "scedit": lambda rngs: CSCTuner(CONFIG, narrow.SCEDIT, rngs=rngs),
}
SEEDS = {name: seed for seed, name in enumerate(FACTORIES)}
GUIDANCE_SCALE = 2.5
WHOLE = GuidanceSwitches()
SWITCHES = {
    "whole": WHOLE,
    "no_reference_attention": GuidanceSwitches(reference_attention=False),
    "no_lr_attention": GuidanceSwitches(lr_attention=False),
    "no_attention": GuidanceSwitches(reference_attention=False, lr_attention=False),
    "no_residuals": GuidanceSwitches(residuals=False),
}
ABLATIONS = tuple(name for name in SWITCHES if name != "whole")
KINDS = {"base": 0, "scedit": 1, "controlnet": 1, "cassr": 2}  # how many images each reads


class Given(NamedTuple):
    """Two pictures; prompts are [negative, negative, positive, positive], all different."""

    latents: np.ndarray  # (2, 7, 5, 4)
    context: np.ndarray  # (4, 7, C)
    lq: np.ndarray  # (2, 28, 20, 3) in [-1, 1]
    reference: np.ndarray  # the same
    timestep: np.ndarray  # (1,): a sampler's, the same for all
    timesteps: np.ndarray  # (2,): training's, each picture's own

    def images(self, kind: str) -> tuple[np.ndarray, ...]:
        """What a denoiser of that kind reads."""
        return (self.lq, self.reference)[: KINDS[kind]]


def given() -> Given:
    one, other = (narrow.inputs(CONFIG.cross_attention_dim, seed) for seed in (0, 1))
    return Given(
        latents=one.latents,
        context=np.concatenate([one.context, other.context]),
        lq=2 * one.images - 1,
        reference=2 * other.images - 1,
        timestep=np.array([601], np.int32),
        timesteps=one.timesteps,
    )


def random_networks() -> Params:
    """All networks of `FACTORIES`, nothing in them zero."""
    params: Params = {}
    for name, factory in FACTORIES.items():
        params |= nest(name, narrow.random_params(abstract(factory)[1], SEEDS[name]))
    return params


def make_denoiser(kind: str, modules: Mapping[str, Any], switches: GuidanceSwitches = WHOLE) -> Denoiser:
    match kind:
        case "base":
            return BaseDenoiser(modules["unet"])
        case "scedit":
            return SCEditDenoiser(modules["unet"], modules["scedit"])
        case "controlnet":
            return ControlNetDenoiser(modules["unet"], modules["controlnet"])
        case "cassr":
            return CasSRDenoiser(modules["unet"], modules["controlnet"], modules["multiple_attention"], switches)
    raise ValueError(kind)


def predict(
    denoiser: Denoiser, latents: ArrayLike, timesteps: ArrayLike, context: ArrayLike, *images: ArrayLike
) -> jax.Array:
    """One prediction through every part of the denoisers' interface."""
    text, hints = denoiser.embed_text(jnp.asarray(context)), denoiser.embed_images(*map(jnp.asarray, images))
    return denoiser(jnp.asarray(latents), denoiser.embed_time(jnp.asarray(timesteps)), text, hints)


def outputs(denoiser: Denoiser, given: Given, *images: np.ndarray) -> dict[str, jax.Array]:
    """`sampling`: [negative, positive] at one timestep; `guided`: both as one; `training`: a timestep for each."""
    twice = jnp.concatenate([given.latents] * 2)
    sampling = predict(denoiser, twice, given.timestep, given.context, *images)
    return {
        "sampling": sampling,
        "guided": guide(sampling[:2], sampling[2:], GUIDANCE_SCALE),
        "training": predict(denoiser, given.latents, given.timesteps, given.context[1:3], *images),
    }


@cache
def run(kind: str, switches: str = "whole") -> dict[str, jax.Array]:
    graphdefs = {name: abstract(factory)[0] for name, factory in FACTORIES.items()}

    @jax.jit
    def compute(params: Params, given: Given) -> dict[str, jax.Array]:
        modules = {name: merge(graphdef, select(params, name)) for name, graphdef in graphdefs.items()}
        return outputs(make_denoiser(kind, modules, SWITCHES[switches]), given, *given.images(kind))

    return compute(random_networks(), given())


def scepter_inputs() -> narrow.Inputs:
    """`narrow.inputs` with images of eight pixels a latent, in [-1, 1]."""
    images = np.random.default_rng(2).uniform(-1, 1, (2, 56, 40, 3)).astype(np.float32)
    return narrow.inputs(SCEPTER_UNET.cross_attention_dim)._replace(images=images)


@cache
def run_as_scepter() -> dict[str, jax.Array]:
    """What `SCEditDenoiser` predicts, each picture at its own timestep; its `hint.<i>` and edited `skip.<i>`."""
    unet, unet_params = narrow.random_network(lambda rngs: UNet(SCEPTER_UNET, rngs=rngs), seed=0)
    tuner, tuner_params = narrow.random_network(lambda rngs: CSCTuner(SCEPTER_UNET, SCEPTER_TUNER, rngs=rngs), seed=1)

    @jax.jit
    def compute(unet_params: Params, tuner_params: Params, given: narrow.Inputs) -> dict[str, jax.Array]:
        denoiser = SCEditDenoiser(merge(unet, unet_params), merge(tuner, tuner_params))
        text, temb = denoiser.embed_text(given.context), denoiser.embed_time(given.timesteps)
        hints = denoiser.embed_images(given.images)
        skips = denoiser.tuner(denoiser.unet.encode(given.latents, temb, text)[1], hints)
        return {
            "prediction": denoiser(given.latents, temb, text, hints),
            **{f"hint.{i}": hint for i, hint in enumerate(hints)},
            **{f"skip.{i}": skip for i, skip in enumerate(skips)},
        }

    return compute(unet_params, tuner_params, scepter_inputs())
