"""Whether the data keep up with the devices: both rates in one sentence."""

import math

_TIMED = 3  # steps that are timed by themselves; a run is a little slower while it waits for each of them
_SHARE = 0.1  # of a step's time, from which waiting for data counts


class Pace:
    """Compares the examples that are made in a second with those that the devices would take.

    A step by itself tells what the devices would take. Waiting tells nothing of it: the devices may be at work on the
    step before. The examples that are kept ready hide slow data at first, so every summary is looked at.
    """

    def __init__(self, batch_size: int, machines: int):
        self._batch_size = batch_size
        self._makers = "this machine makes" if machines == 1 else f"the {machines} machines make"
        self._steps: list[float] = []
        self._said: set[bool] = set()

    @property
    def times_steps(self) -> bool:
        """Whether the next step should be timed by itself."""
        return len(self._steps) < _TIMED

    def add(self, seconds: float) -> None:
        """Take note of the time of a step by itself."""
        self._steps.append(seconds)

    def news(self, seconds: float, waited: float) -> str:
        """A sentence, or nothing if there is nothing new to say.

        Args:
            seconds: time from one step to the next.
            waited: the part of it in which the run waited for data.
        """
        alone = min(self._steps, default=math.inf)
        slow = waited > _SHARE * seconds and alone < (1 - _SHARE) * seconds
        if slow in self._said or True in self._said or not self._steps:
            return ""
        self._said.add(slow)
        made, taken = (f"{self._batch_size / each:.3g} examples/s" for each in (seconds, alone))
        if not slow:
            return f"the data keep up with the devices, which take {taken}"
        return (
            f"the data are the limit: {self._makers} {made}, and the devices would take {taken}; what helps: more "
            "cores, pairs made beforehand, large pictures cut into pieces, or data.resident (docs/data.md, Speed)"
        )
