"""The training loop: save, next batch, step."""

import json
import time
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from tqdm import tqdm

from cassr_jax.config import TrainConfig
from cassr_jax.data.pipeline import batches
from cassr_jax.errors import InputError
from cassr_jax.evaluation.weights import lpips_weights
from cassr_jax.models.parameters import Params, merge, nest, select
from cassr_jax.networks import Networks, write_network
from cassr_jax.prompts import prompt_ids
from cassr_jax.training.checkpoint import Checkpoints
from cassr_jax.training.masking import TRAINABLE, partition
from cassr_jax.training.objectives import Batch, make_objective, to_float
from cassr_jax.training.state import TrainState, make_optimizer
from cassr_jax.training.step import make_step

_NOT_FOR_THE_STEP = ("record", "lr")


def build(config: TrainConfig) -> Networks:
    """Everything the stage uses, read or new."""
    networks = Networks()
    for kind, source in config.components.items():
        if kind != "tokenizer":
            networks = networks.with_read(kind, source, config.dtype)
    for i, (kind, network) in enumerate(config.new.items()):
        key = jax.random.fold_in(jax.random.key(config.seed), i)
        networks = networks.with_new(kind, network, config.dtype, key)
    if missing := [kind for kind in TRAINABLE[config.stage] if kind not in networks.configs]:
        raise InputError(f"stage {config.stage} trains {missing}, but the configuration neither reads nor makes them")
    return networks


def train(config: TrainConfig, workdir: Path) -> Path:
    """Run or take up `config` in `workdir`; returns the folder of exported weights, `workdir/export`."""
    workdir.mkdir(parents=True, exist_ok=True)
    networks = build(config)
    trainable, frozen = partition(networks.params, config.stage)
    frozen = jax.tree.map(lambda x: jnp.asarray(x, config.frozen_dtype), frozen)
    trainable = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), trainable)
    if config.stage == "vae" and config.loss.perceptual_weight:
        frozen |= nest("lpips", jax.tree.map(jnp.asarray, lpips_weights("vgg16")))
    networks = replace(networks, params={})

    ids = None
    if "text_encoder" in networks.configs:
        tokenizer = config.components.get("tokenizer")
        ids = prompt_ids(networks.configs["text_encoder"], tokenizer, ["", config.prompt], config.prompt)
    optimizer = make_optimizer(config.optimizer, config.num_steps)
    step_fn = make_step(make_objective(config, networks.graphdefs, ids), optimizer, config.optimizer, config.seed)
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
            batch = {name: value for name, value in next(data).items() if name not in _NOT_FOR_THE_STEP}
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
    trained = state.ema if config.optimizer.ema_decay else state.params
    return export(config, networks, trained, next(batches(config.data, batch_size=64, seed=config.seed)), workdir)


def export(config: TrainConfig, networks: Networks, trained: Params, batch: Batch, workdir: Path) -> Path:
    """Write what the stage trained, one folder a component, as `CascadeConfig.components` names them."""
    folder = workdir / "export"
    for kind in TRAINABLE[config.stage]:
        network, params = networks.configs[kind], select(trained, kind)
        if kind == "vae" and kind in config.new:
            network = replace(network, scaling_factor=_scaling_factor(networks.graphdefs[kind], params, batch))
        write_network(folder / kind, kind, network, params)
    return folder


def _scaling_factor(graphdef: nnx.GraphDef, params: Params, batch: Batch) -> float:
    """One over the standard deviation of the latents, so that a diffusion model sees them at unit size."""
    mean, logvar = jax.jit(lambda params, hr: merge(graphdef, params).moments(to_float(hr)))(params, batch["hr"])
    return float(1 / jnp.sqrt(jnp.var(mean) + jnp.mean(jnp.exp(logvar))))


def _summary(config: TrainConfig, trainable: Params, frozen: Params, start: int) -> str:
    def describe(params: Params) -> str:
        count, size = sum(p.size for p in params.values()), sum(p.nbytes for p in params.values())
        return f"{count / 1e6:.2f} M parameters, {size / 2**20:.1f} MiB"

    taken = f", taken up at step {start}" if start else ""
    return f"stage {config.stage}{taken}: trainable {describe(trainable)}; frozen {describe(frozen)}"
