"""Table 2, row "ControlNet reference". The cascade names the ControlNet as component `activation_controlnet`."""

from dataclasses import replace


def change(cascade):
    return replace(cascade, activation="controlnet")
