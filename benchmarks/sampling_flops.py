#!/usr/bin/env python
"""Count the FLOPs of one sampling step at Stable Diffusion 1.5's size, from shapes alone.

    python benchmarks/sampling_flops.py

The step is one call of the denoiser on a 512 px tile, with guidance unless a row says otherwise. `plain` embeds the
prompts, the timestep and the images anew in every step. `shared` embeds them once for the whole run, as this program
does. The rows below it are options; where steps differ, a row is their mean. Convolutions and matrix products are
counted in the traced functions.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from cassr_jax.commands.running import command
from cassr_jax.config import SamplingConfig
from cassr_jax.control.cassr import CONTROL_SCHEME
from cassr_jax.diffusion.schedule import Schedule
from cassr_jax.first_stage import first_stage
from cassr_jax.models.controlnet import ControlNetConfig
from cassr_jax.models.denoisers import ControlledDenoiser, Denoiser, MakeDenoiser
from cassr_jax.models.multiple_attention import GuidanceSwitches
from cassr_jax.models.parameters import Params
from cassr_jax.models.scedit import SCEditConfig
from cassr_jax.models.unet import UNetConfig
from cassr_jax.networks import Networks, merge_all
from cassr_jax.printing import say
from cassr_jax.sampling import Embeddings, Setting, embed, make_course, predict
from cassr_jax.training.flops import traced_flops
from cassr_jax.weights.configs import AttachedConfig

UNET = UNetConfig()
CONTROLNET = AttachedConfig(UNET, ControlNetConfig())
NETWORKS = {
    "unet": UNET,
    "scedit": AttachedConfig(UNET, SCEditConfig()),
    "controlnet": CONTROLNET,
    "activation_controlnet": CONTROLNET,
    "multiple_attention": UNET,
}
STAGES: dict[str, tuple[MakeDenoiser, int]] = {
    "first stage, SCEdit": (first_stage("scedit").make_denoiser, 1),
    "first stage, ControlNet": (first_stage("controlnet").make_denoiser, 1),
    "second stage": (partial(CONTROL_SCHEME.make_denoiser, switches=GuidanceSwitches()), 2),
}
IMAGE = jax.ShapeDtypeStruct((1, 512, 512, 3), jnp.float32)
PROMPTS = jax.ShapeDtypeStruct((2, 77, UNET.cross_attention_dim), jnp.float32)
LATENTS = jax.ShapeDtypeStruct((1, 64, 64, 4), jnp.float32)


@dataclass(frozen=True)
class Counter:
    """Counts 10^9 FLOPs of the parts of a step of one stage, as guidance needs them."""

    networks: Networks
    make: MakeDenoiser
    images: int
    sampling: SamplingConfig

    def plain(self) -> float:
        """A step that embeds everything itself, the images once for each half of guidance."""

        def run(denoiser: Denoiser, latents: jax.Array, prompts: jax.Array, *images: jax.Array) -> jax.Array:
            embeddings = self._embeddings(denoiser, prompts, steps=1)
            hints, _ = (denoiser.embed_images(*images) for _ in range(2))
            return self._predicted(denoiser, latents, embeddings, hints)

        return self._counted(run, LATENTS, PROMPTS, *self._pictures)

    def shared(self) -> float:
        """A step that takes embeddings made before the run."""
        return self._counted(self._predicted, LATENTS, *self._made_before())

    def control(self) -> float:
        """The part of such a step that is the ControlNet's; 0 without one."""
        embeddings, hints = self._made_before()

        def run(denoiser: Denoiser, latents: jax.Array, embeddings: Embeddings, hints: PyTree[jax.Array]) -> object:
            if not isinstance(denoiser, ControlledDenoiser):
                return latents
            temb = jax.tree.map(lambda table: table[:1], embeddings.temb)
            return denoiser.control(jnp.concatenate([latents] * 2), temb, embeddings.text, hints)

        return self._counted(run, LATENTS, embeddings, hints)

    @property
    def _pictures(self) -> list[jax.ShapeDtypeStruct]:
        return [IMAGE] * self.images

    def _embeddings(self, denoiser: Denoiser, prompts: jax.Array, steps: int) -> Embeddings:
        trajectory = make_course(Schedule(), self.sampling).trajectory
        some = jax.tree.map(lambda column: column[:steps], trajectory)
        return embed(denoiser, prompts, some, 1, Setting.of(self.sampling))

    def _predicted(
        self, denoiser: Denoiser, latents: jax.Array, embeddings: Embeddings, hints: PyTree[jax.Array]
    ) -> jax.Array:
        course, setting = make_course(Schedule(), self.sampling), Setting.of(self.sampling)
        return predict(denoiser, embeddings, latents, hints, jnp.int32(0), course, setting)[0]

    def _made_before(self) -> tuple[Embeddings, PyTree[jax.ShapeDtypeStruct]]:
        def run(params: Params, prompts: jax.Array, *images: jax.Array) -> tuple:
            denoiser = self.make(merge_all(self.networks.graphdefs, params))
            return self._embeddings(denoiser, prompts, self.sampling.num_steps), denoiser.embed_images(*images)

        return jax.eval_shape(run, self.networks.params, PROMPTS, *self._pictures)

    def _counted(self, run: Callable[..., object], *arguments: object) -> float:
        def with_params(params: Params, *arguments: object) -> object:
            return run(self.make(merge_all(self.networks.graphdefs, params)), *arguments)

        return traced_flops(jax.make_jaxpr(with_params)(self.networks.params, *arguments).jaxpr) / 1e9


@command("sampling_flops")
def main(argv: Sequence[str] | None = None) -> int:
    jax.config.update("jax_platforms", "cpu")  # nothing is computed, so there is no need to wait for a device
    networks, usual = Networks(), SamplingConfig()
    for kind, config in NETWORKS.items():
        networks = networks.with_shapes(kind, config, jnp.float32)
    for stage, (make, images) in STAGES.items():
        guided = Counter(networks, make, images, usual)
        plain, shared, control = guided.plain(), guided.shared(), guided.control()
        unguided = Counter(networks, make, images, replace(usual, guidance_scale=1.0)).shared()
        rows = {
            "plain": (plain, 50),
            "shared": (shared, 50),
            "shared, guided in 60 %": (0.6 * shared + 0.4 * unguided, 50),
        }
        if control:
            rows["shared, control kept for 2 steps"] = (shared - control / 2, 50)
        rows |= {"shared, not guided": (unguided, 50), "shared, fast": (shared, 20), "shared, draft": (shared, 8)}
        say(f"{stage}: GFLOP a step, steps, and the run as a share of the plain one")
        for name, (step, steps) in rows.items():
            say(f"  {name:<34}{step:>9,.0f}{steps:>5}{step * steps / (plain * 50):>8.3f}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
