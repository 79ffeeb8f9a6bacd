"""What ends a program that is not a fault of its own."""


class InputError(ValueError):
    """Something given to the program cannot be used: one sentence naming it, what was found and what is expected.

    The scripts print it and exit with code 2; everything else is a fault of the program and keeps its traceback.
    """


class Stopped(Exception):
    """A run was asked to stop, and its state is saved."""

    def __init__(self, step: int):
        super().__init__(f"stopped at step {step}; the same command goes on from there")
        self.step = step
