"""Table 2, row "SCEdit reference"."""

from dataclasses import replace


def change(cascade):
    return replace(cascade, activation="scedit")
