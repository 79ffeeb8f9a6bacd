"""Saving and taking up again: state, data iterator and step as one Orbax checkpoint."""

from pathlib import Path

import jax
import orbax.checkpoint as ocp

from cassr_jax.errors import InputError
from cassr_jax.training.state import TrainState


class Checkpoints:
    """The checkpoints of one run, below `workdir/checkpoints`; the newest few are kept.

    Writing is asynchronous, and a checkpoint appears under its name only when it is complete: a run killed at any
    moment leaves the one before it usable.
    """

    def __init__(self, workdir: Path, keep: int):
        self.manager = ocp.CheckpointManager(
            (workdir / "checkpoints").absolute(),
            options=ocp.CheckpointManagerOptions(max_to_keep=keep, step_prefix="step", cleanup_tmp_directories=True),
        )

    @property
    def latest_step(self) -> int | None:
        return self.manager.latest_step()

    def save(self, state: TrainState, data_state: dict) -> None:
        step = int(state.step)
        items = ocp.args.Composite(state=ocp.args.StandardSave(state), data=ocp.args.JsonSave(data_state))
        if step != self.latest_step and not self.manager.save(step, args=items):
            raise InputError(f"{self.manager.directory}: holds step {self.latest_step}, a save at {step} was refused")

    def restore(self, like: TrainState) -> tuple[TrainState, dict]:
        """The newest state, laid out as `like` is, and the data iterator's state.

        Raises:
            InputError: the checkpoint holds other parameters than `like`.
        """
        step = self.latest_step
        target = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        items = ocp.args.Composite(state=ocp.args.StandardRestore(target), data=ocp.args.JsonRestore())
        try:
            restored = self.manager.restore(step, args=items)
        except ValueError as error:
            raise InputError(
                f"{self.manager.directory}: step {step} does not fit this configuration: {error}"
            ) from error
        return restored["state"], restored["data"]

    def close(self) -> None:
        """Waits for the last save."""
        self.manager.wait_until_finished()
        self.manager.close()
