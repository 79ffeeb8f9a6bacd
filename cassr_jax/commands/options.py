"""The options that commands share: each has the same name, range and explanation everywhere.

This module does not import JAX, so a command can show its help or refuse a wrong option at once.
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

from cassr_jax.buckets import Folder, folder_at
from cassr_jax.choices import PRECISIONS, SPEEDS, ColorFix, Decoder, Sampler, Split, Start
from cassr_jax.errors import InputError
from cassr_jax.files import check_local, exists
from cassr_jax.first_stage import NAMES
from cassr_jax.ranges import COUNT, RANGES, Range

Parser = argparse._ActionsContainer  # what an ArgumentParser and its groups have in common


def number(allowed: Range) -> Callable[[str], int | float]:
    """The `type` of an option whose value is a number within a range; the parser's refusal states the range."""
    allowed = replace(allowed, optional=False)  # None means that the option was left out

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


def folder(text: str) -> Folder:
    """The `type` of an option that names a folder of this machine or of a bucket, such as gs://bucket/run."""
    try:
        return folder_at(text)
    except InputError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _cascade(text: str) -> str:
    if not text:
        raise argparse.ArgumentTypeError("it is empty, expected tiny, a file of configs/, or a folder of weights")
    return text


def _number_for(field: str) -> Callable[[str], int | float]:
    """The `type` of the option that sets this field of `Options`."""
    return number(RANGES["Options"][field])


def _lora(text: str) -> tuple[str, float]:
    """The `type` of the option that names a LoRA and its scale, FILE or FILE=SCALE."""
    whole = "=" not in text or exists(Path(text))  # a path may hold the sign too
    source, scale = (text, "1") if whole else text.rpartition("=")[::2]
    if not source:
        raise argparse.ArgumentTypeError(f"{text!r}: names no LoRA, expected FILE or FILE=SCALE")
    try:
        return source, float(Range().parse(scale))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r}: the scale is {error}") from None


class _Loras(argparse.Action):
    """Gathers LoRAs and their scales."""

    def __call__(
        self, parser: object, namespace: argparse.Namespace, values: Any, option_string: object = None
    ) -> None:
        (source, scale), loras = values, getattr(namespace, self.dest) or {}
        if source in loras:
            raise argparse.ArgumentError(self, f"{source} is given twice, expected it once, with one scale")
        setattr(namespace, self.dest, {**loras, source: scale})


OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "config": {
        "type": _cascade,
        "metavar": "CONFIG",
        "default": "tiny",
        "help": "the cascade: tiny (ships with the program), a file of configs/ or its name, a folder of weights, or a "
        "hub id",
    },
    "activation": {
        "choices": NAMES,
        "help": "the first stage, which makes the reference picture that guides the second stage: rrdbnet is "
        "Real-ESRGAN, identity takes the enlarged input itself",
    },
    "lora": {
        "type": _lora,
        "action": _Loras,
        "dest": "loras",
        "metavar": "FILE[=SCALE]",
        "help": "a LoRA to add to the U-Net and the text encoder, times SCALE (1 if left out): a file, a folder or a "
        "hub id; may be repeated, and replaces the cascade's own LoRAs",
    },
    "scale": {
        "type": _number_for("scale"),
        "metavar": "X",
        "default": 4.0,
        "help": "how many times as wide and as high the output is as the input",
    },
    "seed": {
        "type": _number_for("seed"),
        "metavar": "N",
        "default": 0,
        "help": "decides the noise, 0 to 2**63 - 1: the same seed gives the same pixels, a different seed gives a "
        "different variation",
    },
    "steps": {
        "type": _number_for("steps"),
        "metavar": "N",
        "help": "number of sampling steps of each stage; fewer are faster, and often give a softer picture",
    },
    "guidance_scale": {
        "type": _number_for("guidance_scale"),
        "metavar": "S",
        "help": "strength of classifier-free guidance, that is, of the prompt; 1 switches it off and halves the work",
    },
    "speed": {
        "choices": list(SPEEDS),
        "help": "a sampler and its steps for both stages: fast is dpmpp_2m in 20 steps, draft in 8; lcm (6 steps) and "
        "hyper (tcd in 4 steps), both without guidance, add their LoRA for Stable Diffusion 1.5 from the hub, unless "
        "--lora or the cascade names one; --steps, --sampler and --guidance-scale override it",
    },
    "guidance_from": {
        "type": _number_for("guidance_from"),
        "metavar": "SHARE",
        "help": "share of the steps before guidance begins, 0 to 1; a step without guidance is half the work",
    },
    "guidance_to": {
        "type": _number_for("guidance_to"),
        "metavar": "SHARE",
        "help": "share of the steps after which guidance has ended, 0 to 1",
    },
    "control_every": {
        "type": _number_for("control_every"),
        "metavar": "N",
        "help": "run the second stage's ControlNet in every Nth step only and keep its features in between",
    },
    "sampler": {
        "choices": get_args(Sampler),
        "help": "the method that turns noise into a picture step by step; dpmpp_2m and unipc need the fewest steps, "
        "and with a LoRA distilled for them lcm and tcd; euler_a and dpmpp_2m_sde add fresh noise in each step",
    },
    "start": {
        "choices": get_args(Start),
        "help": "the picture into which the second stage's noise is mixed: the enlarged input (lq), the first stage's "
        "reference, or none (noise)",
    },
    "strength": {
        "type": _number_for("strength"),
        "metavar": "S",
        "help": "share of the noise schedule that is covered, above 0 and at most 1; a little changes only details",
    },
    "color_fix": {
        "choices": get_args(ColorFix),
        "help": "how the colours are corrected towards the input's: wavelet takes its low frequencies, adain its "
        "means and deviations, contrast its contrast and means",
    },
    "reference_weight": {
        "type": _number_for("reference_weight"),
        "metavar": "W",
        "help": "share of the first stage's reference in the result, 0 to 1; 0 gives the second stage's picture alone",
    },
    "fidelity": {
        "type": _number_for("fidelity"),
        "metavar": "W",
        "help": "how much the pictures that control the second stage count, 0 to 1: for control cassr its attention to "
        "the input, for pasd and residuals all of their ControlNet, and where a decoder reads the pictures too, how "
        "much it takes from them",
    },
    "decoder": {
        "choices": get_args(Decoder),
        "help": "what decodes the result: the autoencoder (vae), or taesd, which is quicker and loses fine detail; the "
        "cascade must have one",
    },
    "tile": {
        "type": _number_for("tile"),
        "metavar": "PX",
        "help": "longest side of a tile, in px of the output: larger pictures pass through the networks in "
        "overlapping tiles; smaller tiles need less memory, except for what the picture itself needs",
    },
    "process_size": {
        "type": _number_for("process_size"),
        "metavar": "PX",
        "help": "a picture whose result would have a shorter side below this is worked on at this size, and the result "
        "is reduced; Stable Diffusion works best at 512 px and more",
    },
    "negative_prompt": {
        "metavar": "TEXT",
        "help": "what guidance leads away from, in place of the cascade's own; tiny knows only ''",
    },
    "preview": {
        "type": _number_for("preview_every"),
        "metavar": "N",
        "help": "after every N steps of both stages, write what the picture looks like so far, as NAME_preview.png",
    },
    "prompt": {
        "metavar": "TEXT",
        "help": "the prompt for all pictures, in place of the cascade's own; tiny knows only '' and "
        "'clean, high-resolution'",
    },
    "prompts": {
        "type": local_path,
        "metavar": "FILE",
        "help": "a prompt for each picture, in place of the cascade's own: a JSON object of names and prompts "
        "(*.json), or lines of a name, a tab and a prompt; names are without suffix; "
        "pictures with the same prompt go through the networks together; tiny knows only '' and "
        "'clean, high-resolution'",
    },
    "devices": {
        "type": number(COUNT),
        "metavar": "N",
        "help": "number of devices that share the work (default: all accelerators, or one CPU)",
    },
    "split": {
        "choices": get_args(Split),
        "default": "tiles",
        "help": "what the devices share: the tiles of all pictures, or, spatial, the rows of one whole picture at a "
        "time, which takes no tiles, memory for all of it, and a compilation for each size of picture",
    },
    "precision": {
        "choices": list(PRECISIONS),
        "help": "number format in which the networks compute; bf16 and fp16 need half the memory (default: bf16 on "
        "an accelerator, fp32 on a CPU)",
    },
    "set": {
        "nargs": "+",
        "default": [],
        "metavar": "FIELD=VALUE",
        "help": "change fields of the configuration, for example --set batch_size=2 data.path=PHOTOS",
    },
}

SAMPLING = (
    *("speed", "steps", "sampler", "guidance_scale", "guidance_from", "guidance_to", "control_every"),
    *("start", "strength", "color_fix", "reference_weight", "fidelity", "decoder", "tile", "process_size"),
    "negative_prompt",
)
"""The options of sampling: the fields of `Options` that change a cascade's own settings."""


def help_asked(argv: Sequence[str] | None) -> argparse.Namespace:
    """Whether the command line asks for `help`, and the `config`, perhaps None, whose values the help is to show.

    This looks ahead: a parser shows its help as soon as it meets --help, before it has seen what follows.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("-h", "--help", action="store_true")
    parser.add_argument("--config", nargs="?")
    return parser.parse_known_args(argv)[0]


def add_options(parser: Parser, *names: str, shown: Mapping[str, object] | None = None, **defaults: object) -> None:
    """Add some of `OPTIONS` to a parser.

    Args:
        parser: a parser, or a group of one.
        names: the options to add, spelt as fields are (`guidance_scale` for --guidance-scale).
        shown: what the help calls the default of an option that is None if left out.
        defaults: defaults that replace those in `OPTIONS`.
    """
    for name in names:
        option = dict(OPTIONS[name])
        default = option["default"] = defaults.get(name, option.get("default"))
        if default in (None, []):
            default = (shown or {}).get(name)
        if default is not None:
            option["help"] += f" (default: {default:g})" if isinstance(default, float) else f" (default: {default})"
        parser.add_argument(f"--{name.replace('_', '-')}", **option)
