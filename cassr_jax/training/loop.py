"""The training loop: save, next batch, step."""

import json
import os
import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from tqdm import tqdm

from cassr_jax.config import Stage, TrainConfig
from cassr_jax.config_files import to_json
from cassr_jax.data.pipeline import Batch, batches
from cassr_jax.data.resident import ResidentPool, draw
from cassr_jax.errors import InputError
from cassr_jax.evaluation.weights import lpips_weights
from cassr_jax.models.parameters import Params, merge, nest, select
from cassr_jax.networks import Networks, write_network
from cassr_jax.prompts import prompt_ids
from cassr_jax.training.checkpoint import Checkpoints
from cassr_jax.training.masking import TRAINABLE, partition
from cassr_jax.training.objectives import from_pool, make_objective, needs_lpips, to_float
from cassr_jax.training.state import TrainState, make_optimizer
from cassr_jax.training.step import make_step

CONFIG_FILE = "config.json"
# What a stage reads of a batch besides its target.
_IMAGES: Mapping[Stage, tuple[str, ...]] = {
    "vae": (),
    "base": (),
    "scedit": ("lq",),
    "controlnet": ("lq",),
    "cassr": ("lq", "reference"),
}


def build(config: TrainConfig) -> Networks:
    """Everything the stage uses, read or new."""
    kinds = {*config.components, *config.new}
    needed = TRAINABLE[config.stage] + (() if config.stage == "vae" else ("unet", "text_encoder"))
    if missing := [kind for kind in dict.fromkeys(needed) if kind not in kinds]:
        raise InputError(f"stage {config.stage} needs {', '.join(missing)}, expected in `components` or in `new`")
    networks = Networks()
    for kind, source in config.components.items():
        if kind != "tokenizer":
            networks = networks.with_read(kind, source, config.dtype)
    for i, (kind, network) in enumerate(config.new.items()):
        key = jax.random.fold_in(jax.random.key(config.seed), i)
        networks = networks.with_new(kind, network, config.dtype, key)
    return networks


def train(config: TrainConfig, workdir: Path) -> Path:
    """Run or take up `config` in `workdir`; returns the folder of exported weights, `workdir/export`.

    `workdir/config.json` holds the configuration, `workdir/metrics.jsonl` the means of every `log_every` steps. A run
    that is done already is exported again.

    Raises:
        InputError: a network or an entry of the batches is missing, a field is out of range, or `workdir` holds the
            run of another stage or of other networks.
    """
    for name in ("batch_size", "num_steps", "save_every", "log_every", "keep_checkpoints"):
        if getattr(config, name) < 1:
            raise InputError(f"{name} is {getattr(config, name)}, expected at least 1")
    loss = config.loss
    if not 0 <= loss.start_fraction <= 1:
        raise InputError(f"loss.start_fraction is {loss.start_fraction}, expected 0 to 1")
    if config.stage != "vae" and loss.image_weight and not round(loss.start_fraction * config.batch_size):
        raise InputError("loss.image_weight is set, but loss.start_fraction gives no example to decode")
    if workdir.exists() and not workdir.is_dir():
        raise InputError(f"{workdir}: a file, expected a folder for checkpoints, logs and the export")
    networks = build(config)
    trainable, frozen = partition(networks.params, config.stage)
    frozen = jax.tree.map(lambda x: jnp.asarray(x, config.frozen_dtype), frozen)
    trainable = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), trainable)
    if needs_lpips(config):
        frozen |= nest("lpips", jax.tree.map(jnp.asarray, lpips_weights("vgg16")))
    networks = replace(networks, params={})

    ids = None
    if "text_encoder" in networks.configs:
        tokenizer = config.components.get("tokenizer")
        ids = prompt_ids(networks.configs["text_encoder"], tokenizer, ["", config.prompt], config.prompt)
    optimizer = make_optimizer(config.optimizer, config.num_steps)
    objective = make_objective(config, networks.graphdefs, ids)
    if config.data.resident:
        objective = from_pool(objective, config.batch_size, config.data.crop_size)
    step_fn = make_step(objective, optimizer, config.optimizer, config.seed)
    state = TrainState.create(trainable, optimizer)
    data = _data(config)
    with closing(Checkpoints(workdir, config.keep_checkpoints)) as checkpoints:
        if checkpoints.latest_step is not None:
            _check_same_run(config, workdir / CONFIG_FILE)
            state, data_state = checkpoints.restore(state)
            data.set_state(data_state)
        _write_config(config, workdir / CONFIG_FILE)
        start = int(state.step)
        print(_summary(config, trainable, frozen, start), flush=True)
        if start >= config.num_steps:
            print(f"{workdir}: done already, {start} of {config.num_steps} steps; exporting again", flush=True)

        bar = tqdm(range(start, config.num_steps), initial=start, total=config.num_steps, unit="step", mininterval=5)
        pending, since = [], time.perf_counter()
        with (workdir / "metrics.jsonl").open("a") as log:
            for step in bar:
                if step % config.save_every == 0 and step > start:
                    checkpoints.save(state, data.get_state())
                state, metrics = step_fn(state, frozen, _for_step(config, networks, next(data)))
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
    trained = state.ema if config.optimizer.ema_decay else state.params
    return export(config, networks, trained, workdir)


def _data(config: TrainConfig) -> Any:
    if config.data.resident:
        return ResidentPool(config.data.path, config.data.crop_size)
    return batches(config.data, batch_size=config.batch_size, seed=config.seed)


def _check_same_run(config: TrainConfig, file: Path) -> None:
    """Refuse to take up a run that trains something else; all other fields may change."""
    before = json.loads(file.read_text("utf-8")) if file.is_file() else {}
    for name, expected in to_json(config).items():
        if name in ("stage", "new") and before.get(name, expected) != expected:
            raise InputError(f"{file}: {name} is {before[name]!r}, expected {expected!r}, or another folder")


def _write_config(config: TrainConfig, file: Path) -> None:
    unfinished = file.with_suffix(".unfinished")
    unfinished.write_text(json.dumps(to_json(config), indent=2) + "\n", "utf-8")
    os.replace(unfinished, file)


def _for_step(config: TrainConfig, networks: Networks, batch: Batch) -> Batch:
    """What the stage reads of a batch: its images, and `latents` or, where these are not prepared, `hr`."""
    target = "latents" if config.stage != "vae" and "latents" in batch else "hr"
    needed = {target, *_IMAGES[config.stage]}
    if config.loss.image_weight:
        needed |= {"hr"}
    if config.data.resident:
        needed = {"lr" if name == "lq" else name for name in needed}  # enlarged where it lies
    if missing := [name for name in needed if name not in batch]:
        missing = ", ".join(sorted(missing))
        raise InputError(f"{config.data.path}: gives {', '.join(batch)}, stage {config.stage} also needs {missing}")
    if target == "hr" and "vae" not in networks.configs:
        raise InputError(f"{config.data.path}: gives no latents, so that stage {config.stage} needs a vae")
    return {name: batch[name] for name in needed}


def export(config: TrainConfig, networks: Networks, trained: Params, workdir: Path) -> Path:
    """Write what the stage trained, one folder a component, as `CascadeConfig.components` names them."""
    folder = workdir / "export"
    for kind in TRAINABLE[config.stage]:
        network, params = networks.configs[kind], select(trained, kind)
        if kind == "vae" and kind in config.new:
            batch = next(_data(replace(config, batch_size=64)))
            if config.data.resident:
                batch = draw(batch, jax.random.key(config.seed), 64, config.data.crop_size)
            network = replace(network, scaling_factor=_scaling_factor(networks.graphdefs[kind], params, batch))
        write_network(folder / kind, kind, network, params)
    return folder


def _scaling_factor(graphdef: nnx.GraphDef, params: Params, batch: Mapping[str, Any]) -> float:
    """One over the standard deviation of the latents, so that a diffusion model sees them at unit size."""
    mean, logvar = jax.jit(lambda params, hr: merge(graphdef, params).moments(to_float(hr)))(params, batch["hr"])
    return float(1 / jnp.sqrt(jnp.var(mean) + jnp.mean(jnp.exp(logvar))))


def _summary(config: TrainConfig, trainable: Params, frozen: Params, start: int) -> str:
    def describe(params: Params) -> str:
        count, size = sum(p.size for p in params.values()), sum(p.nbytes for p in params.values())
        return f"{count / 1e6:.2f} M parameters, {size / 2**20:.1f} MiB"

    taken = f", taken up at step {start}" if start else ""
    return f"stage {config.stage}{taken}: trainable {describe(trainable)}; frozen {describe(frozen)}"
