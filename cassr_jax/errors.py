"""Exceptions that end a program without being a fault in it, and those that say that the memory is full."""


class InputError(ValueError):
    """Something given to the program cannot be used; the message says what was found and what was expected.

    The scripts print it and exit with code 2. Any other exception is a fault in the program and keeps its traceback.
    """


class Stopped(Exception):
    """A run was asked to stop, and has saved its state."""

    def __init__(self, step: int):
        super().__init__(f"stopped at step {step}; the same command goes on from there")
        self.step = step


def ran_out(error: Exception) -> bool:
    """Whether an error says that the machine or a device had no memory left."""
    return isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error)
