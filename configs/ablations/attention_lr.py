"""Attention to the LQ image alone, not to the reference. The paper has no such row."""

from dataclasses import replace


def change(cascade):
    return replace(cascade, switches=replace(cascade.switches, reference_attention=False))
