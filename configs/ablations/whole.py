"""Nothing left out: what the others are compared with."""


def change(cascade):
    return cascade
