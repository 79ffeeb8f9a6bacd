"""The logs of a run: means over steps, as JSON lines and for TensorBoard."""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np

from cassr_jax.errors import InputError
from cassr_jax.imaging import io
from cassr_jax.printing import complain
from cassr_jax.sharding.chips import PEAK_FLOPS

PREVIEWS = "previews"  # the folder of a run's pictures
METRICS_FILE = "metrics.jsonl"


class Meter:
    """Collects the metrics of steps and summarises them.

    Args:
        batch_size: pictures in one step, over all devices.
        device_kind: decides the peak; without a known peak, utilisation is left out.
    """

    def __init__(self, batch_size: int, device_kind: str):
        self.batch_size = batch_size
        self.flops = 0.0
        self.peak = PEAK_FLOPS.get(device_kind)
        self._steps: list[Mapping[str, float]] = []
        self._losses: list[float] = []
        self._waited = 0.0
        self._since = time.perf_counter()

    def add(self, metrics: Mapping[str, float]) -> None:
        self._steps.append(metrics)
        if not metrics["skipped"]:
            self._losses.append(metrics["loss"])

    def begin(self, flops: float) -> None:
        """Time counts from here; `flops` is the work of a step on one device."""
        self.flops = flops
        self._since, self._waited = time.perf_counter(), 0.0

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """A block whose time counts as waiting for data."""
        before = time.perf_counter()
        yield
        self._waited += time.perf_counter() - before

    @contextmanager
    def paused(self) -> Iterator[None]:
        """A block whose time counts for no step."""
        before = time.perf_counter()
        yield
        self._since += time.perf_counter() - before

    def loss_since_last(self) -> float | None:
        """The mean loss since the last call; None if no update was made."""
        losses, self._losses = self._losses, []
        return float(np.mean(losses)) if losses else None

    def summary(self) -> dict[str, float]:
        """Means since the last summary. Skipped updates are counted, but enter no mean except that of time."""
        steps, self._steps = self._steps, []
        waited, self._waited = self._waited, 0.0
        before, self._since = self._since, time.perf_counter()
        seconds = (self._since - before) / len(steps)
        kept = [metrics for metrics in steps if not metrics["skipped"]]
        names = [name for name in steps[0] if name != "skipped"]
        found = {name: float(np.mean([metrics[name] for metrics in kept])) for name in names} if kept else {}
        found |= {
            "skipped": float(sum(metrics["skipped"] for metrics in steps)),
            "seconds_per_step": seconds,
            "images_per_second": self.batch_size / seconds,
            "data_wait": waited / len(steps),
        }
        if self.peak and self.flops:
            found["flop_utilisation"] = self.flops / seconds / self.peak
        return found


class Logs:
    """`metrics.jsonl`, `previews` and TensorBoard's events in `workdir`, written by the first process alone.

    They are only to look at, so a full disk does not end a run for them: a warning names what cannot be written.

    Raises:
        InputError: the files cannot be opened.
    """

    def __init__(self, workdir: Path):
        self._writes = jax.process_index() == 0
        self._previews, self._warned = workdir / PREVIEWS, ""
        if not self._writes:
            return
        file = workdir / METRICS_FILE
        try:
            self._file = file.open("a", encoding="utf-8")
            self._board = _Board(workdir / "tensorboard")
        except OSError as error:
            raise InputError(f"{error.filename or file}: cannot be written ({error.strerror or error})") from error

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        if not self._writes:
            return
        with self._going_on():
            self._file.write(json.dumps({"step": step} | dict(metrics)) + "\n")
            self._file.flush()
        with self._going_on():
            self._board.write(step, metrics)

    def show(self, step: int, picture: np.ndarray) -> None:
        """Add the preview (H, W, 3) uint8 of a step."""
        if not self._writes:
            return
        with self._going_on():
            io.write(self._previews / f"{step:08d}.png", io.Picture(picture))
        with self._going_on():
            self._board.show(step, picture)

    def close(self) -> None:
        if not self._writes:
            return
        for opened in (self._file, self._board):
            with self._going_on():
                opened.close()

    @contextmanager
    def _going_on(self) -> Iterator[None]:
        """A block that writes; what it cannot write is said, though not again and again."""
        try:
            yield
        except (OSError, InputError) as error:
            if str(error) != self._warned:
                complain(f"warning: a log or preview cannot be written ({error}); training goes on")
            self._warned = str(error)


class _Board:
    """TensorBoard's events, each written at once.

    The usual writer of tensorboardX hands them to a thread, and waits for ever once that has met a full disk.
    """

    def __init__(self, folder: Path):
        from tensorboardX import event_file_writer, summary  # imports torch where that is installed
        from tensorboardX.proto import event_pb2

        folder.mkdir(parents=True, exist_ok=True)
        self._events = event_file_writer.EventsWriter(str(folder / "events"))
        self._summary = summary
        self._event = event_pb2.Event  # pyright: ignore[reportAttributeAccessIssue]

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        self._add(step, [self._summary.scalar(name, value) for name, value in metrics.items()])

    def show(self, step: int, picture: np.ndarray) -> None:
        self._add(step, [self._summary.image("preview", picture, dataformats="HWC")])

    def _add(self, step: int, summaries: Sequence[Any]) -> None:
        for summary in summaries:
            self._events.write_event(self._event(step=step, wall_time=time.time(), summary=summary))
        self._events.flush()

    def close(self) -> None:
        self._events.close()
