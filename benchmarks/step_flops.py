#!/usr/bin/env python
"""Count the FLOPs of one training example at full size, from shapes alone.

    python benchmarks/step_flops.py

The example is one of the stages `scedit` and `cassr`, with loss and gradient, whose target is encoded in the step. The
FLOPs are counted by hand, part by part, and in the traced program. `traced` leaves out the attention's scores that the
backward pass computes a second time to save memory; `again` includes them.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import jax
import jax.numpy as jnp

from cassr_jax.config import TrainConfig
from cassr_jax.config_files import read_config
from cassr_jax.diffusion.schedule import Schedule
from cassr_jax.models import dot_product
from cassr_jax.models.clip_text import CLIPTextConfig
from cassr_jax.models.unet import UNetConfig
from cassr_jax.models.vae import VAEConfig
from cassr_jax.networks import Networks
from cassr_jax.prompts import blank_ids
from cassr_jax.training.flops import Work, step_work, traced_flops
from cassr_jax.training.masking import partition
from cassr_jax.training.objectives import make_objective

IMAGE = jax.ShapeDtypeStruct((1, 512, 512, 3), jnp.uint8)
BATCHES = {"scedit": {"hr": IMAGE, "lq": IMAGE}, "cassr": {"hr": IMAGE, "lq": IMAGE, "reference": IMAGE}}


def main() -> None:
    jax.config.update("jax_platforms", "cpu")  # nothing is computed, so there is no need to wait for a device
    for stage, batch in BATCHES.items():
        config = read_config(Path(__file__).parents[1] / f"configs/sd15_{stage}.py")
        config = replace(config, schedule=Schedule())  # any: a schedule changes no count, and no weights are read here
        kinds = {"vae": VAEConfig(), "unet": UNetConfig(), "text_encoder": CLIPTextConfig(), **config.new}
        parts = step_work(config, kinds, latents=False)
        print(f"{stage}, GFLOP an example{'forward':>18}{'to inputs':>12}{'to weights':>12}{'in all':>12}")
        for name, work in (parts | {"by hand": sum(parts.values(), start=Work())}).items():
            row = (work.forward, work.inputs, work.weights, work.total)
            print(f"  {name:<30}" + "".join(f"{value / 1e9:12.1f}" for value in row))
        again = count(config, kinds, batch)
        with patch.multiple(dot_product, _LONGEST_WHOLE=1 << 30, _SHORTEST_BY_HEAD=1 << 30):
            traced = count(config, kinds, batch)
        print(f"  traced {traced / 1e9:.1f}, again {again / 1e9:.1f}", flush=True)


def count(config: TrainConfig, kinds: dict[str, Any], batch: dict[str, jax.ShapeDtypeStruct]) -> float:
    built = Networks()
    for kind, network in kinds.items():
        built = built.with_shapes(kind, network, config.dtype)
    shapes = {name: jax.ShapeDtypeStruct(value.shape, jnp.float32) for name, value in built.params.items()}
    trainable, frozen = partition(shapes, config.stage)
    objective = make_objective(config, built.graphdefs, blank_ids(kinds["text_encoder"], 2))

    def gradient(trainable, frozen, batch, keys):
        return jax.grad(lambda params: objective(frozen | params, batch, keys), has_aux=True)(trainable)

    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 1))
    return traced_flops(jax.make_jaxpr(gradient)(trainable, frozen, batch, keys).jaxpr)


if __name__ == "__main__":
    main()
