"""The second stage's picture alone: an RRDBNet's reference has no share in the result. The paper has no such row.

    python -m cassr_jax.commands.ablate --lr LR --hr HR --config tiny --output ablations

Cost: every picture is restored once more.
Result: a row of the table that the command prints.
"""

from dataclasses import replace


def change(cascade):
    stages = {name: replace(stage, reference_weight=0.0) for name, stage in cascade.first_stages.items()}
    return replace(cascade, first_stages=stages)
