"""The configurations of sampling and training; files in `configs/` set the fields, and --set changes them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from cassr_jax.choices import ColorFix, Decoder, DType, Start
from cassr_jax.data.config import DataConfig
from cassr_jax.diffusion.schedule import Schedule
from cassr_jax.errors import InputError
from cassr_jax.first_stage import first_stage
from cassr_jax.models.multiple_attention import GuidanceSwitches
from cassr_jax.sharding.strategies import Strategy
from cassr_jax.weights.configs import Config

Remat = Literal["none", "blocks", "all"]


@dataclass(frozen=True)
class SamplingConfig:
    """How one stage of the cascade samples."""

    sampler: str = "ddim"  # ddim, euler, dpmpp_2m, unipc, euler_a, dpmpp_2m_sde, lcm or tcd
    eta: float | None = None  # tcd: share of the noise that each step adds anew, 0 to 1; null takes 0.3
    num_steps: int = 50
    guidance_scale: float = 5.5  # 1 switches classifier-free guidance off and halves the work
    guidance_from: float = 0.0  # share of the steps before guidance begins (arXiv 2404.07724)
    guidance_to: float = 1.0  # share of the steps after which it has ended
    control_every: int = 1  # steps for which a ControlNet's features are kept
    start: Start = "lq"  # the picture whose latents are mixed with noise: lq, reference, or noise for none
    strength: float = 1.0  # share of the noise schedule that is covered; a little changes only details
    # A timestep whose noise the start is given too, beside that of the first step, as in PASD; null gives it none.
    added_noise_level: int | None = None
    prompt: str = "clean, high-resolution"
    negative_prompt: str = "dotted, noise, blur, lowres, smooth"

    @property
    def guided_steps(self) -> range:
        """The steps with classifier-free guidance."""
        if self.guidance_scale == 1:
            return range(0)
        return range(*(round(share * self.num_steps) for share in (self.guidance_from, self.guidance_to)))

    @property
    def prompts(self) -> tuple[str, str]:
        """The texts for the text encoder: the negative prompt, which is empty without guidance, and the prompt."""
        return self.negative_prompt if self.guided_steps else "", self.prompt


@dataclass(frozen=True)
class FirstStageConfig:
    """A cascade's changes to a first stage; None keeps the first stage's own setting."""

    color_fix: ColorFix | None = None  # how the reference gets the colours of the LQ image
    reference_weight: float | None = None  # share of the reference in the result, 0 to 1


@dataclass(frozen=True)
class CascadeConfig:
    """A whole cascade: where each network's weights are, and how both stages are sampled.

    `components` maps a network's kind (vae, unet, text_encoder, tokenizer, scedit, activation_controlnet, rrdbnet,
    controlnet, multiple_attention, pixel_attention, and fusion and taesd if there are such) to a folder, a file, or a
    hub id `owner/name:subfolder`. Relative paths start at the configuration's folder. `loras` maps LoRAs, which are
    found in the same way and change the U-Net and the text encoder of both stages, to their scales. `merged_loras` are
    those that the weights hold already, for the record: nothing is read for them.
    """

    components: Mapping[str, str] = field(default_factory=dict)
    loras: Mapping[str, float] = field(default_factory=dict)
    merged_loras: Mapping[str, float] = field(default_factory=dict)
    activation: str = "scedit"  # the first stage that makes the reference: scedit, controlnet, rrdbnet or identity
    control: str = "cassr"  # the way in which the second stage sees the pictures: cassr, pasd or residuals
    schedule: Schedule | None = None  # null takes the schedule of the U-Net's weights (see `cassr_jax.schedules`)
    activation_sampling: SamplingConfig = field(default_factory=SamplingConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    switches: GuidanceSwitches = field(default_factory=GuidanceSwitches)
    decoder: Decoder = "vae"  # what decodes the result: vae, or taesd, which is quicker, coarser and takes no fusion
    # How much the pictures count, 0 to 1: control cassr weighs its attention to the LQ image by it, pasd and residuals
    # all that their ControlNet adds, and a fusion what the decoder takes directly from both pictures.
    fidelity: float = 1.0
    process_size: int = 1  # px: a picture whose shorter side would be below it is worked on at that size
    color_fix: ColorFix = "wavelet"  # how the result gets the colours of the LQ image
    first_stages: Mapping[str, FirstStageConfig] = field(default_factory=dict)  # changes to first stages, by name
    tile: int = 512  # side of a tile in px of the output; larger pictures are sampled in several tiles
    tile_overlap: float = 0.25  # share of a tile's side that it shares with its neighbour
    tiles_at_once: int = 4  # tiles in one call of a network on each accelerator; a CPU takes one

    @property
    def known_schedule(self) -> Schedule:
        """The `schedule`, which loading has filled in.

        Raises:
            InputError: there is none.
        """
        return _known(self.schedule)

    @property
    def reference_color_fix(self) -> ColorFix:
        """The reference's colour fix: the configured one of the first stage in use, or else that stage's own."""
        configured = self._of_first_stage.color_fix
        return first_stage(self.activation).color_fix if configured is None else configured

    @property
    def reference_weight(self) -> float:
        """The reference's share in the result: the configured one of the first stage in use, or else that stage's."""
        configured = self._of_first_stage.reference_weight
        return first_stage(self.activation).reference_weight if configured is None else configured

    @property
    def _of_first_stage(self) -> FirstStageConfig:
        return self.first_stages.get(self.activation, FirstStageConfig())


@dataclass(frozen=True)
class OptimizerConfig:
    """Adam with linear warm-up, an optional cosine decay and clipping by the global norm."""

    learning_rate: float = 5e-5
    warmup_steps: int = 500
    decay: Literal["constant", "cosine"] = "constant"  # cosine falls to a hundredth at the last step
    b1: float = 0.9
    b2: float = 0.999
    weight_decay: float = 0.0  # above 0, Adam becomes AdamW
    max_grad_norm: float = 1.0
    ema_decay: float = 0.999  # decay of the averaged weights, which are exported; 0 exports the latest weights


@dataclass(frozen=True)
class LossConfig:
    """The loss of a training stage.

    Diffusion stages have the squared error of the schedule's target, plus the picture's loss if `image_weight` is
    positive. The stage `vae` has the picture's L1 + perceptual + KL.
    """

    snr_gamma: float | None = None  # min-SNR weight (arXiv 2303.09556); 5 is usual
    max_timestep: int | None = None  # the noisiest timestep in training; lower for a model of partial strength
    condition_dropout: float = 0.1  # probability of training without the prompt, for classifier-free guidance
    start: Start = "lq"  # the picture whose latents the examples of `start_fraction` start from: lq or reference
    start_fraction: float = 0.0  # share of examples that are a sampler's first step, from `start` at start_timestep
    start_timestep: int = 200
    image_weight: float = 0.0  # weight of the loss between the decoded x_0 and the target picture, on those examples
    perceptual_weight: float = 0.5  # weight of LPIPS on VGG16, beside L1
    # Weight of the L1 between the target and the pictures that PASD's hint network gives at each of its resolutions.
    rgb_weight: float = 0.0
    # Weight of the adversarial loss, beside L1. It needs a new `discriminator`, which is trained too.
    adversarial_weight: float = 0.0
    kl_weight: float = 1e-6
    latent_noise: float = 0.0  # noise added to a picture's latents before decoding, relative to their own deviation


Measure = Literal["loss", "psnr_y", "lpips"]


@dataclass(frozen=True)
class ValidationConfig:
    """Validation of a run: measures of the averaged weights on examples that it does not train on.

    The examples, their noise and their timesteps are the same in every validation, and in runs of any seed.
    """

    every: int = 0  # steps between validations; 0 makes none
    path: str = ""  # pictures or prepared records; empty takes those that `data.held_out` keeps from training
    records: int = 64  # number of examples, rounded up to whole parts of a batch
    best_by: Measure = "loss"  # the measure by which `keep_best` chooses


@dataclass(frozen=True)
class TrainConfig:
    """One stage of training.

    The networks in `components` are read (see `CascadeConfig`), those in `new` are created: kind -> network
    configuration. A new ControlNet starts from the U-Net's encoder. `loras` are added to those that are read, before
    training. `cassr_jax.training.stages` lists what each stage trains.
    """

    stage: str  # vae, base, scedit, controlnet, cassr, pasd, residuals or fusion (see `cassr_jax.training.stages`)
    data: DataConfig
    components: Mapping[str, str] = field(default_factory=dict)
    loras: Mapping[str, float] = field(default_factory=dict)
    new: Mapping[str, Config] = field(default_factory=dict)
    schedule: Schedule | None = None  # null takes the U-Net's own, or Stable Diffusion 1.5's for a new U-Net
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    prompt: str = "clean, high-resolution"
    activation: str | None = None  # a second stage: the first stage that makes its references
    switches: GuidanceSwitches = field(default_factory=GuidanceSwitches)  # stage cassr: an ablation switches some off
    strategy: Strategy = field(default_factory=Strategy)  # how the step is divided among devices
    batch_size: int = 4  # examples in one update, over all devices and processes
    accumulate: int = 1  # parts of a batch that are computed one after the other to save memory
    num_steps: int = 100_000
    seed: int = 0
    dtype: DType = "float32"  # type of the computation; trained weights are always float32
    frozen_dtype: DType = "float32"  # type of the weights that are not trained
    # What the backward pass computes again instead of storing: nothing, the inside of blocks, or everything.
    remat: Remat = "none"
    save_every: int = 1000  # steps from one save to the next
    # Steps that a kill may cost: training waits for a save rather than risk more. null means save_every.
    max_lost_steps: int | None = None
    log_every: int = 50
    keep_checkpoints: int = 2  # number of newest checkpoints to keep
    keep_best: int = 0  # number of others to keep: the best by validation, or else by the mean loss since the last save
    skip_limit: int = 10  # successive updates whose loss or gradient is not finite, after which the run stops
    preview_every: int = 0  # steps between previews, pictures made with the averaged weights; 0 makes none
    preview_count: int = 2  # examples in a preview
    validation: ValidationConfig = field(default_factory=ValidationConfig)

    @property
    def known_schedule(self) -> Schedule:
        """The `schedule`, which `cassr_jax.training.setup.with_schedule` has filled in.

        Raises:
            InputError: there is none.
        """
        return _known(self.schedule)


def _known(schedule: Schedule | None) -> Schedule:
    if schedule is None:
        raise InputError("schedule is None, expected a Schedule; take the one that belongs to the weights")
    return schedule
