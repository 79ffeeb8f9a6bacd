#!/usr/bin/env python
"""FLOPs of one training example at full size, from shapes alone: loss and gradient, before XLA's optimisation.

    python benchmarks/step_flops.py

Of the stages `scedit`, where the target is encoded in the step, and `cassr`, on prepared pairs with latents.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from cassr_jax.config_files import read_config
from cassr_jax.models.clip_text import CLIPTextConfig
from cassr_jax.models.unet import UNetConfig
from cassr_jax.models.vae import VAEConfig
from cassr_jax.networks import Networks
from cassr_jax.training.masking import partition
from cassr_jax.training.objectives import make_objective

IMAGE = jax.ShapeDtypeStruct((1, 512, 512, 3), jnp.uint8)
LATENTS = jax.ShapeDtypeStruct((1, 64, 64, 4), jnp.float16)
BATCHES = {
    "scedit": {"hr": IMAGE, "lq": IMAGE},
    "cassr": {"latents": LATENTS, "lq": IMAGE, "reference": IMAGE},
}


def main() -> None:
    jax.config.update("jax_platforms", "cpu")  # nothing runs; a device would only be waited for
    for stage, batch in BATCHES.items():
        print(f"{stage:8} {count(stage, batch) / 1e12:.2f} TFLOP an example")


def count(stage: str, batch: dict[str, jax.ShapeDtypeStruct]) -> float:
    config = read_config(Path(__file__).parents[1] / f"configs/sd15_{stage}.py")
    kinds = {"vae": VAEConfig(), "unet": UNetConfig(), "text_encoder": CLIPTextConfig(), **config.new}
    built = Networks()

    def draw() -> dict[str, jax.Array]:
        nonlocal built
        built = Networks()
        for kind, network in kinds.items():
            built = built.with_new(kind, network, config.dtype, jax.random.key(0))
        return dict(built.params)

    trainable, frozen = partition(jax.eval_shape(draw), config.stage)
    objective = make_objective(config, built.graphdefs, np.zeros((2, 77), np.int32))

    def gradient(trainable, frozen, batch, keys):
        return jax.grad(lambda params: objective(frozen | params, batch, keys), has_aux=True)(trainable)

    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 1))
    return jax.jit(gradient).lower(trainable, frozen, batch, keys).cost_analysis()["flops"]


if __name__ == "__main__":
    main()
