"""The options of every command that samples: one name, one range and one explanation each, wherever they appear.

No JAX here, so that a command can show its help and refuse a wrong option at once.
"""

import argparse
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

from cassr_jax.choices import PRECISIONS, ColorFix, Sampler, Start
from cassr_jax.errors import InputError
from cassr_jax.files import check_local
from cassr_jax.first_stage import NAMES
from cassr_jax.ranges import COUNT, RANGES, Range


def number(allowed: Range) -> Callable[[str], int | float]:
    """The `type` of an option that takes a number of a range; the parser refuses any other with the range in words."""
    allowed = replace(allowed, optional=False)  # None is what leaving the option out gives

    def parse(text: str) -> int | float:
        try:
            return allowed.parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return parse


def local_path(text: str) -> Path:
    """The `type` of an option that names a file or a folder; an address such as gs://bucket/run is refused by name."""
    try:
        check_local(text, "it")
    except InputError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return Path(text)


def _of_options(field: str) -> Callable[[str], int | float]:
    return number(RANGES["Options"][field])


OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "config": {
        "metavar": "CONFIG",
        "default": "tiny",
        "help": "the cascade: tiny (ships with the program), a file of configs/, or a folder of weights",
    },
    "activation": {
        "choices": NAMES,
        "help": "the first stage, which makes the reference picture that guides the second: rrdbnet is Real-ESRGAN, "
        "identity the enlarged input itself",
    },
    "scale": {
        "type": _of_options("scale"),
        "metavar": "X",
        "default": 4.0,
        "help": "side of the output over side of the input",
    },
    "seed": {
        "type": _of_options("seed"),
        "metavar": "N",
        "default": 0,
        "help": "decides the noise, 0 to 2**63 - 1: another seed is another variation, the same gives the same pixels",
    },
    "steps": {
        "type": _of_options("steps"),
        "metavar": "N",
        "help": "sampling steps of each stage; fewer are faster, and often softer",
    },
    "guidance_scale": {
        "type": _of_options("guidance_scale"),
        "metavar": "S",
        "help": "how strongly the prompt pulls (classifier-free guidance); 1 switches it off and halves the work",
    },
    "sampler": {
        "choices": get_args(Sampler),
        "help": "how a step goes from noise towards the picture; dpmpp_2m and unipc need the fewest steps",
    },
    "start": {
        "choices": get_args(Start),
        "help": "the picture that the second stage's noise is mixed into: the enlarged input, the first stage's "
        "reference, or none",
    },
    "strength": {
        "type": _of_options("strength"),
        "metavar": "S",
        "help": "above 0, at most 1: how much noise is mixed in; little keeps the start and changes only the finer "
        "things, 1 starts from noise",
    },
    "color_fix": {
        "choices": get_args(ColorFix),
        "help": "how the colours are brought back to the input's: wavelet takes its low frequencies, adain its means "
        "and deviations, contrast its contrast and means",
    },
    "reference_weight": {
        "type": _of_options("reference_weight"),
        "metavar": "W",
        "help": "0 to 1: share of the first stage's reference in the result; 0 is the second stage's picture alone",
    },
    "fidelity": {
        "type": _of_options("fidelity"),
        "metavar": "W",
        "help": "0 to 1: how much the decoder takes from the input and the reference directly; 0 decodes only what "
        "the second stage made",
    },
    "tile": {
        "type": _of_options("tile"),
        "metavar": "PX",
        "help": "larger pictures go through the networks in overlapping tiles, whose sides are at most this many px "
        "of the output; smaller ones need less memory",
    },
    "devices": {
        "type": number(COUNT),
        "metavar": "N",
        "help": "how many devices share the tiles of a picture (default: all accelerators, or one CPU)",
    },
    "precision": {
        "choices": list(PRECISIONS),
        "help": "numbers that the networks compute in; bf16 and fp16 need half the memory (default: fp32)",
    },
    "set": {
        "nargs": "+",
        "default": [],
        "metavar": "FIELD=VALUE",
        "help": "change fields of the configuration, as in --set batch_size=2 data.path=PHOTOS",
    },
}

SAMPLING = (
    *("steps", "guidance_scale", "sampler", "start", "strength", "color_fix", "reference_weight", "fidelity", "tile"),
)
"""What `Options` can change about a cascade's own settings."""


def add_options(parser: Any, *names: str, **defaults: Any) -> None:
    """Add options of `OPTIONS` to a parser or to a group of one.

    Args:
        parser: an `argparse.ArgumentParser`, or what its `add_argument_group` returns.
        names: which, as fields are spelt (`guidance_scale` is the option --guidance-scale).
        defaults: values where an option is left out, in place of the ones in `OPTIONS`.
    """
    for name in names:
        option = dict(OPTIONS[name])
        default = option["default"] = defaults.get(name, option.get("default"))
        if default not in (None, []):
            option["help"] += f" (default: {default:g})" if isinstance(default, float) else f" (default: {default})"
        parser.add_argument(f"--{name.replace('_', '-')}", **option)
