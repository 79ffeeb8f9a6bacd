"""Attention to the reference alone, not to the LQ image. The paper has no such row."""

from dataclasses import replace


def change(cascade):
    return replace(cascade, switches=replace(cascade.switches, lr_attention=False))
