"""The settings of one call of a cascade."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import get_args

from cassr_jax.choices import SPEEDS, Decoder
from cassr_jax.config import CascadeConfig, FirstStageConfig, Start
from cassr_jax.diffusion.samplers import SAMPLERS
from cassr_jax.errors import InputError
from cassr_jax.first_stage import NAMES
from cassr_jax.imaging.color import COLOR_FIXES
from cassr_jax.progress import Preview
from cassr_jax.ranges import check
from cassr_jax.second_stage import FUSION, TAESD

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Options:
    """The settings of one call; None keeps the cascade's own. `cassr_jax.ranges` holds their ranges.

    Attributes:
        scale: the output's side divided by the input's.
        seed: decides the noise; the same seed gives the same pixels.
        steps: sampling steps of each stage.
        speed: fast or draft, a sampler and its steps for both stages; `steps` and `sampler` override it.
        guidance_scale: classifier-free guidance of each stage; 1 switches it off.
        guidance_from, guidance_to: shares of the steps of each stage between which guidance is on.
        control_every: steps of the second stage for which the features of its ControlNet are kept.
        sampler: ddim, euler, dpmpp_2m or unipc, for both stages.
        start: the picture that the second stage's noise is mixed into: lq, reference, or noise for none.
        strength: share of the noise schedule that the second stage covers; a little changes only details.
        color_fix: adain, contrast, wavelet or none, for both stages.
        reference_weight: share of the reference in the result.
        fidelity: how much a cascade with a fusion lets its decoder take directly from the LQ image and the reference: 0
            is the plain decoder, 1 the decoder as trained.
        decoder: what decodes the result, vae or taesd; see `CascadeConfig.decoder`.
        tile: side of a tile in px of the output.
        prompt: describes the picture, for both stages.
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
    prompt: str | None = None
    progress: Progress | None = None
    preview: Callable[[Preview], None] | None = None
    preview_every: int = 1

    def __post_init__(self) -> None:
        check(self)
        if not isinstance(self.prompt, str | None):
            raise InputError(f"prompt is {self.prompt!r}, expected text or None")
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
        if self.decoder == TAESD and self.fidelity is not None:
            raise InputError(
                f"fidelity is {self.fidelity} beside decoder {TAESD}, expected one of them: a {FUSION} guides the "
                "decoder of the vae alone"
            )

    def check_networks(self, kinds: Collection[str]) -> None:
        """Checks that a cascade with networks of these kinds has those that the options need.

        Raises:
            InputError: it has no fusion to weigh, or no TAESD to decode with.
        """
        if self.decoder == TAESD and TAESD not in kinds:
            raise InputError(
                f"decoder is {TAESD}, but this cascade has none; expected vae, or a cascade with a {TAESD} among its "
                "components"
            )
        if self.fidelity is not None and FUSION not in kinds:
            raise InputError(
                f"fidelity is {self.fidelity}, but this cascade has no {FUSION}, the network that it weighs; expected "
                "no fidelity, or a cascade with a fusion, such as a run of configs/tiny_second.py"
            )

    def written_into(self, config: CascadeConfig) -> CascadeConfig:
        """A cascade's configuration with these options in place of its own settings: what a call runs with.

        The prompt, steps, guidance and sampler concern both stages, `start`, `strength` and `control_every` the second
        alone. A colour fix or a weight of the reference is written for every first stage, whichever is in use.
        """
        chosen = SPEEDS[self.speed] if self.speed else {}
        both = {
            "num_steps": chosen.get("steps") if self.steps is None else self.steps,
            "sampler": chosen.get("sampler") if self.sampler is None else self.sampler,
            "guidance_scale": self.guidance_scale,
            "guidance_from": self.guidance_from,
            "guidance_to": self.guidance_to,
            "prompt": self.prompt,
        }
        second = {"start": self.start, "strength": self.strength, "control_every": self.control_every}
        stage = _given({"color_fix": self.color_fix, "reference_weight": self.reference_weight})
        stages = {name: replace(config.first_stages.get(name, FirstStageConfig()), **stage) for name in NAMES if stage}
        return replace(
            config,
            **_given({name: getattr(self, name) for name in ("color_fix", "fidelity", "decoder", "tile")}),
            first_stages={**config.first_stages, **stages},
            sampling=replace(config.sampling, **_given(second | both)),
            activation_sampling=replace(config.activation_sampling, **_given(both)),
        )


def _given(changes: Mapping[str, object]) -> dict[str, object]:
    return {name: value for name, value in changes.items() if value is not None}
