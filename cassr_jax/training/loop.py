"""The training loop: save, next batch, step."""

import json
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from tqdm import tqdm

from cassr_jax.config import TrainConfig
from cassr_jax.data.pipeline import batches
from cassr_jax.errors import InputError
from cassr_jax.evaluation.weights import lpips_weights
from cassr_jax.models.parameters import Params, abstract, initialise, nest, select
from cassr_jax.prompts import prompt_ids
from cassr_jax.training.checkpoint import Checkpoints
from cassr_jax.training.masking import TRAINABLE, partition
from cassr_jax.training.objectives import make_objective
from cassr_jax.training.state import TrainState, make_optimizer
from cassr_jax.training.step import make_step
from cassr_jax.weights import components

_READ_FROM_BATCH = ("record",)  # bookkeeping that the step has no use for


def build(config: TrainConfig) -> tuple[dict[str, nnx.GraphDef], dict[str, Any], Params]:
    """Definitions, network configurations and parameters (`component.path`) of everything the stage uses."""
    graphdefs, configs, params = {}, {}, {}
    for kind, source in config.components.items():
        if kind == "tokenizer":
            continue
        configs[kind], weights = components.read_component(source, kind)
        graphdefs[kind], _ = abstract(partial(_network, kind, configs[kind], config))
        params |= nest(kind, weights)
    for i, (kind, network) in enumerate(config.new.items()):
        configs[kind] = network
        key = jax.random.fold_in(jax.random.key(config.seed), i)
        graphdefs[kind], weights = initialise(partial(_network, kind, network, config), key)
        params |= nest(kind, weights)
        if kind in ("controlnet", "activation_controlnet"):
            # A ControlNet is born as a copy of the encoder that it stands beside.
            shared = {k: v for k, v in select(params, "unet").items() if k in weights}
            params |= nest(kind, {name: jnp.copy(value) for name, value in shared.items()})
    missing = [kind for kind in TRAINABLE[config.stage] if kind not in configs]
    if missing:
        raise InputError(f"stage {config.stage} trains {missing}, but the configuration neither reads nor makes them")
    return graphdefs, configs, params


def _network(kind: str, network: Any, config: TrainConfig, rngs: nnx.Rngs) -> nnx.Module:
    return components.build(kind, network, dtype=config.dtype, rngs=rngs)


def train(config: TrainConfig, workdir: Path) -> Path:
    """Run or take up `config` in `workdir`; returns the folder of exported weights, `workdir/export`."""
    workdir.mkdir(parents=True, exist_ok=True)
    graphdefs, configs, params = build(config)
    trainable, frozen = partition(params, config.stage)
    frozen = jax.tree.map(lambda x: jnp.asarray(x, config.frozen_dtype), frozen)
    trainable = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), trainable)
    if config.stage == "vae" and config.loss.perceptual_weight:
        frozen |= nest("lpips", jax.tree.map(jnp.asarray, lpips_weights("vgg16")))
    del params

    ids = None
    if "text_encoder" in configs:
        tokenizer = config.components.get("tokenizer")
        ids = prompt_ids(configs["text_encoder"], tokenizer, ["", config.prompt], config.prompt)
    optimizer = make_optimizer(config.optimizer, config.num_steps)
    step_fn = make_step(make_objective(config, graphdefs, ids), optimizer, config.optimizer, config.seed)
    state = TrainState.create(trainable, optimizer)
    data = batches(config.data, batch_size=config.batch_size, seed=config.seed)
    checkpoints = Checkpoints(workdir, config.keep_checkpoints)
    if checkpoints.latest_step is not None:
        state, data_state = checkpoints.restore(state)
        data.set_state(data_state)
    start = int(state.step)
    print(_summary(config, trainable, frozen, start), flush=True)

    bar = tqdm(range(start, config.num_steps), initial=start, total=config.num_steps, unit="step", mininterval=5)
    pending, since = [], time.perf_counter()
    with (workdir / "metrics.jsonl").open("a") as log:
        for step in bar:
            if step % config.save_every == 0 and step > start:
                checkpoints.save(state, data.get_state())
            batch = {name: value for name, value in next(data).items() if name not in _READ_FROM_BATCH}
            state, metrics = step_fn(state, frozen, batch)
            pending.append(metrics)
            if (step + 1) % config.log_every == 0 or step + 1 == config.num_steps:
                # The one wait for the device in this many steps.
                means = {name: float(np.mean([m[name] for m in pending])) for name in metrics}
                seconds, since = (time.perf_counter() - since) / len(pending), time.perf_counter()
                log.write(json.dumps({"step": step + 1, "seconds_per_step": seconds} | means) + "\n")
                log.flush()
                bar.set_postfix(loss=f"{means['loss']:.4f}")
                pending = []
    checkpoints.save(state, data.get_state())
    checkpoints.close()
    return export(config, configs, frozen | (state.ema if config.optimizer.ema_decay else state.params), workdir)


def export(config: TrainConfig, configs: Mapping[str, Any], params: Params, workdir: Path) -> Path:
    """Write what the stage trained, one folder a component, as `cassr_jax.load` takes it."""
    folder = workdir / "export"
    for kind in TRAINABLE[config.stage]:
        components.write_component(folder / kind, kind, configs[kind], select(params, kind))
    return folder


def _summary(config: TrainConfig, trainable: Params, frozen: Params, start: int) -> str:
    def describe(params: Params) -> str:
        count, size = sum(p.size for p in params.values()), sum(p.nbytes for p in params.values())
        return f"{count / 1e6:.2f} M parameters, {size / 2**20:.1f} MiB"

    taken = f", taken up at step {start}" if start else ""
    return f"stage {config.stage}{taken}: trainable {describe(trainable)}; frozen {describe(frozen)}"
