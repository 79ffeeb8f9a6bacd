"""Table 3, row "CFG only": guidance away from the negative prompt, without a description."""

from dataclasses import replace


def change(cascade):
    def undescribed(sampling):
        return replace(sampling, prompt="")

    return replace(
        cascade, sampling=undescribed(cascade.sampling), activation_sampling=undescribed(cascade.activation_sampling)
    )
