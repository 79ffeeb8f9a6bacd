"""The settings that a sampling command runs with: its options, completed from the cascade's configuration."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from cassr_jax.choices import DISTILLED_LORAS, PRECISIONS
from cassr_jax.commands.options import SAMPLING
from cassr_jax.config import CascadeConfig, SamplingConfig
from cassr_jax.config_files import resolve, to_json
from cassr_jax.errors import InputError
from cassr_jax.files import Json
from cassr_jax.first_stage import first_stage
from cassr_jax.kinds import KINDS
from cassr_jax.loading import read_cascade, usual_dtype
from cassr_jax.models.unet import UNetConfig
from cassr_jax.options import Options
from cassr_jax.second_stage import FUSION


def with_options(config: CascadeConfig, chosen: Json) -> CascadeConfig:
    """A configuration with a command's options written into it.

    Args:
        chosen: the values of `SAMPLING`, of `activation` and perhaps of `loras` and `prompt`; None or absent keeps the
            cascade's own. Other entries are ignored.

    Raises:
        InputError: an option is out of range, or the cascade lacks the network that it needs.
    """
    given = Options(**{name: chosen[name] for name in (*SAMPLING, "prompt") if chosen.get(name) is not None})
    given.check_networks(config.components)
    own = {} if chosen.get("activation") is None else {"activation": chosen["activation"]}
    return replace(given.written_into(config), loras=loras_of(config, chosen), **own)


def loras_of(config: CascadeConfig, chosen: Json) -> Mapping[str, float]:
    """The LoRAs that are chosen, or else the cascade's own, or else the one that the chosen speed needs."""
    if chosen.get("loras") is not None:
        return chosen["loras"]
    needed = DISTILLED_LORAS.get(chosen.get("speed") or "")
    return {needed: 1.0} if needed and not (config.loras or config.merged_loras) else config.loras


def check_speed(config: CascadeConfig, base: Path, chosen: Json) -> None:
    """Checks that the LoRA which a speed adds can fit the cascade, before it is fetched.

    Args:
        config: the configuration with all options written into it.
        base: the folder where its relative paths start.

    Raises:
        InputError: the U-Net is not Stable Diffusion 1.5's.
    """
    needed, unet = DISTILLED_LORAS.get(chosen.get("speed") or ""), config.components.get("unet")
    if needed not in config.loras or unet is None:
        return
    own = KINDS["unet"].configuration(resolve(unet, base))
    if isinstance(own, UNetConfig) and own.cross_attention_dim != UNetConfig().cross_attention_dim:
        raise InputError(
            f"--speed {chosen['speed']} adds a LoRA for Stable Diffusion 1.5, and this cascade has another U-Net; "
            "expected --speed fast or draft, or a --lora that was made for it"
        )


def described(config: CascadeConfig, precision: str | None = None) -> Json:
    """The settings that decide the pixels, besides the weights, the scale and the seed, for a person to read.

    `reference` is what the first stage runs with and `result` what the second does; what has no effect is left out.

    Args:
        config: the configuration with all options written into it.
        precision: the value of --precision; None for the usual one.
    """
    stage = first_stage(config.activation)
    usual = CascadeConfig()  # whose values go without saying, so that manifests of before they were there still hold

    def unusual(*names: str) -> Json:
        return {name: getattr(config, name) for name in names if getattr(config, name) != getattr(usual, name)}

    return {
        "activation": stage.name,
        **({"loras": dict(config.loras)} if config.loras else {}),
        "dtype": usual_dtype() if precision is None else PRECISIONS[precision],
        "tile": config.tile,
        "tile_overlap": config.tile_overlap,
        "reference": (_described(config.activation_sampling) if stage.diffuses else {})
        | {"color_fix": config.reference_color_fix},
        "result": _described(config.sampling)
        | {"color_fix": config.color_fix, "reference_weight": config.reference_weight}
        | ({"fidelity": config.fidelity} if FUSION in config.components else unusual("fidelity"))
        | unusual("control", "decoder", "process_size"),
    }


def own_values(source: str) -> dict[str, str]:
    """What a cascade does where an option is left out, by the option's name, for --help.

    Raises:
        InputError: the cascade's configuration cannot be read.
    """
    found = described(read_cascade(source)[0], "fp32")  # of which nothing is shown, and which asks for no device
    result, reference = found["result"], found["reference"]

    def value(option: str) -> str:
        if option == "speed":
            return "none"
        name = "num_steps" if option == "steps" else option
        if name not in result:
            return str(found.get(name, getattr(CascadeConfig(), name, "none")))
        own, first = (f"{each:g}" if isinstance(each, float) else each for each in (result[name], reference.get(name)))
        both = name not in ("start", "strength", "control_every") and first not in (own, None)
        return f"{own}, first stage {first}" if both else str(own)

    return {option: value(option) for option in ("activation", *SAMPLING)}


def _described(sampling: SamplingConfig) -> Json:
    negative, prompt = sampling.prompts
    described = to_json(sampling) | {"prompt": prompt, "negative_prompt": negative}
    unset = {name for name in ("eta", "added_noise_level") if described[name] is None}  # manifests of before lack them
    return {name: value for name, value in described.items() if name not in unset}
