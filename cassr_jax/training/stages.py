"""The stages of training: what each trains, which networks it needs, and what it reads from a batch.

The autoencoder, the base model and the fusion are here. Every first stage that trains something adds a stage of its own
name, and so does every control scheme.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TypeVar

import jax
import numpy as np

from cassr_jax.config import TrainConfig
from cassr_jax.control import all_control_schemes, control_scheme
from cassr_jax.control.interface import PICTURES, ControlScheme
from cassr_jax.errors import InputError
from cassr_jax.first_stage import NAMES, all_first_stages, first_stage
from cassr_jax.first_stage.interface import FirstStage
from cassr_jax.models.denoisers import BaseDenoiser, Denoiser
from cassr_jax.second_stage import FUSION, denoiser_maker, networks_of
from cassr_jax.typing import Modules

ArrayT = TypeVar("ArrayT", np.ndarray, jax.Array)

# Trained beside any stage, for that stage's loss, and not exported.
DISCRIMINATOR = "discriminator"


@dataclass(frozen=True)
class TrainingStage:
    """One stage of training.

    Attributes:
        trains: the kinds of network that it trains and exports.
        needs: further kinds that it reads.
        uses: further kinds that it reads if the configuration names them.
        reads: the pictures in a batch that its denoiser reads, in order.
        make_denoiser: builds the denoiser that it trains; None for the autoencoder, which does not denoise.
        completes: whether its export is a whole cascade.
        decodes: whether it trains part of the decoder, which only the loss of a decoded picture reaches.
    """

    trains: tuple[str, ...]
    needs: tuple[str, ...] = ("unet", "text_encoder")
    uses: tuple[str, ...] = ("vae",)
    reads: tuple[str, ...] = ()
    make_denoiser: Callable[[TrainConfig, Modules], Denoiser] | None = None
    completes: bool = False
    decodes: bool = False


def _of_first_stage(stage: FirstStage) -> TrainingStage:
    make = stage.make_denoiser
    assert make is not None, f"{stage.name} trains {stage.trains}, but makes no denoiser"
    return TrainingStage(stage.trains, reads=("lq",), make_denoiser=lambda config, modules: make(modules))


def _of_control_scheme(scheme: ControlScheme) -> TrainingStage:
    return TrainingStage(
        scheme.networks,
        uses=("vae", FUSION),
        reads=scheme.reads,
        make_denoiser=lambda config, modules: denoiser_maker(scheme, config.switches)(modules),
        completes=True,
    )


_CASSR = _of_control_scheme(control_scheme("cassr"))

STAGES: Mapping[str, TrainingStage] = {
    "vae": TrainingStage(("vae",), needs=()),
    "base": TrainingStage(
        ("unet", "text_encoder"), make_denoiser=lambda config, modules: BaseDenoiser(modules["unet"])
    ),
    **{stage.name: _of_first_stage(stage) for stage in all_first_stages() if stage.trains},
    **{scheme.name: _of_control_scheme(scheme) for scheme in all_control_schemes()},
    "fusion": replace(_CASSR, trains=(FUSION,), needs=networks_of("cassr"), uses=(), completes=False, decodes=True),
}


def stage_named(name: str) -> TrainingStage:
    """The stage that `TrainConfig.stage` names.

    Raises:
        InputError: no stage has that name.
    """
    if name not in STAGES:
        raise InputError(f"stage is {name!r}, expected one of {', '.join(STAGES)}")
    return STAGES[name]


def activation_of(config: TrainConfig) -> FirstStage:
    """The first stage whose references the second stage learns from.

    Raises:
        InputError: the configuration names no first stage, or an unknown one.
    """
    if config.activation is None:
        raise InputError(
            f"activation is None, expected one of {', '.join(NAMES)}: stage {config.stage} learns from references, and "
            "its export names the first stage that makes them"
        )
    return first_stage(config.activation)


def pictures_read(config: TrainConfig) -> tuple[str, ...]:
    """The names, in a batch, of the pictures that the denoiser reads, in the denoiser's order."""
    return tuple(_held_as(config, name) for name in stage_named(config.stage).reads)


def guides_read(config: TrainConfig) -> tuple[str, ...]:
    """The names, in a batch, of the pictures that guide the decoder; none without a fusion."""
    stage = stage_named(config.stage)
    guided = FUSION in {*config.components, *config.new} & {*stage.trains, *stage.uses}
    return tuple(_held_as(config, name) for name in PICTURES) if guided else ()


def start_read(config: TrainConfig) -> str:
    """The name, in a batch, of the pictures whose latents a sampler's first step starts from."""
    return _held_as(config, config.loss.start)


def _held_as(config: TrainConfig, name: str) -> str:
    return activation_of(config).batch_name if name == "reference" else name


def denoiser_and_pictures(
    config: TrainConfig, modules: Modules, batch: Mapping[str, ArrayT]
) -> tuple[Denoiser, tuple[ArrayT, ...]]:
    """The denoiser of the stage, and the uint8 pictures (B, S, S, 3) that it reads.

    Raises:
        InputError: the stage has no denoiser.
    """
    make = stage_named(config.stage).make_denoiser
    if make is None:
        known = [name for name, stage in STAGES.items() if stage.make_denoiser is not None]
        raise InputError(f"stage is {config.stage!r}, which has no denoiser, expected one of {', '.join(known)}")
    return make(config, modules), tuple(batch[name] for name in pictures_read(config))
