"""Nothing left out: the cascade with which the others are compared. Table 3, row "description + CFG".

    python -m cassr_jax.commands.ablate --lr LR --hr HR --config tiny --output ablations

Cost: every picture is restored once more.
Result: a row of the table that the command prints.
"""


def change(cascade):
    return cascade
