"""Not in the paper: attention to the reference alone."""

from dataclasses import replace


def change(cascade):
    return replace(cascade, switches=replace(cascade.switches, lr_attention=False))
