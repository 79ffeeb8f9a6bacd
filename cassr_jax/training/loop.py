"""The training loop: save, next batch, step."""

import json
import math
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
from tqdm import tqdm

from cassr_jax.config import TrainConfig
from cassr_jax.config_files import to_json
from cassr_jax.errors import InputError, Stopped
from cassr_jax.files import write_json
from cassr_jax.imaging import io
from cassr_jax.prompts import prompt_ids
from cassr_jax.sharding.placement import Placement
from cassr_jax.training.checkpoint import Checkpoints, origins
from cassr_jax.training.export import export
from cassr_jax.training.flops import traced_flops
from cassr_jax.training.guard import Guard
from cassr_jax.training.logs import Logs, Meter
from cassr_jax.training.objectives import Batch, Metrics, make_objective
from cassr_jax.training.previews import make_preview
from cassr_jax.training.processes import check_agreement, claimed_together
from cassr_jax.training.setup import build, for_stage, open_data, open_sets, parameters_of
from cassr_jax.training.signals import watch_signals
from cassr_jax.training.stages import DISCRIMINATOR
from cassr_jax.training.state import make_optimizer, new_state
from cassr_jax.training.step import check_division, make_step
from cassr_jax.training.summary import parameter_table

CONFIG_FILE = "config.json"


def train(
    config: TrainConfig, workdir: Path, *, export_to: Path | None = None, profile: tuple[int, int] | None = None
) -> Path:
    """Run or take up `config` in `workdir`; returns the folder of exported weights, `workdir/export`.

    `workdir/config.json` holds the configuration, `workdir/metrics.jsonl` and `workdir/tensorboard` the means of every
    `log_every` steps, `workdir/previews` the pictures. A run that is done already is exported again.

    Args:
        export_to: write the newest checkpoint's weights to this folder instead of training.
        profile: first and last step, of which `workdir/profile` gets a trace.

    Raises:
        InputError: a network or an entry of the batches is missing, a field is out of range, `workdir` holds the run of
            another stage, of other networks or on other frozen weights, a checkpoint cannot be written, or too many
            updates in a row were not finite.
        Stopped: the process was asked to stop by SIGTERM, SIGINT or SIGHUP; the state is saved.
    """
    _check(config, workdir)
    asked = {"workdir": str(workdir), "export_to": str(export_to), "profile": profile}
    check_agreement({"config": to_json(config), **asked})
    with claimed_together(workdir, "train.py"):
        return _train(config, workdir, export_to, profile)


def _train(config: TrainConfig, workdir: Path, export_to: Path | None, profile: tuple[int, int] | None) -> Path:
    placement = Placement.of(config.strategy)
    check_division(config, placement)
    networks = build(config)
    trainable, frozen = parameters_of(config, networks)
    run = {"config": to_json(config), "frozen": origins(config, frozen)}
    frozen = jax.tree.map(lambda x: jnp.asarray(x, config.frozen_dtype), frozen)
    trainable = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), trainable)
    networks = replace(networks, params={})

    ids = None
    if "text_encoder" in networks.configs:
        tokenizer = config.components.get("tokenizer")
        ids = prompt_ids(networks.configs["text_encoder"], tokenizer, ["", config.prompt], config.prompt)
    optimizer = make_optimizer(config.optimizer, config.num_steps)
    objective = make_objective(config, networks.graphdefs, ids)
    state, frozen = new_state(trainable, optimizer, placement), placement.place(frozen)
    step_fn = make_step(objective, optimizer, config, placement, state, frozen)
    sets = open_sets(config)
    data = open_data(config, sets)
    pool = placement.place_whole(for_stage(config, networks, next(data))) if config.data.resident else None
    first_process = jax.process_index() == 0
    with (
        watch_signals() as asked_to_stop,
        closing(Checkpoints(workdir, config.keep_checkpoints, config.keep_best, run)) as checkpoints,
    ):
        if checkpoints.latest_step is not None:
            _check_same_run(config, workdir / CONFIG_FILE)
            state, data_state = checkpoints.restore(state)
            data.set_state(data_state)
        start = int(state.step)
        if export_to is not None:
            if checkpoints.latest_step is None:
                raise InputError(f"{workdir}: holds no checkpoint to export")
            return export(config, networks, state, frozen, export_to, sets)
        if first_process:
            write_json(workdir / CONFIG_FILE, to_json(config))
            taken = f", taken up at step {start}" if start else ""
            print(f"stage {config.stage}{taken}", parameter_table(trainable, frozen, state), sep="\n", flush=True)
            if start >= config.num_steps:
                print(f"{workdir}: done already, {start} of {config.num_steps} steps; exporting again", flush=True)
        del trainable

        preview = make_preview(config, networks, ids, sets) if config.preview_every else None
        guard = Guard(config.skip_limit, workdir / "nonfinite")
        meter = Meter(config.batch_size, jax.devices()[0].device_kind)
        bar = tqdm(
            range(start, config.num_steps),
            initial=start,
            total=config.num_steps,
            unit="step",
            mininterval=5,
            disable=not first_process,
        )
        running: tuple[int, Batch, Metrics] | None = None  # the one step that the device may be busy with

        def settle() -> None:
            nonlocal running
            if running is not None:
                (step, batch, metrics), running = running, None
                found = {name: value.item() for name, value in jax.device_get(metrics).items()}
                guard.check(step, batch, found, state.params)
                meter.add(found)

        compiled = None
        with closing(Logs(workdir)) as logs:
            for step in bar:
                if step % config.save_every == 0 and step > start:
                    settle()
                    checkpoints.save(state, data.get_state(), meter.loss_since_last())
                checkpoints.limit_loss(step, config.max_lost_steps or config.save_every)
                if profile is not None and step == profile[0]:
                    jax.profiler.start_trace(str(workdir / "profile"))
                with meter.waiting():
                    batch = next(data) if pool is None else {}
                chosen = placement.place_batch(for_stage(config, networks, batch)) if pool is None else pool
                if compiled is None:  # ahead of time, so that its work can be counted
                    traced = step_fn.trace(state, frozen, chosen)
                    compiled = traced.lower().compile()
                    meter.begin(traced_flops(traced.jaxpr.jaxpr) / placement.mesh.size)
                if guard.next_may_end:  # the next step overwrites the parameters that its dump would show
                    settle()
                with jax.transfer_guard("disallow"):
                    new, metrics = compiled(state, frozen, chosen)
                state = new
                settle()
                running = (step, batch, metrics)
                done = step + 1
                if profile is not None and done == profile[1]:
                    settle()
                    jax.profiler.stop_trace()
                if done % config.log_every == 0 or done == config.num_steps:
                    settle()
                    means = meter.summary() | ({"damaged_records": data.skipped} if data.skipped else {})
                    logs.write(done, means)
                    bar.set_postfix(loss=f"{means.get('loss', math.nan):.4f}", skipped=int(means["skipped"]))
                if preview is not None and done % config.preview_every == 0:
                    picture = preview(frozen | state.ema)
                    if first_process:
                        io.write(workdir / "previews" / f"{done:08d}.png", io.Picture(picture))
                        logs.show(done, "preview", picture)
                if asked_to_stop(done):
                    break
            settle()
        checkpoints.save(state, data.get_state(), meter.loss_since_last())
        checkpoints.wait()
        if int(state.step) < config.num_steps:
            raise Stopped(int(state.step))
    return export(config, networks, state, frozen, workdir / "export", sets)


def _check(config: TrainConfig, workdir: Path) -> None:
    for name in ("batch_size", "num_steps", "save_every", "log_every", "keep_checkpoints", "skip_limit"):
        if getattr(config, name) < 1:
            raise InputError(f"{name} is {getattr(config, name)}, expected at least 1")
    for name, least in (("keep_best", 0), ("preview_every", 0), ("preview_count", 1)):
        if getattr(config, name) < least:
            raise InputError(f"{name} is {getattr(config, name)}, expected at least {least}")
    if config.max_lost_steps is not None and config.max_lost_steps < config.save_every:
        raise InputError(
            f"max_lost_steps is {config.max_lost_steps}, expected at least save_every, which is {config.save_every}"
        )
    loss = config.loss
    if not 0 <= loss.start_fraction <= 1:
        raise InputError(f"loss.start_fraction is {loss.start_fraction}, expected 0 to 1")
    last = config.schedule.num_train_timesteps - 1
    if not 0 <= loss.start_timestep <= last:
        raise InputError(f"loss.start_timestep is {loss.start_timestep}, expected 0 to {last}")
    if loss.start == "noise":
        raise InputError("loss.start is noise, expected lr or reference: all other examples start from noise")
    if config.stage != "vae" and loss.image_weight and not round(loss.start_fraction * config.batch_size):
        raise InputError("loss.image_weight is set, but loss.start_fraction gives no example to decode")
    if bool(loss.adversarial_weight) != (DISCRIMINATOR in config.new):
        raise InputError(
            f"loss.adversarial_weight is {loss.adversarial_weight} and new holds {', '.join(config.new) or 'nothing'}, "
            f"expected a {DISCRIMINATOR} where the weight is above 0, and there alone"
        )
    if workdir.exists() and not workdir.is_dir():
        raise InputError(f"{workdir}: a file, expected a folder for checkpoints, logs and the export")


def _check_same_run(config: TrainConfig, file: Path) -> None:
    """Refuse to take up a run that trains something else; all other fields may change."""
    before = json.loads(file.read_text("utf-8")) if file.is_file() else {}
    for name, expected in to_json(config).items():
        if name in ("stage", "new") and before.get(name, expected) != expected:
            raise InputError(f"{file}: {name} is {before[name]!r}, expected {expected!r}, or another folder")
