"""The full work: the run with which the cheaper ones are compared.

    python -m cassr_jax.commands.ablate --lr LR --hr HR --config tiny --output less_work \\
        --ablations configs/less_work --reference-weight 0 --strength 0.5 --steps 50 --guidance-scale 3

Cost: every picture is restored once more.
Result: a row of the table that the command prints; docs/sampling.md has it.
"""


def change(cascade):
    return cascade
