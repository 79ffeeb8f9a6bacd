"""Table 2: SCEdit makes the reference."""

from dataclasses import replace


def change(cascade):
    return replace(cascade, activation="scedit")
