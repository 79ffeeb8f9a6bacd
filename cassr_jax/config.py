"""What a run is made of. Every field here can be set in a file of `configs/` and changed on the command line."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from cassr_jax.choices import ColorFix, DType, Start
from cassr_jax.data.config import DataConfig
from cassr_jax.diffusion.schedule import Schedule
from cassr_jax.errors import InputError
from cassr_jax.first_stage import first_stage
from cassr_jax.models.multiple_attention import GuidanceSwitches
from cassr_jax.sharding.strategies import Strategy

Remat = Literal["none", "blocks", "all"]


@dataclass(frozen=True)
class SamplingConfig:
    """How one stage of the cascade samples."""

    sampler: str = "ddim"  # ddim, euler, dpmpp_2m or unipc
    num_steps: int = 50
    guidance_scale: float = 5.5  # 1 switches classifier-free guidance off, and halves the work
    start: Start = "lq"  # the picture whose latents the noise is mixed into; noise is none
    strength: float = 1.0  # share of the training timesteps above which the sampling starts, in (0, 1]
    prompt: str = "clean, high-resolution"
    negative_prompt: str = "dotted, noise, blur, lowres, smooth"

    @property
    def prompts(self) -> tuple[str, str]:
        """What the text encoder is given: the negative prompt, which is empty without guidance, and the prompt."""
        return "" if self.guidance_scale == 1 else self.negative_prompt, self.prompt


@dataclass(frozen=True)
class FirstStageConfig:
    """What a cascade changes about a first stage; None is the first stage's own (see `cassr_jax.first_stage`)."""

    color_fix: ColorFix | None = None  # how the reference gets the colours of the LQ image
    reference_weight: float | None = None  # share of the reference in the result, 0 to 1: the mean of two errs less


@dataclass(frozen=True)
class CascadeConfig:
    """Both stages: where each network's weights are, and how they are sampled.

    `components` maps a network's kind (vae, unet, text_encoder, tokenizer, scedit, activation_controlnet, rrdbnet,
    controlnet, multiple_attention, and fusion if there is one) to a folder, a file, or a hub id
    `owner/name:subfolder`; relative paths start at the folder that holds the configuration.
    """

    components: Mapping[str, str] = field(default_factory=dict)
    activation: str = "scedit"  # the first stage that makes the reference: scedit, controlnet, rrdbnet or identity
    schedule: Schedule | None = None  # null takes that of the U-Net's weights (see `cassr_jax.schedules`)
    activation_sampling: SamplingConfig = field(default_factory=SamplingConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    switches: GuidanceSwitches = field(default_factory=GuidanceSwitches)
    fidelity: float = 1.0  # how much the decoder takes from both pictures directly, where there is a fusion; 0 to 1
    color_fix: ColorFix = "wavelet"  # how the result gets the colours of the LQ image
    first_stages: Mapping[str, FirstStageConfig] = field(default_factory=dict)  # by name, what is changed about each
    tile: int = 512  # side of a tile in px of the output; larger pictures are sampled in several
    tile_overlap: float = 0.25  # share of a tile's side that it has in common with its neighbour
    tiles_at_once: int = 4  # tiles in one call of a network on each device; on a CPU it is one

    @property
    def known_schedule(self) -> Schedule:
        """`schedule`, where loading has put one.

        Raises:
            InputError: there is none.
        """
        return _known(self.schedule)

    def first_stage_setting(self, name: str) -> Any:
        """`color_fix` or `reference_weight` of the first stage in use: as configured here, else its own."""
        stage = first_stage(self.activation)
        configured = getattr(self.first_stages.get(stage.name, FirstStageConfig()), name)
        return getattr(stage, name) if configured is None else configured


@dataclass(frozen=True)
class OptimizerConfig:
    """Adam with linear warm-up, an optional cosine decay and clipping by the global norm."""

    learning_rate: float = 5e-5
    warmup_steps: int = 500
    decay: Literal["constant", "cosine"] = "constant"  # cosine falls to a hundredth at the last step
    b1: float = 0.9
    b2: float = 0.999
    weight_decay: float = 0.0  # 0 is Adam, more is AdamW
    max_grad_norm: float = 1.0
    ema_decay: float = 0.999  # of the weights that are exported; 0 exports the last ones


@dataclass(frozen=True)
class LossConfig:
    """Diffusion stages: squared error on the schedule's target, and the picture's own if asked for. `vae`: the
    picture's L1 + perceptual + KL."""

    snr_gamma: float | None = None  # min-SNR weight (arXiv 2303.09556); 5 is usual
    max_timestep: int | None = None  # the noisiest trained; lower for a model that starts at partial strength
    condition_dropout: float = 0.1  # probability of training without the prompt, for classifier-free guidance
    start: Start = "lq"  # whose latents an example of `start_fraction` begins with: lq or reference
    start_fraction: float = 0.0  # share of examples that are a sampler's first step, from `start` at start_timestep
    start_timestep: int = 200
    image_weight: float = 0.0  # of the picture's loss, between the decoded x_0 and the target, on those examples
    perceptual_weight: float = 0.5  # LPIPS on VGG16, beside L1
    adversarial_weight: float = (
        0.0  # of what a `discriminator`, a new network that trains along, finds wrong, beside L1
    )
    kl_weight: float = 1e-6
    latent_noise: float = 0.0  # standard deviation added to a picture's latents before decoding, over their own


@dataclass(frozen=True)
class TrainConfig:
    """One stage of training.

    `components` are read (see `CascadeConfig`), `new` are made here: kind -> network configuration. A new ControlNet
    starts from the U-Net's encoder. `cassr_jax.training.stages` says what each stage trains.
    """

    stage: str  # what is trained: vae, base, scedit, controlnet, cassr or fusion (see `cassr_jax.training.stages`)
    data: DataConfig
    components: Mapping[str, str] = field(default_factory=dict)
    new: Mapping[str, Any] = field(default_factory=dict)
    schedule: Schedule | None = None  # null takes that of the U-Net's weights, or Stable Diffusion 1.5's for a new one
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    prompt: str = "clean, high-resolution"
    activation: str | None = None  # stage cassr: the first stage whose references it learns from
    switches: GuidanceSwitches = field(default_factory=GuidanceSwitches)  # stage cassr: an ablation leaves some out
    strategy: Strategy = field(default_factory=Strategy)  # how the step is divided among devices
    batch_size: int = 4  # examples of one update, over all devices and processes
    accumulate: int = 1  # parts of a batch that are worked on one after the other, each with its share of the memory
    num_steps: int = 100_000
    seed: int = 0
    dtype: DType = "float32"  # of the computation; trained weights are always float32
    frozen_dtype: DType = "float32"  # of the weights that do not train
    # What the backward pass computes again instead of keeping it: nothing, the inside of blocks, or everything.
    remat: Remat = "none"
    save_every: int = 1000  # steps from one save to the next
    # Steps that a kill may cost: training waits for a save rather than risk more. None is save_every.
    max_lost_steps: int | None = None
    log_every: int = 50
    keep_checkpoints: int = 2  # the newest ones
    keep_best: int = 0  # besides these, the ones with the lowest mean loss since the save before
    skip_limit: int = 10  # updates in a row whose loss or gradient is not finite, after which the run stops
    preview_every: int = 0  # steps between pictures of what the averaged weights do; 0 makes none
    preview_count: int = 2  # examples in such a picture

    @property
    def known_schedule(self) -> Schedule:
        """`schedule`, where `cassr_jax.training.setup.with_schedule` has put one.

        Raises:
            InputError: there is none.
        """
        return _known(self.schedule)


def _known(schedule: Schedule | None) -> Schedule:
    if schedule is None:
        raise InputError("schedule is None, expected a Schedule: whoever loads the weights takes theirs")
    return schedule
