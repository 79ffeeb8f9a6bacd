"""Table 3, row "CFG only": guidance away from the negative prompt, without a description.

    python -m cassr_jax.commands.ablate --lr LR --hr HR --config tiny --output ablations

Cost: every picture is restored once more.
Result: a row of the table that the command prints.
"""

from dataclasses import replace

from cassr_jax.errors import InputError


def change(cascade):
    if cascade.sampling.guidance_scale == 1:
        raise InputError("guidance_scale is 1, expected another: without guidance this row is prompt_none")

    def undescribed(sampling):
        return replace(sampling, prompt="")

    return replace(
        cascade, sampling=undescribed(cascade.sampling), activation_sampling=undescribed(cascade.activation_sampling)
    )
