"""Attention to the reference alone, not to the LQ image. The paper has no such row.

    python -m cassr_jax.commands.ablate --lr LR --hr HR --config tiny --output ablations

Cost: every picture is restored once more.
Result: a row of the table that the command prints.
"""

from dataclasses import replace


def change(cascade):
    return replace(cascade, switches=replace(cascade.switches, lr_attention=False))
