"""Saving and taking up again: state, data iterator, step and what the run stands on as one Orbax checkpoint."""

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as policies

from cassr_jax.config import TrainConfig
from cassr_jax.errors import InputError
from cassr_jax.training.state import TrainState

Origins = Mapping[str, Mapping[str, str]]  # kind -> {"source", "sha256"}


def origins(config: TrainConfig, frozen: Mapping[str, jax.Array]) -> Origins:
    """Where each frozen network came from, and a hash of its parameters (names, types, values) as they were read.

    Frozen weights are not written with a checkpoint; this is what it holds in their place.
    """
    digests: dict[str, Any] = {}
    for name in sorted(frozen):
        kind, value = name.split(".", 1)[0], np.asarray(frozen[name])
        digest = digests.setdefault(kind, hashlib.sha256())
        digest.update(f"{name} {value.dtype} {value.shape}".encode())
        digest.update(np.ascontiguousarray(value).view(np.uint8).data)
    return {
        kind: {"source": config.components.get(kind, f"new, seed {config.seed}"), "sha256": digest.hexdigest()}
        for kind, digest in digests.items()
    }


class Checkpoints:
    """The checkpoints of one run, below `workdir/checkpoints`: the newest `keep`, and the `best` of lowest loss.

    Writing is asynchronous, and a checkpoint appears under its name only when it is complete: a run killed at any
    moment, or a full disk, leaves the one before it usable.

    Args:
        run: JSON's own types, saved with every checkpoint: the configuration (which holds the seed), and `frozen`, the
            `origins` of the weights that are not in the checkpoint.
    """

    def __init__(self, workdir: Path, keep: int, best: int = 0, run: Mapping[str, Any] | None = None):
        self.run = dict(run or {})
        kept: list[Any] = [policies.LatestN(keep)]
        if best:
            kept.append(
                policies.BestN(get_metric_fn=_loss, reverse=True, n=best, keep_checkpoints_without_metrics=False)
            )
        self.manager = ocp.CheckpointManager(
            (workdir / "checkpoints").absolute(),
            options=ocp.CheckpointManagerOptions(
                step_prefix="step",
                cleanup_tmp_directories=True,
                best_fn=_loss,  # without it no metrics are written
                best_mode="min",
                preservation_policy=policies.AnyPreservationPolicy(kept),
            ),
        )
        self._complete = self.latest_step or 0
        self._writing: int | None = None

    @property
    def latest_step(self) -> int | None:
        return self.manager.latest_step()

    def save(self, state: TrainState, data_state: Any, loss: float | None = None) -> None:
        """Begin to write a checkpoint; `loss` is the mean since the one before, by which the best are kept.

        Raises:
            InputError: the folder holds later steps, or this or the last checkpoint could not be written.
        """
        step = int(state.step)
        if step == self.latest_step:
            return
        items = ocp.args.Composite(
            state=ocp.args.StandardSave(state), data=ocp.args.JsonSave(data_state), run=ocp.args.JsonSave(self.run)
        )
        self.wait()
        self._writing = step
        with self._written():
            saved = self.manager.save(step, args=items, metrics=None if loss is None else {"loss": loss})
        if not saved:
            raise InputError(f"{self.manager.directory}: holds step {self.latest_step}, a save at {step} was refused")

    def restore(self, like: TrainState) -> tuple[TrainState, Any]:
        """The newest state, laid out as `like` is, and the data iterator's state.

        Raises:
            InputError: the checkpoint holds other parameters than `like`, or was trained on other frozen weights.
        """
        step = self.latest_step
        target = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        items = {"state": ocp.args.StandardRestore(target), "data": ocp.args.JsonRestore()}
        if self.run:
            before = self.manager.restore(step, args=ocp.args.Composite(run=ocp.args.JsonRestore()))["run"]
            self._check_frozen(step, before.get("frozen", {}))
        try:
            restored = self.manager.restore(step, args=ocp.args.Composite(**items))
        except ValueError as error:
            raise InputError(
                f"{self.manager.directory}: step {step} does not fit this configuration: {error}"
            ) from error
        return restored["state"], restored["data"]

    def _check_frozen(self, step: int | None, before: Origins) -> None:
        now = self.run.get("frozen", {})
        for kind in sorted(before.keys() | now):
            found, expected = now.get(kind), before.get(kind)
            if (found or {}).get("sha256") != (expected or {}).get("sha256"):
                raise InputError(
                    f"{self.manager.directory}: step {step} was trained on the {kind} {_described(expected)}, "
                    f"found {_described(found)}; give it those weights, or another folder"
                )

    @contextmanager
    def _written(self) -> Iterator[None]:
        """An error of writing, of this checkpoint or of the one begun before it, in one sentence."""
        try:
            yield
        except (OSError, ValueError, RuntimeError) as error:
            raise InputError(
                f"{self.manager.directory}: step {self._writing} could not be written "
                f"({' '.join(str(error).split())[:300]}); older checkpoints are intact"
            ) from error

    def wait(self) -> None:
        """Until the last save lies on disk.

        Raises:
            InputError: it could not be written.
        """
        if self._writing is not None:
            with self._written():
                self.manager.wait_until_finished()
            self._complete, self._writing = self._writing, None

    def limit_loss(self, step: int, most: int) -> None:
        """Before a step: wait for the save that is being written, if a kill could else cost more than `most` steps.

        Raises:
            InputError: it could not be written.
        """
        if self._writing is not None and step + 1 - self._complete > most:
            self.wait()

    def close(self) -> None:
        """Waits for the last save."""
        try:
            self.wait()
        finally:
            self.manager.close()


def _loss(metrics: Mapping[str, float]) -> float:
    return metrics["loss"]


def _described(origin: Mapping[str, str] | None) -> str:
    return "none" if origin is None else f"{origin['source']} (sha256 {origin['sha256'][:12]})"
