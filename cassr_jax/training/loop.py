"""The training loop: save, next batch, step."""

from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cassr_jax.config import TrainConfig
from cassr_jax.config_files import to_json
from cassr_jax.data.pipeline import Records
from cassr_jax.data.resident import ResidentPool
from cassr_jax.errors import InputError, Stopped
from cassr_jax.files import read_json, write_json
from cassr_jax.models.parameters import Params
from cassr_jax.networks import Networks
from cassr_jax.prompts import prompt_ids
from cassr_jax.ranges import check
from cassr_jax.sharding.placement import Placement
from cassr_jax.training.checkpoint import Checkpoints, origins
from cassr_jax.training.export import export
from cassr_jax.training.flops import traced_flops
from cassr_jax.training.monitor import Monitor, traced_steps
from cassr_jax.training.objectives import Batch, make_objective
from cassr_jax.training.previews import make_preview
from cassr_jax.training.processes import check_agreement, claimed_together
from cassr_jax.training.setup import build, for_stage, open_data, open_sets, parameters_of, with_schedule
from cassr_jax.training.signals import watch_signals
from cassr_jax.training.stages import DISCRIMINATOR
from cassr_jax.training.state import TrainState, make_optimizer, new_state
from cassr_jax.training.step import Step, check_division, make_step
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
    # First, since a process that ended by itself would leave the others waiting.
    asked = {"workdir": str(workdir), "export_to": str(export_to), "profile": profile}
    check_agreement({"config": to_json(config), **asked})
    config = with_schedule(config)
    _check(config, workdir)
    with claimed_together(workdir, "train.py"):
        return _train(config, workdir, export_to, profile)


@dataclass(frozen=True)
class _Run:
    """What a run works with and does not change."""

    config: TrainConfig
    placement: Placement
    networks: Networks  # definitions and configurations; the parameters are in `frozen` and in the state
    prompt_ids: np.ndarray | None
    frozen: Params
    step: Step
    sets: Records | ResidentPool
    data: Any  # an endless iterator over batches, whose state can be taken and set
    pool: Batch | None  # all records on the devices, where they are resident

    def next_batch(self) -> tuple[Batch, Batch]:
        """This process's part of a batch, and the batch as it lies on the devices."""
        if self.pool is not None:
            return {}, self.pool
        batch = next(self.data)
        return batch, self.placement.place_batch(for_stage(self.config, self.networks, batch))


def _train(config: TrainConfig, workdir: Path, export_to: Path | None, profile: tuple[int, int] | None) -> Path:
    run, state, account = _set_up(config)
    with (
        watch_signals() as asked_to_stop,
        closing(Checkpoints(workdir, config.keep_checkpoints, config.keep_best, account)) as checkpoints,
    ):
        if checkpoints.latest_step is not None:
            _check_same_run(config, workdir / CONFIG_FILE)
            state, data_state = checkpoints.restore(state)
            run.data.set_state(data_state)
        if export_to is not None:
            if checkpoints.latest_step is None:
                raise InputError(f"{workdir}: holds no checkpoint to export")
            return export(config, run.networks, state, run.frozen, export_to, run.sets)
        if jax.process_index() == 0:
            write_json(workdir / CONFIG_FILE, to_json(config))
            _introduce(run, state, workdir)

        preview = make_preview(config, run.networks, run.prompt_ids, run.sets) if config.preview_every else None
        start, compiled = int(state.step), None
        traced = traced_steps(profile, range(start, config.num_steps))
        with closing(Monitor(config, workdir, preview, traced)) as monitor:
            # Save, next batch, step, in this order. A checkpoint holds the state before a step and the data's state
            # before that step's batch is drawn, so that a run taken up there draws the same batch again. Saved after
            # the batch was drawn, that batch would be lost; saved while the step runs, its arrays would be overwritten.
            for step in monitor.steps(start):
                if step % config.save_every == 0 and step > start:
                    monitor.settle(state)
                    checkpoints.save(state, run.data.get_state(), monitor.loss_since_last())
                checkpoints.limit_loss(step, config.max_lost_steps or config.save_every)

                with monitor.waiting():
                    batch, placed = run.next_batch()

                if compiled is None:  # ahead of time, so that its work can be counted
                    traced = run.step.trace(state, run.frozen, placed)
                    compiled = traced.lower().compile()
                    monitor.begin(traced_flops(traced.jaxpr.jaxpr) / run.placement.mesh.size)
                monitor.before_step(state)
                with jax.transfer_guard("disallow"):
                    state, metrics = compiled(state, run.frozen, placed)
                monitor.after_step(step, batch, metrics, state, run.frozen, run.data.skipped)
                if asked_to_stop(step + 1):
                    break
            monitor.settle(state)
            checkpoints.save(state, run.data.get_state(), monitor.loss_since_last())
        checkpoints.wait()
        if int(state.step) < config.num_steps:
            raise Stopped(int(state.step))
    return export(config, run.networks, state, run.frozen, workdir / "export", run.sets)


def _set_up(config: TrainConfig) -> tuple[_Run, TrainState, dict[str, Any]]:
    """The run, its first state, and what its checkpoints say of it."""
    placement = Placement.of(config.strategy)
    check_division(config, placement)
    networks = build(config)
    trainable, frozen = parameters_of(config, networks)
    account = {"config": to_json(config), "frozen": origins(config, frozen)}
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
    step = make_step(objective, optimizer, config, placement, state, frozen)
    sets = open_sets(config)
    data = open_data(config, sets)
    pool = placement.place_whole(for_stage(config, networks, next(data))) if config.data.resident else None
    return _Run(config, placement, networks, ids, frozen, step, sets, data, pool), state, account


def _introduce(run: _Run, state: TrainState, workdir: Path) -> None:
    """Say what is trained, from where, and what it takes."""
    start, steps = int(state.step), run.config.num_steps
    taken = f", taken up at step {start}" if start else ""
    print(f"stage {run.config.stage}{taken}", parameter_table(state.params, run.frozen, state), sep="\n", flush=True)
    if start >= steps:
        print(f"{workdir}: done already, {start} of {steps} steps; exporting again", flush=True)


def _check(config: TrainConfig, workdir: Path) -> None:
    check(config)
    if config.max_lost_steps is not None and config.max_lost_steps < config.save_every:
        raise InputError(
            f"max_lost_steps is {config.max_lost_steps}, expected at least save_every, which is {config.save_every}"
        )
    loss = config.loss
    last = config.known_schedule.num_train_timesteps - 1
    if loss.start_timestep > last:
        raise InputError(f"loss.start_timestep is {loss.start_timestep}, expected 0 to {last}")
    if loss.start == "noise":
        raise InputError("loss.start is noise, expected lq or reference: all other examples start from noise")
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
    before = read_json(file) if file.is_file() else {}
    for name, expected in to_json(config).items():
        if name in ("stage", "new") and before.get(name, expected) != expected:
            raise InputError(f"{file}: {name} is {before[name]!r}, expected {expected!r}, or another folder")
