"""Table 3, row "no description, no CFG": neither a description nor guidance.

    python -m cassr_jax.commands.ablate --lr LR --hr HR --config tiny --output ablations

Cost: every picture is restored once more.
Result: a row of the table that the command prints.
"""

from dataclasses import replace


def change(cascade):
    def silent(sampling):
        return replace(sampling, prompt="", guidance_scale=1.0)

    return replace(cascade, sampling=silent(cascade.sampling), activation_sampling=silent(cascade.activation_sampling))
