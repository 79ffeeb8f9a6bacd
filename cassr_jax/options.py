"""The settings of one call of a cascade."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import get_args

from cassr_jax.choices import SPEEDS, Decoder
from cassr_jax.config import CascadeConfig, FirstStageConfig, SamplingConfig, Start
from cassr_jax.diffusion.samplers import SAMPLERS
from cassr_jax.errors import InputError
from cassr_jax.first_stage import NAMES
from cassr_jax.imaging.color import COLOR_FIXES
from cassr_jax.progress import Preview
from cassr_jax.ranges import check
from cassr_jax.second_stage import TAESD

Progress = Callable[[str, int, int], None]
_OWN = ("color_fix", "fidelity", "decoder", "tile", "process_size")  # fields of the cascade itself


@dataclass(frozen=True)
class Options:
    """The settings of one call; None keeps the cascade's own. `cassr_jax.ranges` holds their ranges.

    Attributes:
        scale: the output's side divided by the input's.
        seed: decides the noise; the same seed gives the same pixels.
        steps: sampling steps of each stage.
        speed: fast, draft, lcm or hyper: a sampler and its steps for both stages, and for the last two, which need a
            LoRA distilled for them, no guidance; `steps`, `sampler` and `guidance_scale` override it.
        guidance_scale: classifier-free guidance of each stage; 1 switches it off.
        guidance_from, guidance_to: shares of the steps of each stage between which guidance is on.
        control_every: steps of the second stage for which the features of its ControlNet are kept.
        sampler: ddim, euler, dpmpp_2m, unipc, euler_a, dpmpp_2m_sde, lcm or tcd, for both stages.
        start: the picture that the second stage's noise is mixed into: lq, reference, or noise for none.
        strength: share of the noise schedule that the second stage covers; a little changes only details.
        color_fix: adain, contrast, wavelet or none, for both stages.
        reference_weight: share of the reference in the result.
        fidelity: how much the pictures that control the second stage count, from 0 to 1, which is as in training; see
            `CascadeConfig`.
        decoder: what decodes the result, vae or taesd; see `CascadeConfig.decoder`.
        tile: side of a tile in px of the output.
        process_size: px; a picture whose result would have a shorter side below it is worked on at that size, and the
            result reduced.
        prompt: describes the picture, for both stages.
        negative_prompt: what guidance leads away from, for both stages.
        progress: called as `progress(stage, calls done, calls in all)`; the stage is "reference" or "result", and a
            call runs a network on as many tiles as the devices take at once.
        preview: called with a `cassr_jax.progress.Preview` of each picture while it is sampled. TAESD decodes it where
            the cascade has one, or else the autoencoder. It does not change the result.
        preview_every: steps from one preview of a stage to the next.

    Raises:
        InputError: a value is outside its range or not among its choices.
    """

    scale: float = 4
    seed: int = 0
    steps: int | None = None
    speed: str | None = None
    guidance_scale: float | None = None
    guidance_from: float | None = None
    guidance_to: float | None = None
    control_every: int | None = None
    sampler: str | None = None
    start: Start | None = None
    strength: float | None = None
    color_fix: str | None = None
    reference_weight: float | None = None
    fidelity: float | None = None
    decoder: Decoder | None = None
    tile: int | None = None
    process_size: int | None = None
    prompt: str | None = None
    negative_prompt: str | None = None
    progress: Progress | None = None
    preview: Callable[[Preview], None] | None = None
    preview_every: int = 1

    def __post_init__(self) -> None:
        check(self)
        for name in ("prompt", "negative_prompt"):
            if not isinstance(text := getattr(self, name), str | None):
                raise InputError(f"{name} is {text!r}, expected text or None")
        for name, choices in (
            ("sampler", SAMPLERS),
            ("speed", SPEEDS),
            ("start", get_args(Start)),
            ("color_fix", COLOR_FIXES),
            ("decoder", get_args(Decoder)),
        ):
            value = getattr(self, name)
            if value is not None and not (isinstance(value, str) and value in choices):
                raise InputError(f"{name} is {value!r}, expected one of {', '.join(choices)}")
        if self.progress is not None and not callable(self.progress):
            raise InputError(f"progress is {self.progress!r}, expected a function of three arguments, or None")
        if self.preview is not None and not callable(self.preview):
            raise InputError(f"preview is {self.preview!r}, expected a function of one argument, or None")

    def check_networks(self, kinds: Collection[str]) -> None:
        """Checks that a cascade with networks of these kinds has those that the options need.

        Raises:
            InputError: it has no TAESD to decode with.
        """
        if self.decoder == TAESD and TAESD not in kinds:
            raise InputError(
                f"decoder is {TAESD}, but this cascade has none; expected vae, or a cascade with a {TAESD} among its "
                "components"
            )

    def written_into(self, config: CascadeConfig) -> CascadeConfig:
        """A cascade's configuration with these options in place of its own settings: what a call runs with.

        The prompts, steps, guidance and sampler concern both stages, `start`, `strength` and `control_every` the second
        alone. A colour fix or a weight of the reference is written for every first stage, whichever is in use. Another
        sampler leaves the `eta` of the cascade's own behind.
        """
        chosen = SPEEDS[self.speed] if self.speed else {}
        both = {
            "num_steps": chosen.get("steps") if self.steps is None else self.steps,
            "sampler": chosen.get("sampler") if self.sampler is None else self.sampler,
            "guidance_scale": chosen.get("guidance_scale") if self.guidance_scale is None else self.guidance_scale,
            "guidance_from": self.guidance_from,
            "guidance_to": self.guidance_to,
            "prompt": self.prompt,
            "negative_prompt": self.negative_prompt,
        }
        second = {"start": self.start, "strength": self.strength, "control_every": self.control_every}
        stage = _given({"color_fix": self.color_fix, "reference_weight": self.reference_weight})
        stages = {name: replace(config.first_stages.get(name, FirstStageConfig()), **stage) for name in NAMES if stage}
        return replace(
            config,
            **_given({name: getattr(self, name) for name in _OWN}),
            first_stages={**config.first_stages, **stages},
            sampling=self._with_eta(config.sampling, replace(config.sampling, **_given(second | both))),
            activation_sampling=self._with_eta(
                config.activation_sampling, replace(config.activation_sampling, **_given(both))
            ),
        )

    def _with_eta(self, own: SamplingConfig, written: SamplingConfig) -> SamplingConfig:
        """The settings with the `eta` of their sampler: that of the speed, or else the cascade's own."""
        chosen = SPEEDS[self.speed] if self.speed else {}
        if written.sampler == chosen.get("sampler"):
            return replace(written, eta=chosen.get("eta"))
        return written if written.sampler == own.sampler else replace(written, eta=None)


def _given(changes: Mapping[str, object]) -> dict[str, object]:
    return {name: value for name, value in changes.items() if value is not None}
