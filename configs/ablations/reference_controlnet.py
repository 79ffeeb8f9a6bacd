"""Table 2: a ControlNet makes the reference. The cascade names it as component `activation_controlnet`."""

from dataclasses import replace


def change(cascade):
    return replace(cascade, activation="controlnet")
