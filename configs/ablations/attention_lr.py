"""Not in the paper: attention to the LR image alone."""

from dataclasses import replace


def change(cascade):
    return replace(cascade, switches=replace(cascade.switches, reference_attention=False))
