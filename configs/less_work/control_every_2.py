"""The ControlNet's features are computed in every other step and used in two.

    python -m cassr_jax.commands.ablate --lr LR --hr HR --config tiny --output less_work \\
        --ablations configs/less_work --reference-weight 0 --strength 0.5 --steps 50 --guidance-scale 3

Cost: every picture is restored once more.
Result: a row of the table that the command prints; docs/sampling.md has it.
"""

from cassr_jax.commands.settings import with_options


def change(cascade):
    return with_options(cascade, {"control_every": 2})
