"""Table 3: guidance away from the negative prompt, but no description."""

from dataclasses import replace


def change(cascade):
    def undescribed(sampling):
        return replace(sampling, prompt="")

    return replace(
        cascade, sampling=undescribed(cascade.sampling), activation_sampling=undescribed(cascade.activation_sampling)
    )
