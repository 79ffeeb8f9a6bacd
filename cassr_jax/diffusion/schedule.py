"""The noise schedule: how much signal and noise a latent holds at each training timestep.

All of it is in the variance-preserving convention `x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) noise`
(Ho et al. 2020, arXiv 2006.11239, eq. 4), with `abar = alphas_cumprod`.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from typing import Literal, get_args

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Float64

from cassr_jax.errors import InputError
from cassr_jax.files import Json
from cassr_jax.typing import Latents, NumpyColumn, PerImage, Timesteps

BetaSchedule = Literal["scaled_linear", "linear", "squaredcos_cap_v2"]
PredictionType = Literal["epsilon", "v_prediction", "sample"]
TimestepSpacing = Literal["leading", "trailing", "linspace"]

# Fields that describe the noise on which a network was trained, and its output. The others concern sampling.
TRAINED = (
    "num_train_timesteps",
    "beta_start",
    "beta_end",
    "beta_schedule",
    "prediction_type",
    "rescale_betas_zero_snr",
)

# Fields that change the noise levels in ways that are not offered here.
NOISE_NOT_OFFERED = ("trained_betas", "use_flow_sigmas")

# The classes that have these noise levels, and their own defaults for fields that a file leaves out.
_LEADING = {"beta_start": 0.0001, "beta_end": 0.02, "beta_schedule": "linear", "steps_offset": 0}
_LINSPACE = {**_LEADING, "timestep_spacing": "linspace"}
_NARROW = {**_LINSPACE, "beta_start": 0.00085, "beta_end": 0.012}
_OF_DISTILLED = {"steps_offset": 0, "set_alpha_to_one": True}
_ABSENT: Mapping[str, Mapping[str, object]] = {
    "DDIMScheduler": _LEADING,
    "DDIMParallelScheduler": _LEADING,
    "DDPMScheduler": _LEADING,
    "DDPMParallelScheduler": _LEADING,
    "PNDMScheduler": {**_LEADING, "set_alpha_to_one": False},
    "LCMScheduler": _OF_DISTILLED,
    "TCDScheduler": _OF_DISTILLED,
    "LMSDiscreteScheduler": _LINSPACE,
    "EulerDiscreteScheduler": _LINSPACE,
    "EulerAncestralDiscreteScheduler": _LINSPACE,
    "HeunDiscreteScheduler": _NARROW,
    "KDPM2DiscreteScheduler": _NARROW,
    "KDPM2AncestralDiscreteScheduler": _NARROW,
    "DPMSolverMultistepScheduler": _LINSPACE,
    "DPMSolverSinglestepScheduler": _LINSPACE,
    "DEISMultistepScheduler": _LINSPACE,
    "UniPCMultistepScheduler": _LINSPACE,
    "SASolverScheduler": _LINSPACE,
}
_CLIPPING = ("DDIMScheduler", "DDIMParallelScheduler", "DDPMScheduler", "DDPMParallelScheduler")


MOST_TIMESTEPS = 1_000_000


@dataclass(frozen=True)
class Schedule:
    """Noise levels of training and the rule that spaces the timesteps of sampling; the defaults are SD-1.5's.

    Field names and meanings are those of a diffusers `scheduler_config.json`. Hashable, so a jitted function may close
    over it or take it as a static argument.

    Attributes:
        num_train_timesteps: T; timesteps run from 0 (nearly clean) to T - 1 (nearly pure noise).
        beta_start: variance added at timestep 0.
        beta_end: variance added at timestep T - 1.
        beta_schedule: `scaled_linear` (linear in sqrt(beta), latent diffusion), `linear` (Ho et al.) or
            `squaredcos_cap_v2` (Nichol & Dhariwal 2021, arXiv 2102.09672, capped at 0.999).
        prediction_type: what the network predicts: the noise, `v = sqrt(abar) noise - sqrt(1 - abar) x_0`
            (Salimans & Ho 2022, arXiv 2202.00512) or x_0 itself (`sample`).
        timestep_spacing: table 2 of Lin et al. 2023, arXiv 2305.08891; see `spaced_timesteps`.
        steps_offset: added to every timestep of the spacing `leading`.
        set_alpha_to_one: DDIM ends at the clean x_0 (True) or at the noise level of timestep 0 (False). TCD
            always ends there, and the other samplers at the clean x_0.
        rescale_betas_zero_snr: timestep T - 1 is pure noise, and all others are shifted along (Lin et al. 2023,
            algorithm 1). A network that predicts the noise would reveal nothing there.
    """

    num_train_timesteps: int = 1000
    beta_start: float = 0.00085
    beta_end: float = 0.012
    beta_schedule: BetaSchedule = "scaled_linear"
    prediction_type: PredictionType = "epsilon"
    timestep_spacing: TimestepSpacing = "leading"
    steps_offset: int = 1
    set_alpha_to_one: bool = False
    rescale_betas_zero_snr: bool = False

    def __post_init__(self) -> None:
        for field, choices in (
            ("beta_schedule", BetaSchedule),
            ("prediction_type", PredictionType),
            ("timestep_spacing", TimestepSpacing),
        ):
            if getattr(self, field) not in get_args(choices):
                raise InputError(f"{field} is {getattr(self, field)!r}, expected one of {', '.join(get_args(choices))}")
        if not 1 <= self.num_train_timesteps <= MOST_TIMESTEPS:
            raise InputError(f"num_train_timesteps is {self.num_train_timesteps}, expected 1 to {MOST_TIMESTEPS}")
        if not 0 <= self.steps_offset < self.num_train_timesteps:
            raise InputError(f"steps_offset is {self.steps_offset}, expected 0 to {self.num_train_timesteps - 1}")
        if not 0 < self.beta_start <= self.beta_end < 1:
            raise InputError(
                f"beta_start is {self.beta_start} and beta_end {self.beta_end}, expected 0 < start <= end < 1"
            )
        if self.rescale_betas_zero_snr and self.prediction_type == "epsilon":
            raise InputError(
                "rescale_betas_zero_snr is true and prediction_type 'epsilon', expected v_prediction or sample: pure "
                "noise says nothing about x_0"
            )

    @classmethod
    def from_diffusers(cls, config: Json, where: str = "The scheduler config") -> "Schedule":
        """The schedule of a diffusers `scheduler_config.json`, which `where` names in messages.

        Absent fields have the defaults of the file's class.

        Raises:
            InputError: the file asks for something that changes the result and is not offered here, or a value has
                another type than its field.
        """
        class_name = str(config.get("_class_name", "DDIMScheduler")).removeprefix("Flax")
        if class_name not in _ABSENT:
            raise InputError(f"{where}: _class_name is {class_name!r}, expected one of {', '.join(_ABSENT)}")
        for field, absent in (
            *((field, None) for field in NOISE_NOT_OFFERED),
            ("use_karras_sigmas", False),
            ("use_exponential_sigmas", False),
            ("use_beta_sigmas", False),
            ("thresholding", False),
            ("clip_sample", class_name in _CLIPPING),
        ):
            if value := config.get(field, absent):
                hint = "" if field in NOISE_NOT_OFFERED else "; a `schedule` in the configuration takes its place"
                raise InputError(f"{where}: a {class_name} with {field} = {value!r}, which is not offered here{hint}")
        values = {"timestep_spacing": "leading", "set_alpha_to_one": True, **_ABSENT[class_name]}
        for field in fields(cls):
            if config.get(field.name) is None:
                continue
            value, expected = config[field.name], type(field.default)
            if type(value) is not expected and not (expected is float and type(value) is int):
                raise InputError(f"{where}: {field.name} is {value!r}, expected a value of type {expected.__name__}")
            values[field.name] = expected(value)
        try:
            return cls(**values)
        except InputError as error:
            raise InputError(f"{where}: {error}") from error

    def to_diffusers(self) -> dict[str, object]:
        """The `scheduler_config.json` of a DDIMScheduler, which torch diffusers and `from_diffusers` read."""
        return {"_class_name": "DDIMScheduler", "clip_sample": False, **asdict(self)}

    @property
    def alphas_cumprod(self) -> Float32[np.ndarray, " timesteps"]:
        """abar, the share of signal in the variance at every timestep, equal to torch diffusers'; read-only."""
        return _alphas_cumprod(
            self.num_train_timesteps,
            self.beta_start,
            self.beta_end,
            self.beta_schedule,
            self.rescale_betas_zero_snr,
        )

    @property
    def sigmas(self) -> Float64[np.ndarray, " timesteps"]:
        """sqrt((1 - abar) / abar), the noise over the signal at every timestep, rising with t.

        Pure noise has the sigma of abar = 2^-24, as in diffusers' samplers that step in sigma.
        """
        alphas_cumprod = self.alphas_cumprod.astype(np.float64)
        alphas_cumprod[alphas_cumprod == 0] = 2.0**-24
        return np.sqrt((1 - alphas_cumprod) / alphas_cumprod)

    def snr(self, t: Timesteps) -> PerImage:
        """The signal-to-noise ratio abar / (1 - abar) at timesteps t."""
        alphas_cumprod = jnp.asarray(self.alphas_cumprod)[t]
        return alphas_cumprod / (1 - alphas_cumprod)

    def add_noise(self, x0: Latents, noise: Latents, t: Timesteps | int) -> Latents:
        """x_t, float32, from x_0 and unit noise, at one timestep in [0, T) for each image or one for all."""
        signal, noise_level = self._levels(t)
        return signal * x0.astype(jnp.float32) + noise_level * noise.astype(jnp.float32)

    def implied_noise(self, x0: Latents, x_t: Latents, t: Timesteps | int) -> Latents:
        """The noise, float32, that leads from x_0 to any given x_t."""
        signal, noise_level = self._levels(t)
        return (x_t.astype(jnp.float32) - signal * x0.astype(jnp.float32)) / noise_level

    def velocity(self, x0: Latents, noise: Latents, t: Timesteps | int) -> Latents:
        """v = sqrt(abar) noise - sqrt(1 - abar) x_0, float32."""
        signal, noise_level = self._levels(t)
        return signal * noise.astype(jnp.float32) - noise_level * x0.astype(jnp.float32)

    def to_x0(self, model_output: Latents, x_t: Latents, t: Timesteps | int) -> Latents:
        """The x_0, float32, that a network's output at x_t implies, by `prediction_type`."""
        signal, noise_level = self._levels(t)
        output, x_t = model_output.astype(jnp.float32), x_t.astype(jnp.float32)
        if self.prediction_type == "epsilon":
            return (x_t - noise_level * output) / signal
        if self.prediction_type == "v_prediction":
            return signal * x_t - noise_level * output
        return output

    def spaced_timesteps(
        self, num_steps: int, first_timestep: int | None = None, *, open_end: bool = False, whole: bool = True
    ) -> NumpyColumn:
        """The falling timesteps of a sampling run, placed like those of diffusers' `set_timesteps`.

        Over a range of R = T timesteps:
          leading:  every (R // n)-th from 0 up, plus `steps_offset`; the last one stays short of R - 1;
          trailing: every (R / n)-th from R - 1 down;
          linspace: n points from R - 1 to 0, both ends taken (a single step sits at 0).

        With `first_timestep` the same rule runs over the truncated range R = first_timestep + 1. Hence `trailing` and
        `linspace` (two steps or more) begin exactly there, while `leading` begins up to one stride below, just as it
        begins below T - 1 at full strength. The starting latents must be as noisy as the first timestep
        returned here; `trajectory.start_latents` ensures this.

        Args:
            num_steps: n, at least 1.
            first_timestep: upper bound of the timesteps, in [0, T); None is the whole schedule.
            open_end: place n + 1 points and leave out the lowest, as the multistep solvers do (not in `trailing`).
            whole: round `linspace` to whole timesteps.

        Raises:
            InputError: there is no such first timestep, or the range has fewer distinct timesteps than steps.
        """
        if num_steps < 1:
            raise InputError(f"the number of sampling steps is {num_steps}, expected at least 1")
        extent = self.timestep_range(first_timestep)
        timesteps = self._spaced(num_steps, extent, open_end=open_end, whole=whole)
        if not _falls_within(timesteps, extent):
            fewer = range(min(num_steps, extent + 1) - 1, 0, -1)
            spaced = ((n, self._spaced(n, extent, open_end=open_end, whole=whole)) for n in fewer)
            most = next((f"at most {n}, or " for n, found in spaced if _falls_within(found, extent)), "")
            raise InputError(
                f"{num_steps} sampling steps do not fit into timesteps 0 to {extent - 1} with {self.timestep_spacing} "
                f"spacing, expected {most}a higher first timestep"
            )
        return timesteps

    def _spaced(self, num_steps: int, extent: int, *, open_end: bool, whole: bool) -> NumpyColumn:
        """The timesteps of `spaced_timesteps` over a range of `extent`, which may overlap or leave it."""
        points = num_steps + open_end
        if self.timestep_spacing == "linspace":
            timesteps = np.linspace(0, extent - 1, points)[::-1][:num_steps]
            return timesteps.round() if whole else timesteps
        if self.timestep_spacing == "leading":
            return (np.arange(points) * (extent // points))[::-1][:num_steps] + float(self.steps_offset)
        # Rounding may let arange overrun by one element, which diffusers then takes for timestep -1.
        return np.arange(extent, 0, -extent / num_steps)[:num_steps].round() - 1

    def timestep_range(self, first_timestep: int | None = None) -> int:
        """The number R of training timesteps over which a run is spread; see `spaced_timesteps`.

        Raises:
            InputError: there is no such timestep.
        """
        if first_timestep is not None and not 0 <= first_timestep < self.num_train_timesteps:
            raise InputError(
                f"the first timestep is {first_timestep}, expected 0 to {self.num_train_timesteps - 1} or none"
            )
        return self.num_train_timesteps if first_timestep is None else first_timestep + 1

    def _levels(self, t: Timesteps | int) -> tuple[Float[Array, "#batch 1 1 1"], Float[Array, "#batch 1 1 1"]]:
        """sqrt(abar_t) and sqrt(1 - abar_t), shaped to broadcast over latents."""
        alphas_cumprod = jnp.asarray(self.alphas_cumprod)[t].reshape(-1, 1, 1, 1)
        return jnp.sqrt(alphas_cumprod), jnp.sqrt(1 - alphas_cumprod)


def _falls_within(timesteps: NumpyColumn, extent: int) -> bool:
    return bool(timesteps[0] < extent and timesteps[-1] >= 0 and np.all(np.diff(timesteps) < 0))


@lru_cache(maxsize=16)
def _alphas_cumprod(
    length: int, start: float, end: float, kind: str, zero_snr: bool
) -> Float32[np.ndarray, " timesteps"]:
    if kind == "squaredcos_cap_v2":
        level = np.cos((np.arange(length + 1) / length + 0.008) / 1.008 * np.pi / 2) ** 2
        betas = np.minimum(1 - level[1:] / level[:-1], 0.999).astype(np.float32)
    elif kind == "linear":
        betas = _float32_linspace(start, end, length)
    else:
        betas = _float32_linspace(start**0.5, end**0.5, length) ** 2
    alphas_cumprod = _cumprod(np.float32(1) - betas)
    if zero_snr:
        signal = np.sqrt(alphas_cumprod)
        signal = (signal - signal[-1]) * (signal[0] / (signal[0] - signal[-1]))
        abar = signal**2
        betas = np.float32(1) - np.append(abar[:1], abar[1:] / abar[:-1])
        alphas_cumprod = _cumprod(np.float32(1) - betas)
    alphas_cumprod.setflags(write=False)
    return alphas_cumprod


def _cumprod(alphas: Float32[np.ndarray, " timesteps"]) -> Float32[np.ndarray, " timesteps"]:
    """The cumulative product as torch computes it: multiplied in float64, with every entry rounded."""
    return np.cumprod(alphas.astype(np.float64)).astype(np.float32)


def _float32_linspace(start: float, end: float, length: int) -> Float32[np.ndarray, " timesteps"]:
    """`torch.linspace` bit for bit: float32 ends and stride, counted from the nearer end, each value rounded once."""
    low, high = np.float32(start), np.float32(end)
    stride = np.float64((high - low) / np.float32(max(length - 1, 1)))
    index = np.arange(length)
    rising = np.float64(low) + stride * index
    falling = np.float64(high) - stride * (length - 1 - index)
    return np.where(index < length // 2, rising, falling).astype(np.float32)
