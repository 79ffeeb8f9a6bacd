"""Reports of the cascade's progress to the caller, and previews of its pictures."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Literal, NamedTuple

import numpy as np

StageName = Literal["reference", "result"]
"""The stages are named after what they make."""


class Preview(NamedTuple):
    """A picture as a stage expects to end with it.

    It is decoded from the latest prediction of x_0, and comes before the colour fix and without a share of the
    reference.

    Attributes:
        stage: reference or result.
        picture: the picture's number among those given, from 0.
        step: the steps taken.
        steps: the steps of the stage.
        image: (H, W, 3) uint8, as large as the result, or larger where `process_size` is.
    """

    stage: StageName
    picture: int
    step: int
    steps: int
    image: np.ndarray


class CallersError(Exception):
    """An error of the caller's own progress or preview function, which ends the work; it is not a picture's."""

    def __init__(self, error: Exception):
        super().__init__(str(error))
        self.error = error


@contextmanager
def callers_errors() -> Iterator[None]:
    """A block that raises the caller's own errors as they were."""
    try:
        yield
    except CallersError as error:
        raise error.error from None


def report(stage: StageName, progress: Callable[[str, int, int], None] | None) -> Callable[[int, int], None] | None:
    """The function that reports a stage's progress to the caller's `progress`, if there is one."""
    if progress is None:
        return None

    def reported(done: int, total: int) -> None:
        with _callers():
            progress(stage, done, total)

    return reported


def showing(
    stage: StageName, steps: int, numbers: Sequence[int], preview: Callable[[Preview], None]
) -> Callable[[int, int, np.ndarray], None]:
    """The function that shows the caller's `preview` the pictures of a stage of so many steps.

    It is called as show(place, steps taken, image) with an image (H, W, 3) uint8, and its place among the `numbers` of
    the pictures.
    """

    def show(place: int, step: int, image: np.ndarray) -> None:
        with _callers():
            preview(Preview(stage, numbers[place], step, steps, image))

    return show


@contextmanager
def _callers() -> Iterator[None]:
    """A block of the caller's own code, whose errors are marked as such."""
    try:
        yield
    except Exception as error:
        raise CallersError(error) from error
