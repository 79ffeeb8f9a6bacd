"""The training step of configs/sd15_cassr.py."""

from dataclasses import replace

import jax
import numpy as np

from benchmarks.on_gpu.sizes import sizes, with_random
from benchmarks.on_gpu.timing import Figures, compiled, peak_bytes, rates, timed
from cassr_jax.config import Remat
from cassr_jax.models.clip_text import CLIPTextConfig
from cassr_jax.networks import Networks
from cassr_jax.prompts import blank_ids
from cassr_jax.sharding.placement import Placement
from cassr_jax.training.flops import step_work
from cassr_jax.training.masking import partition
from cassr_jax.training.objectives import make_objective
from cassr_jax.training.state import make_optimizer, new_state
from cassr_jax.training.step import make_step


def step(narrow: bool, batch: int, remat: Remat) -> Figures:
    """A step on `batch` examples, whose targets it encodes, on one device. Its utilisation counts no repeated work."""
    given = sizes(narrow)
    config = replace(given.train, batch_size=batch, remat=remat)
    kinds = {kind: given.kinds[kind] for kind in ("vae", "unet", "text_encoder", *config.new)}
    if not narrow:
        kinds["text_encoder"] = CLIPTextConfig()
    networks = Networks()
    for kind, network in kinds.items():
        weights = "float32" if kind in config.new else config.frozen_dtype
        networks = with_random(networks, kind, network, config.dtype, weights)

    placement = Placement.of(config.strategy, jax.devices()[:1])
    trainable, frozen = map(placement.place, partition(networks.params, config.stage))
    optimizer = make_optimizer(config.optimizer, config.num_steps)
    state = new_state(trainable, optimizer, placement)
    objective = make_objective(config, networks.graphdefs, blank_ids(kinds["text_encoder"], 2))
    jitted = make_step(objective, optimizer, config, placement, state, frozen)
    rng, shape = np.random.default_rng(0), (batch, *[config.data.crop_size] * 2, 3)
    examples = placement.place_batch(
        {name: rng.integers(0, 256, shape, np.uint8) for name in ("hr", "lq", "reference")}
    )
    del networks, trainable
    run, figures = compiled(jitted, state, frozen, examples)

    def update() -> dict[str, jax.Array]:
        nonlocal state
        state, metrics = run(state, frozen, examples)
        return metrics

    timing = timed(update, given.runs)
    work = sum(part.total for part in step_work(config, kinds, latents=False).values())
    loss = float(update()["loss"])
    made = rates(timing, batch, batch * work, jax.devices()[0].device_kind)
    return {"times": {"step": timing | figures}, **made, "peak_bytes": peak_bytes(), "loss": loss}
