"""The training loop: save, next batch, step."""

import json
import os
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from cassr_jax.config import TrainConfig
from cassr_jax.config_files import to_json
from cassr_jax.errors import InputError
from cassr_jax.evaluation.weights import lpips_weights
from cassr_jax.models.parameters import Params, nest
from cassr_jax.prompts import prompt_ids
from cassr_jax.training.assembly import build, for_stage, open_data
from cassr_jax.training.checkpoint import Checkpoints
from cassr_jax.training.export import export
from cassr_jax.training.masking import partition
from cassr_jax.training.objectives import from_pool, make_objective, needs_lpips
from cassr_jax.training.state import TrainState, make_optimizer
from cassr_jax.training.step import make_step

CONFIG_FILE = "config.json"


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
    data = open_data(config)
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
                state, metrics = step_fn(state, frozen, for_stage(config, networks, next(data)))
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
    return export(config, networks, trained, workdir / "export")


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


def _summary(config: TrainConfig, trainable: Params, frozen: Params, start: int) -> str:
    def describe(params: Params) -> str:
        count, size = sum(p.size for p in params.values()), sum(p.nbytes for p in params.values())
        return f"{count / 1e6:.2f} M parameters, {size / 2**20:.1f} MiB"

    taken = f", taken up at step {start}" if start else ""
    return f"stage {config.stage}{taken}: trainable {describe(trainable)}; frozen {describe(frozen)}"
