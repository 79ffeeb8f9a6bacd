"""The one kind of error that is a person's to mend."""


class InputError(ValueError):
    """Something given to the program cannot be used: one sentence naming it, what was found and what is expected.

    The scripts print it and exit with code 2; everything else is a fault of the program and keeps its traceback.
    """
