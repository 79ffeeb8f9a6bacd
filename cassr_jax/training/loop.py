"""The training loop: save, next batch, step."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import jax
import numpy as np

from cassr_jax.buckets import Folder, in_bucket
from cassr_jax.config import TrainConfig
from cassr_jax.config_files import to_json
from cassr_jax.data.config import check_apart
from cassr_jax.data.contents import fingerprint_sets
from cassr_jax.data.pipeline import Batches, Records
from cassr_jax.data.resident import ResidentPool
from cassr_jax.errors import InputError, Stopped
from cassr_jax.files import Json, check_folder, same_place, write_json
from cassr_jax.loading import CASCADE_FILE, TRAINED_FILE
from cassr_jax.models.parameters import Params
from cassr_jax.networks import Networks
from cassr_jax.prompts import prompt_ids
from cassr_jax.ranges import check
from cassr_jax.sampling import make_course
from cassr_jax.sharding.placement import Placement
from cassr_jax.training.checkpoint import CHECKPOINTS, Checkpoints, Saved
from cassr_jax.training.export import PICTURES_FILE, export, kept_pictures
from cassr_jax.training.flops import traced_flops
from cassr_jax.training.home import Home
from cassr_jax.training.logs import METRICS_FILE, PREVIEWS
from cassr_jax.training.monitor import Monitor, traced_steps
from cassr_jax.training.objectives import make_objective
from cassr_jax.training.placing import Placing
from cassr_jax.training.previews import make_preview, sampling_of, schedule_of
from cassr_jax.training.processes import (
    check_agreement,
    claimed_together,
    cores_of_process,
    notice_once,
    refused_together,
    say_once,
)
from cassr_jax.training.resume import (
    CONTENTS,
    changes_between,
    check_permissions,
    check_same_run,
    check_stream,
    log_changes,
)
from cassr_jax.training.setup import (
    build,
    for_stage,
    open_data,
    open_sets,
    parameters_of,
    validation_sets,
    with_schedule,
)
from cassr_jax.training.signals import watch_signals
from cassr_jax.training.stages import DISCRIMINATOR
from cassr_jax.training.state import TrainState, make_optimizer, new_state
from cassr_jax.training.step import Step, check_division, make_step
from cassr_jax.training.summary import parameter_table
from cassr_jax.training.validation import Validation, check_validation, criterion, make_validation
from cassr_jax.typing import Examples, HostExamples

CONFIG_FILE = "config.json"
CHANGES_FILE = "changes.jsonl"


def train(
    config: TrainConfig,
    workdir: Folder,
    *,
    export_to: Folder | None = None,
    profile: tuple[int, int] | None = None,
    from_step: int | None = None,
    allow_changes: Sequence[str] = (),
) -> Folder:
    """Start or continue the run `config` in `workdir`; returns the folder of exported weights, `workdir/export`.

    `workdir/config.json` holds the configuration, `workdir/changes.jsonl` its changes, `workdir/metrics.jsonl` and
    `workdir/tensorboard` the means of every `log_every` steps, and `workdir/previews` pictures. A finished run is
    exported again. Both folders may be in a bucket (`buckets.folder_at`).

    Args:
        export_to: write the newest checkpoint's weights to this folder instead of training.
        profile: the first step to trace into `workdir/profile`, and the step after the last.
        from_step: continue from this checkpoint instead of the newest; later ones are set aside.
        allow_changes: fields of `resume.STREAM` that may have changed since the run was last started.

    Raises:
        InputError: a network or an entry of the batches is missing, a field is out of range, `workdir` holds the run of
            another stage, of other networks, on other frozen weights or on other data, no checkpoint can be read or
            one cannot be written, nor the export, or too many updates in a row were not finite.
        Stopped: the process was asked to stop by SIGTERM, SIGINT or SIGHUP; the state is saved.
    """
    folder = export_to or workdir / "export"
    asked = {"workdir": str(workdir), "export_to": str(export_to), "profile": profile, "from_step": from_step}
    check_agreement({"config": to_json(config), "allow_changes": [*allow_changes], **asked})
    with refused_together():
        config = with_schedule(config)
        _check(config)
        check_permissions(allow_changes)
        written_to = (workdir, workdir / CHECKPOINTS, workdir / PREVIEWS, folder) if jax.process_index() == 0 else ()
        for written in written_to:
            if not in_bucket(written):
                check_folder(Path(written))
            config.data.check_apart(written)
            if config.validation.path:
                check_apart(written, config.validation.path, "validation.path")
    with claimed_together(workdir, "train.py"), closing(Home(workdir)) as home:
        with refused_together():
            if jax.process_index() == 0:
                home.fetch(CHANGES_FILE, METRICS_FILE, PICTURES_FILE)
        notice_once(f"loading the networks of stage {config.stage}")
        run, state = _set_up(config)
        kept = config.keep_checkpoints, config.keep_best
        with closing(Checkpoints(workdir, *kept, run.account, criterion(config))) as checkpoints:
            saved = None
            if checkpoints.latest_step is not None or from_step is not None:
                saved = checkpoints.restore(state, partial(check_same_run, now=run.account), from_step)
                state = saved.state
            if export_to is not None and saved is None:
                raise InputError(f"{workdir}: holds no checkpoint, expected one to export; train first")
            if export_to is None and int(state.step) >= config.num_steps:
                done = f"done already, at step {state.step}; num_steps is {config.num_steps}"
                say_once(f"{workdir}: {done}; exporting again")
                traced_steps(profile, range(int(state.step), config.num_steps))
            elif export_to is None:
                state = _train(run, state, saved, checkpoints, home, profile, allow_changes)
        elsewhere = export_to is not None and not same_place(export_to, workdir)
        with claimed_together(folder, "train.py") if elsewhere else nullcontext(), closing(Home(folder)) as target:
            export(config, run.networks, state, run.frozen, target.files, partial(kept_pictures, config, home.files))
            with refused_together():
                target.send(last=(TRAINED_FILE, CASCADE_FILE))
        return folder


@dataclass(frozen=True)
class _Run:
    """The parts of a run that do not change."""

    config: TrainConfig
    placement: Placement
    networks: Networks  # definitions and configurations; the parameters are in `frozen` and in the state
    prompt_ids: np.ndarray | None
    frozen: Params
    step: Step
    account: Json  # its description in checkpoints
    cores: int  # of the host, for making records


@dataclass(frozen=True)
class _Data:
    """The source of a run's batches."""

    run: _Run
    sets: Records | ResidentPool
    stream: Batches | ResidentPool
    pool: Examples | None  # all records on the devices, if they are resident

    def next_batch(self) -> tuple[HostExamples, Examples]:
        """This process's part of a batch, and the batch on the devices."""
        if self.pool is not None:
            return {}, self.pool
        batch = next(self.stream)
        return batch, self.run.placement.place_batch(for_stage(self.run.config, self.run.networks, batch))


def _train(
    run: _Run,
    state: TrainState,
    saved: Saved | None,
    checkpoints: Checkpoints,
    home: Home,
    profile: tuple[int, int] | None,
    allow_changes: Sequence[str],
) -> TrainState:
    """Trains to the last step, from a checkpoint if one was read; returns the final state."""
    config, start, changes = run.config, int(state.step), []
    with refused_together():
        contents = fingerprint_sets(config.data.here().weights())
    check_agreement({CONTENTS: contents}, "give all processes the same data")
    checkpoints.run = run.account | {"contents": contents}
    if saved is not None:
        changes = changes_between(saved.run, checkpoints.run)
        check_stream(checkpoints.name(saved.step), changes, allow_changes)
    with watch_signals() as asked_to_stop, _opened(run) as data:
        if saved is not None:
            data.stream.set_state(saved.data)
            checkpoints.set_aside_after(saved.step)
        with refused_together():
            if jax.process_index() == 0:
                log_changes(home.files / CHANGES_FILE, start, changes)
                write_json(home.files / CONFIG_FILE, to_json(config))
                kept_pictures(config, home.files, data.sets)
                home.send()
        say_once(f"stage {config.stage}" + (f", taken up at step {start}" if start else ""))
        say_once(parameter_table(state.params, run.frozen, state))
        preview = make_preview(config, run.networks, run.prompt_ids, data.sets) if config.preview_every else None
        validation = _validation(run, data.sets) if config.validation.every else None
        traced = traced_steps(profile, range(start, config.num_steps))
        with refused_together():
            monitor = Monitor(config, home.files, preview, validation, traced)
        with closing(monitor):
            state = _steps(run, state, data, checkpoints, monitor, home, asked_to_stop)
        checkpoints.wait()
    if int(state.step) < config.num_steps:
        raise Stopped(int(state.step))
    return state


def _steps(
    run: _Run,
    state: TrainState,
    data: _Data,
    checkpoints: Checkpoints,
    monitor: Monitor,
    home: Home,
    asked_to_stop: Callable[[int], bool],
) -> TrainState:
    """Save, next batch, step, in this order, until the last step or until the run is asked to stop.

    A checkpoint holds the state before a step and the data's state before that step's batch is drawn, so a run that
    continues from it draws the same batch again. A save after the batch was drawn would lose that batch; a save during
    the step would find its arrays overwritten.
    """
    config, start, compiled = run.config, int(state.step), None
    notice_once("compiling a step: the first one takes longer")
    for step in monitor.steps(start):
        if step % config.save_every == 0 and step > start:
            monitor.settle(state)
            checkpoints.save(state, data.stream.get_state(), monitor.measures(step))
            home.send_logs(growing=True)
        checkpoints.limit_loss(step, config.max_lost_steps or config.save_every)

        with monitor.waiting():
            batch, placed = data.next_batch()

        if compiled is None:  # ahead of time, so that its work can be counted
            traced = run.step.trace(state, run.frozen, placed)
            compiled = traced.lower().compile()
            monitor.begin(traced_flops(traced.jaxpr.jaxpr) / run.placement.mesh.size)
        monitor.before_step(state)
        with jax.transfer_guard("disallow"):
            state, metrics = compiled(state, run.frozen, placed)
        monitor.after_step(step, batch, metrics, state, run.frozen, data.stream.skipped)
        if (step + 1) % config.log_every == 0:
            home.send_logs(growing=False)
        if asked_to_stop(step + 1):
            break
    monitor.settle(state)
    checkpoints.save(state, data.stream.get_state(), monitor.measures(int(state.step)))
    return state


def _validation(run: _Run, sets: Records | ResidentPool) -> Validation:
    with refused_together():
        own = validation_sets(run.config, sets)
        validation = make_validation(run.config, run.networks, run.prompt_ids, run.placement, own)
    check_agreement({"validation": {"missing": validation.missing}}, "install the same packages for all processes")
    for name, reason in validation.missing.items():
        say_once(f"validation leaves out {name}: {reason}")
    return validation


def _set_up(config: TrainConfig) -> tuple[_Run, TrainState]:
    """The run and its first state."""
    ids = None
    with refused_together():
        placement = Placement.of(config.strategy)
        check_division(config, placement)
        placing = Placing(config, placement)
        networks = build(config, placing)
        trainable, frozen = parameters_of(config, networks, placing)
        if "text_encoder" in networks.configs:
            tokenizer = config.components.get("tokenizer")
            ids = prompt_ids(networks.configs["text_encoder"], tokenizer, ["", config.prompt])
    account = {"config": to_json(config), "frozen": placing.digests.origins(config)}
    check_agreement({"frozen": account["frozen"]}, "give all processes the same weights")
    networks = replace(networks, params={})
    optimizer = make_optimizer(config.optimizer, config.num_steps)
    objective = make_objective(config, networks.graphdefs, ids)
    state = new_state(trainable, optimizer, placement)
    step = make_step(objective, optimizer, config, placement, state, frozen)
    return _Run(config, placement, networks, ids, frozen, step, account, cores_of_process()), state


@contextmanager
def _opened(run: _Run) -> Iterator[_Data]:
    """A block with the run's data; its worker processes end with the block, whatever happens."""
    with refused_together():
        sets = open_sets(run.config, run.cores)
    with closing(open_data(run.config, sets, run.cores)) as stream:
        pool = None
        if run.config.data.resident:
            pool = run.placement.place_whole(for_stage(run.config, run.networks, next(stream)))
        yield _Data(run, sets, stream, pool)


def _check(config: TrainConfig) -> None:
    check(config)
    if config.max_lost_steps is not None and config.max_lost_steps < config.save_every:
        raise InputError(
            f"max_lost_steps is {config.max_lost_steps}, expected at least save_every, which is {config.save_every}"
        )
    check_validation(config)
    loss = config.loss
    last = config.known_schedule.num_train_timesteps - 1
    for name in ("start_timestep", "max_timestep"):
        if (getattr(loss, name) or 0) > last:
            raise InputError(f"loss.{name} is {getattr(loss, name)}, expected 1 to {last}")
    if loss.start == "noise":
        raise InputError("loss.start is noise, expected lq or reference: all other examples start from noise")
    if config.stage != "vae":
        if (loss.image_weight or loss.start_fraction) and not round(loss.start_fraction * config.batch_size):
            what = "loss.image_weight needs examples to decode" if loss.image_weight else "it is part of one example"
            raise InputError(
                f"loss.start_fraction is {loss.start_fraction} of batch_size {config.batch_size}, expected more: {what}"
            )
        make_course(schedule_of(config), sampling_of(config))  # with which previews and the export are sampled
    if bool(loss.adversarial_weight) != (DISCRIMINATOR in config.new):
        raise InputError(
            f"loss.adversarial_weight is {loss.adversarial_weight} and new holds {', '.join(config.new) or 'nothing'}, "
            f"expected a {DISCRIMINATOR} where the weight is above 0, and there alone"
        )
