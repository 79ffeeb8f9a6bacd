"""Beside Table 2: Real-ESRGAN or another RRDBNet makes the reference."""

from dataclasses import replace


def change(cascade):
    return replace(cascade, activation="rrdbnet")
