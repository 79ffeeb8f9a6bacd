"""PASD's networks with random weights: one prediction, and a whole run of its sampler.

`tests.golden.make_pasd` has the same cases in PASD's own classes, under the same names. Nothing here needs torch.
"""

import re
from collections.abc import Iterator
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cassr_jax.config import SamplingConfig
from cassr_jax.diffusion.schedule import Schedule
from cassr_jax.diffusion.trajectory import begin, start_latents, take_step
from cassr_jax.models.controlnet import ControlNet, ControlNetConfig
from cassr_jax.models.denoisers import PASDDenoiser
from cassr_jax.models.parameters import Params, abstract, merge, nest, select
from cassr_jax.models.pixel_attention import PixelAttention, PixelAttentionConfig
from cassr_jax.models.unet import UNet, UNetConfig
from cassr_jax.sampling import Setting, embed, make_course, predict
from tests import narrow

# Its program takes the deepest skips to be as wide as their layers, and lacks attention there, as in SD-1.5.
UNET = UNetConfig(
    down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
    up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    block_out_channels=(16, 32, 32),
    layers_per_block=1,
    attention_head_dim=4,
    cross_attention_dim=12,
    norm_num_groups=8,
)
HINT = (8, 12, 20)


class Case(NamedTuple):
    """A published variant: the attention's, whether the ControlNet has the small RRDB, and the widths."""

    light: bool
    rrdb: bool
    unet: UNetConfig = UNET
    hint: tuple[int, ...] = HINT


CASES = {
    "pasd": Case(light=False, rrdb=False),
    "pasd_rrdb": Case(light=False, rrdb=True),
    "pasd_light": Case(light=True, rrdb=False),
    "pasd_light_rrdb": Case(light=True, rrdb=True),
}
FULL = {
    "full": Case(False, True, UNetConfig(), (16, 32, 96, 256)),
    "full_light": Case(True, True, UNetConfig(), (16, 32, 96, 256)),
}
SAMPLED = "pasd"  # the case whose whole run is compared
SCALE = 0.7  # of what the ControlNet adds
SAMPLING = SamplingConfig(sampler="unipc", num_steps=20, guidance_scale=9.0, added_noise_level=900)
SCHEDULE = Schedule(timestep_spacing="linspace")


class Given(NamedTuple):
    """Two pictures; prompts are [negative, negative, positive, positive], all different."""

    latents: np.ndarray  # (2, 16, 12, 4): of the pictures, for the sampler; as they are, for one prediction
    noises: np.ndarray  # (2, 2, 16, 12, 4): of the first timestep, and of the added noise level
    timesteps: np.ndarray  # (2,)
    context: np.ndarray  # (4, 7, C)
    images: np.ndarray  # (2, 64, 48, 3) in [0, 1], or twice as large


def case_of(name: str) -> Case:
    return (CASES | FULL)[name]


def given(name: str = SAMPLED) -> Given:
    case, rng = case_of(name), np.random.default_rng(0)
    factor = 2 ** (len(case.hint) - 1)
    return Given(
        latents=rng.normal(size=(2, 16, 12, 4)).astype(np.float32),
        noises=rng.normal(size=(2, 2, 16, 12, 4)).astype(np.float32),
        timesteps=np.array([7, 801], np.int32),
        context=rng.normal(size=(4, 7, case.unet.cross_attention_dim)).astype(np.float32),
        images=rng.uniform(size=(2, 16 * factor, 12 * factor, 3)).astype(np.float32),
    )


def factories(name: str) -> dict[str, Any]:
    case = case_of(name)
    own = ControlNetConfig(conditioning_embedding_out_channels=case.hint, return_rgbs=True, use_rrdb=case.rrdb)
    return {
        "unet": lambda rngs: UNet(case.unet, rngs=rngs),
        "controlnet": lambda rngs: ControlNet(case.unet, own, rngs=rngs),
        "pixel_attention": lambda rngs: PixelAttention(case.unet, PixelAttentionConfig(case.light), rngs=rngs),
    }


SEEDS = {"unet": 0, "pixel_attention": 0, "controlnet": 1}  # the first two are one network there
# Times these random weights. Of large residuals, rounding would decide to which is attended; and a random network that
# answers strongly makes a run of guided steps chaotic.
SMALLER = {re.compile(r"controlnet_(down_blocks\.\d+|mid_block)\."): 0.1, re.compile(r"conv_out\."): 0.01}


def smaller(name: str) -> float:
    """What the random weights of that name are multiplied by."""
    return next((factor for pattern, factor in SMALLER.items() if pattern.match(name)), 1.0)


def networks(case: str) -> tuple[dict[str, Any], Params]:
    """The definitions of the networks, and their random weights."""
    graphdefs, params = {}, {}
    for name, factory in factories(case).items():
        graphdefs[name], shapes = abstract(factory)
        found = narrow.random_params(shapes, SEEDS[name])
        params |= nest(name, {path: smaller(path) * x for path, x in found.items()})
    return graphdefs, params


def denoiser(graphdefs: dict[str, Any], params: Params) -> PASDDenoiser:
    modules = {name: merge(graphdef, select(params, name)) for name, graphdef in graphdefs.items()}
    return PASDDenoiser(modules["unet"], modules["controlnet"], modules["pixel_attention"])


@cache
def run(case: str) -> dict[str, jax.Array]:
    """`prediction`, of two pictures at their own timesteps, and `rgb.<i>`, what the hint network's heads give."""
    graphdefs, params = networks(case)

    @jax.jit
    def compute(params: Params, given: Given) -> dict[str, jax.Array]:
        net = denoiser(graphdefs, params)
        hints, text = net.embed_images(2 * given.images - 1), net.embed_text(given.context[1:3])
        made = net(given.latents, net.embed_time(given.timesteps), text, hints, jnp.float32(SCALE))
        rgbs = net.controlnet.embed_rgbs(given.images)
        return {"prediction": made} | {f"rgb.{i}": rgb for i, rgb in enumerate(rgbs)}

    return compute(params, given(case))


def trajectory() -> Iterator[np.ndarray]:
    """The latents (2, 16, 12, 4) before the first step and after each of the sampler's steps, with guidance."""
    graphdefs, params = networks(SAMPLED)
    course, setting, own = make_course(SCHEDULE, SAMPLING), Setting.of(SAMPLING), given()
    first, last = SCHEDULE.alphas_cumprod[[int(course.trajectory.timesteps[0]), 900]]
    # Both noises as one, which is what this program draws.
    mixed = np.sqrt(last * (1 - first)) * own.noises[0] + np.sqrt(1 - last) * own.noises[1]
    carry = begin(
        start_latents(course.trajectory, jnp.asarray(own.latents), jnp.asarray(mixed / course.trajectory.noise[0]))
    )
    prompts = own.context[[0, 2]]  # both pictures have the same prompts
    yield np.asarray(carry.latents)

    @jax.jit
    def step(params: Params, carry: Any, i: jax.Array) -> Any:
        net = denoiser(graphdefs, params)
        hints = net.embed_images(jnp.asarray(2 * own.images - 1))
        embeddings = embed(net, jnp.asarray(prompts), course.trajectory, 2, setting)
        output, _ = predict(net, embeddings, carry.latents, hints, i, course, setting)
        return take_step(setting.sampler, course.trajectory, carry, output, i)

    for i in range(SAMPLING.num_steps):
        carry = step(params, carry, jnp.int32(i))
        yield np.asarray(carry.latents)
