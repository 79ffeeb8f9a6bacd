"""Reports of the cascade's progress to the caller."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

StageName = Literal["reference", "result"]
"""The stages are named after what they make."""


class CallersError(Exception):
    """An error of the caller's own progress function, which ends the work; it is not a picture's."""

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
        try:
            progress(stage, done, total)
        except Exception as error:
            raise CallersError(error) from error

    return reported
