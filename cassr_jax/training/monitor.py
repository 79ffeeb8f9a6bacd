"""The view of a run while it trains: its bar, metrics, previews and trace, and the guard on its numbers."""

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path

import jax
from tqdm import tqdm

from cassr_jax.config import TrainConfig
from cassr_jax.models.parameters import Params
from cassr_jax.printing import progress_bar
from cassr_jax.training.guard import Guard
from cassr_jax.training.logs import Logs, Meter
from cassr_jax.training.pace import Pace
from cassr_jax.training.previews import Preview
from cassr_jax.training.processes import say_once
from cassr_jax.training.state import TrainState
from cassr_jax.training.validation import Validation
from cassr_jax.typing import HostExamples, Metrics


class Monitor:
    """Follows a run one step behind: a step's results are read while the device works on the next step.

    Args:
        preview: makes a picture from all parameters; None for none.
        validation: measures the averaged weights; None for no validation.
        traced: the steps to trace into `workdir/profile`.
    """

    def __init__(
        self, config: TrainConfig, workdir: Path, preview: Preview | None, validation: Validation | None, traced: range
    ):
        self._config = config
        self._workdir = workdir
        self._preview, self._validation = preview, validation
        self._validated: tuple[int, Mapping[str, float]] = (0, {})  # the step, and what was measured
        self._traced, self._tracing = traced, False
        self._logs = Logs(workdir)
        self._guard = Guard(config.skip_limit, workdir / "nonfinite")
        self._meter = Meter(config.batch_size, jax.devices()[0].device_kind)
        self._pace = Pace(config.batch_size, jax.process_count())
        self._begun = 0.0  # when the last step was started
        self._running: tuple[int, HostExamples, Metrics] | None = None  # the one step that the device may be busy with
        self._bar: tqdm | None = None

    def steps(self, start: int) -> Iterator[int]:
        """The remaining steps, with a progress bar in the first process."""
        total, first_process = self._config.num_steps, jax.process_index() == 0
        steps = range(start, total)
        self._bar = progress_bar(
            steps, initial=start, total=total, unit="step", mininterval=5, disable=not first_process
        )
        for step in self._bar:
            if step in self._traced and not self._tracing:
                jax.profiler.start_trace(str(self._workdir / "profile"))
                self._tracing = True
            yield step

    def begin(self, flops: float) -> None:
        """Start the clock, once the step is compiled; `flops` is the work of a step on each device."""
        self._meter.begin(flops)

    def waiting(self) -> AbstractContextManager[None]:
        """Measures the time that a run waits for its data."""
        return self._meter.waiting()

    def measures(self, step: int) -> dict[str, float]:
        """What is known of the state before a step: the mean `loss` since the last call, and the step's validation."""
        loss = self._meter.loss_since_last()
        validated, found = self._validated
        return ({} if loss is None else {"loss": loss}) | (dict(found) if validated == step else {})

    def before_step(self, state: TrainState) -> None:
        """Settle the running step if the guard might need the state's arrays, or the next step is timed by itself.

        The next step overwrites those arrays.
        """
        if self._guard.next_may_end or self._pace.times_steps:
            self.settle(state)
        self._begun = time.perf_counter()

    def after_step(
        self,
        step: int,
        batch: HostExamples,
        metrics: Metrics,
        state: TrainState,
        frozen: Params,
        damaged: int,
    ) -> None:
        """Take note of a started step, do all that is due after it, and end a run that is not finite.

        Logs, validation and previews may be due; those take no part in the time of a step.

        Args:
            state: the state after the step.
            damaged: the number of records left out so far.

        Raises:
            InputError: too many updates in a row were not finite.
        """
        self.settle(state)
        self._running = (step, batch, metrics)
        done = step + 1
        if self._pace.times_steps:
            self.settle(state)
            self._pace.add(time.perf_counter() - self._begun)
        if self._tracing and done not in self._traced:
            self.settle(state)
            self._end_trace()
        if done % self._config.log_every == 0 or done == self._config.num_steps:
            self.settle(state)
            means = self._meter.summary() | ({"damaged_records": damaged} if damaged else {})
            self._logs.write(done, means)
            if news := self._pace.news(means["seconds_per_step"], means["data_wait"]):
                say_once(news)
            assert self._bar is not None, "a step is one of `steps`"
            self._bar.set_postfix(loss=f"{means.get('loss', math.nan):.4f}", skipped=int(means["skipped"]))
        every = self._config.validation.every
        if self._validation is not None and (done % every == 0 or done == self._config.num_steps):
            self.settle(state)
            with self._meter.paused():
                self._validated = done, self._validation(state.ema, frozen)
                self._logs.write(done, self._validated[1])
        if self._preview is not None and done % self._config.preview_every == 0:
            self.settle(state)
            with self._meter.paused():
                self._logs.show(done, self._preview({**frozen, **state.ema}))

    def settle(self, state: TrainState) -> None:
        """Wait for the running step, and take in its results."""
        if self._running is None:
            return
        (step, batch, metrics), self._running = self._running, None
        found = {name: value.item() for name, value in jax.device_get(metrics).items()}
        self._guard.check(step, batch, found, state.params)
        self._meter.add(found)

    def _end_trace(self) -> None:
        if self._tracing:
            self._tracing = False
            jax.profiler.stop_trace()

    def close(self) -> None:
        self._end_trace()
        self._logs.close()


def traced_steps(asked: tuple[int, int] | None, left: range) -> range:
    """The requested steps that the run still has; prints a line if that is not all of them.

    Args:
        asked: the first step, and the one after the last; None for no trace.
        left: the steps that the run still has.
    """
    if asked is None:
        return range(0)
    found = range(max(asked[0], left.start), min(asked[1], left.stop))
    if found != range(*asked):
        traced = f"{found.start}:{found.stop} is traced" if found else "nothing is traced"
        say_once(f"profile: {traced}, asked for {asked[0]}:{asked[1]}, the run goes from {left.start} to {left.stop}")
    return found
