"""Checkpoints: state, data iterator, step and the run's description, saved together with Orbax.

A damaged checkpoint costs the steps since the one before, never the run: the older one is restored, and newer ones are
moved to `set_aside`, since a folder that holds later steps accepts no earlier ones.
"""

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
from jaxtyping import PyTree
from orbax.checkpoint import checkpoint_managers as policies

from cassr_jax.buckets import Folder, in_bucket, move, reaching
from cassr_jax.config import TrainConfig
from cassr_jax.errors import InputError
from cassr_jax.files import Json, is_file, read_json
from cassr_jax.printing import complain
from cassr_jax.sharding.placement import Leaf
from cassr_jax.training.checksums import array_checksums, json_checksum
from cassr_jax.training.processes import gather_texts, refused_together
from cassr_jax.training.state import TrainState
from cassr_jax.weights.quiet import quieten_readers

CHECKPOINTS, SET_ASIDE = "checkpoints", "set_aside"  # folders of a run
CHECKSUMS = "checksums"  # the entry of a checkpoint's `run` that holds them; older checkpoints have none

Origins = Mapping[str, Mapping[str, str]]  # kind -> {"source", "sha256"}


class Digests:
    """A hash of each network's parameters (names, types and values), which are added in the order of their names."""

    def __init__(self) -> None:
        self._of_kind: dict[str, hashlib._Hash] = {}

    def add(self, name: str, value: np.ndarray) -> None:
        """Add the parameter `kind.path`."""
        digest = self._of_kind.setdefault(name.split(".", 1)[0], hashlib.sha256())
        digest.update(f"{name} {value.dtype} {value.shape}".encode())
        digest.update(np.ascontiguousarray(value).view(np.uint8).data)

    def origins(self, config: TrainConfig) -> Origins:
        """The source and hash of each network; a checkpoint holds these in place of frozen weights."""
        return {
            kind: {"source": config.components.get(kind, f"new, seed {config.seed}"), "sha256": digest.hexdigest()}
            for kind, digest in self._of_kind.items()
        }


@dataclass(frozen=True)
class Criterion:
    """What makes one checkpoint better than another: a measure, and whether it should be high."""

    measure: str
    high: bool = False

    def rank(self, measures: Mapping[str, float]) -> float:
        """A number that is higher for a better checkpoint; the lowest of all if the measure is absent or no number."""
        value = measures.get(self.measure, math.nan)
        return -math.inf if math.isnan(value) else value if self.high else -value


LOWEST_LOSS = Criterion("loss")


@dataclass(frozen=True)
class Saved:
    """The contents of a checkpoint.

    Attributes:
        state: the training state, in the requested layout.
        data: the data iterator's state.
        run: the description of the run that saved it; see `Checkpoints`.
    """

    step: int
    state: TrainState
    data: Json
    run: Json


class _Damaged(Exception):
    """A checkpoint cannot be read; the message gives the reason in a few words."""


class Checkpoints:
    """The checkpoints of one run in `workdir/checkpoints`: the newest `keep`, and the `best` ones by a measure.

    Writing is asynchronous, and a checkpoint gets its name only when it is complete. If the run is killed or the disk
    is full, the checkpoint before remains usable.

    Args:
        by: the measure that decides which are the best. A checkpoint that lacks it comes after all others.
        run: the run's description in JSON's own types, saved with every checkpoint; see `resume.Account`.

    Raises:
        InputError: the folder cannot be read.
    """

    def __init__(self, workdir: Folder, keep: int, best: int = 0, run: Json | None = None, by: Criterion = LOWEST_LOSS):
        self.run = dict(run or {})
        folder = workdir / CHECKPOINTS
        if not in_bucket(folder):  # where no file is cut short
            folder = Path(folder).absolute()
            # The manager first reads the metrics of every step, and fails on a damaged file.
            damaged = [path for path in sorted(folder.glob("step_*")) if _is_damaged_json(path / "metrics" / "metrics")]
            _set_aside(damaged)
        kept: list[policies.PreservationPolicy] = [policies.LatestN(keep)]
        if best:
            kept.append(policies.BestN(get_metric_fn=by.rank, n=best, keep_checkpoints_without_metrics=False))
        self.manager = ocp.CheckpointManager(
            folder,
            options=ocp.CheckpointManagerOptions(
                step_prefix="step",
                cleanup_tmp_directories=True,
                best_fn=by.rank,  # without it no metrics are written
                preservation_policy=policies.AnyPreservationPolicy(kept),
            ),
        )
        self._complete = self.latest_step or 0
        self._writing: int | None = None

    @property
    def latest_step(self) -> int | None:
        return self.manager.latest_step()

    def save(self, state: TrainState, data_state: Json, measures: Mapping[str, float] | None = None) -> None:
        """Start writing a checkpoint with its `measures`, which decide whether it is kept as one of the best.

        Raises:
            InputError: the folder holds later steps, or this checkpoint or the one before could not be written.
        """
        step = int(state.step)
        if step == self.latest_step:
            return
        sums = array_checksums(state) | {"data": json_checksum(data_state), "run": json_checksum(self.run)}
        run = self.run | {CHECKSUMS: sums}
        items = ocp.args.Composite(
            state=ocp.args.StandardSave(state), data=ocp.args.JsonSave(data_state), run=ocp.args.JsonSave(run)
        )
        self.wait()
        self._writing = step
        with self._written():
            saved = self.manager.save(step, args=items, metrics=dict(measures) if measures else None)
        if not saved:
            raise InputError(f"{self.manager.directory}: holds step {self.latest_step}, a save at {step} was refused")

    def name(self, step: int) -> str:
        """A checkpoint's name in messages."""
        return f"{self.manager.directory}: step {step}"

    def restore(
        self,
        like: TrainState,
        accept: Callable[[str, Json], None] = lambda name, run: None,
        from_step: int | None = None,
    ) -> Saved:
        """Reads the newest intact checkpoint and warns about damaged newer ones; every process must call this.

        Args:
            like: shapes and layout of the state.
            accept: called with a checkpoint's name and its `run`; raises an InputError to refuse it.
            from_step: read this checkpoint and no other.

        Raises:
            InputError: no checkpoint can be read, `from_step` does not exist, or the parameters differ from `like`.
        """
        steps = sorted(self.manager.all_steps(), reverse=True)
        if from_step is not None and from_step not in steps:
            found = ", ".join(map(str, reversed(steps))) or "none"
            raise InputError(f"--from-step is {from_step}, expected a checkpoint of {self.manager.directory}: {found}")
        damaged = []
        for step in steps if from_step is None else [from_step]:
            try:
                saved = self._read(step, like, accept)
            except _Damaged as error:
                damaged.append(f"{self.name(step)} is damaged ({error})")
                continue
            if damaged and jax.process_index() == 0:
                older = f"; the older step {step} is taken, as by --from-step {step}"
                complain(f"warning: {'; '.join(damaged)}{older}")
            return saved
        others = [step for step in steps if step != from_step] if from_step is not None else []
        rest = f"--from-step {' or '.join(map(str, others))}" if others else "a whole one; there is no other"
        raise InputError(f"{'; '.join(damaged)}; expected {rest}")

    def _read(self, step: int, like: TrainState, accept: Callable[[str, Json], None]) -> Saved:
        """Reads one checkpoint, in all processes or in none.

        Raises:
            _Damaged: it cannot be read.
            InputError: it is not accepted, or its parameters differ from `like`.
        """
        target = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        with _readable("data or run"):
            items = {"data": ocp.args.JsonRestore(), "run": ocp.args.JsonRestore()}
            found = self.manager.restore(step, args=ocp.args.Composite(**items))
            data, run = found["data"], found["run"]
            saved = dict(run.pop(CHECKSUMS, {}))
        _check_checksums({"data": json_checksum(data), "run": json_checksum(run)}, saved)
        with _readable("list of arrays"):
            shapes = _shapes(
                ocp.StandardCheckpointHandler().metadata(self.manager.directory / f"step_{step}" / "state").tree
            )
        accept(self.name(step), run)
        self._check_shapes(step, shapes, _shapes(target))
        with _readable("arrays"):
            items = {"state": ocp.args.StandardRestore(target)}
            state = self.manager.restore(step, args=ocp.args.Composite(**items))["state"]
        _check_checksums(array_checksums(state), saved)
        return Saved(step, state, data, run)

    def _check_shapes(self, step: int, found: Mapping[str, object], expected: Mapping[str, object]) -> None:
        for name in sorted(found.keys() | expected):
            if found.get(name) != expected.get(name):
                raise InputError(
                    f"{self.name(step)} does not fit this configuration: it holds {name} of shape {found.get(name)}, "
                    f"expected {expected.get(name)}; give the run its own configuration, or another folder"
                )

    def set_aside_after(self, step: int) -> None:
        """Move all later checkpoints away, so that the run can go on from `step`; every process must call this.

        Raises:
            InputError: they cannot be moved.
        """
        later = sorted(found for found in self.manager.all_steps() if found > step)
        if not later:
            return
        _set_aside([self.manager.directory / f"step_{found}" for found in later])
        self.manager.reload()
        self._complete = step

    @contextmanager
    def _written(self) -> Iterator[None]:
        """A block whose errors in writing, of this checkpoint or the one before, become one InputError."""
        try:
            yield
        except Exception as error:  # a bucket has errors of its own
            raise InputError(
                f"{self.manager.directory}: step {self._writing} could not be written "
                f"({' '.join(str(error).split())[:300]}); older checkpoints are intact"
            ) from error

    def wait(self) -> None:
        """Wait until the last save is on disk.

        Raises:
            InputError: it could not be written.
        """
        if self._writing is not None:
            with self._written():
                self.manager.wait_until_finished()
            self._complete, self._writing = self._writing, None

    def limit_loss(self, step: int, most: int) -> None:
        """Before a step, wait for a save under way if a kill could otherwise cost more than `most` steps.

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


@contextmanager
def _readable(part: str) -> Iterator[None]:
    """A block that reads a part of a checkpoint; an error, in any process, becomes `_Damaged` in all of them."""
    reason = ""
    quieten_readers()
    try:
        yield
    except Exception as error:
        reason = f"its {part} cannot be read: {_reason(error)}"
    if reasons := list(filter(None, gather_texts(reason))):
        raise _Damaged(reasons[0])


def _reason(error: BaseException) -> str:
    """The words of the first cause; Orbax wraps it in errors that show a method in its place."""
    while error.__cause__ is not None:
        error = error.__cause__
    words = str(error.args[0] if isinstance(error, KeyError) and error.args else error)
    return " ".join(words.split())[:200] or type(error).__name__


def _check_checksums(found: Json, saved: Json) -> None:
    """Compares what was read with what was saved, as far as that is known.

    Raises:
        _Damaged: something differs.
    """
    for name, checksum in found.items():
        if saved and saved.get(name) != checksum:
            raise _Damaged(f"{name} is not what was saved")


def _shapes(tree: PyTree[Leaf]) -> dict[str, tuple[int, ...]]:
    leaves = jax.tree.leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): tuple(leaf.shape) for path, leaf in leaves}


def _is_damaged_json(file: Path) -> bool:
    if not is_file(file):  # a checkpoint may have no metrics
        return False
    try:
        read_json(file, object)
    except InputError:
        return True
    return False


def _set_aside(checkpoints: Sequence[Folder]) -> None:
    """Move checkpoints to `set_aside`, under free names; every process must call this, and the first one moves.

    Raises:
        InputError: a checkpoint cannot be moved.
    """
    with refused_together():
        for path in checkpoints if jax.process_index() == 0 else []:
            try:
                aside = path.parents[1] / SET_ASIDE
                aside.mkdir(exist_ok=True)
                taken = {other.name for other in aside.glob("*")}
                names = (path.name, *(f"{path.name}_{number}" for number in range(2, len(taken) + 3)))
                moved = aside / next(name for name in names if name not in taken)
                with reaching(path, "cannot be set aside"):
                    move(path, moved)
            except OSError as error:
                raise InputError(f"{path}: cannot be set aside ({error.strerror or error})") from error
            complain(f"warning: {path} is set aside as {moved}")
