"""Table 3, row "no description, no CFG": neither a description nor guidance."""

from dataclasses import replace


def change(cascade):
    def silent(sampling):
        return replace(sampling, prompt="", guidance_scale=1.0)

    return replace(cascade, sampling=silent(cascade.sampling), activation_sampling=silent(cascade.activation_sampling))
