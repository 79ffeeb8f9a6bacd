"""Table 2, row "ControlNet reference". The cascade names the ControlNet as component `activation_controlnet`.

    python -m cassr_jax.commands.ablate --lr LR --hr HR --config tiny --output ablations

Cost: every picture is restored once more.
Result: a row of the table that the command prints.
"""

from dataclasses import replace


def change(cascade):
    return replace(cascade, activation="controlnet")
