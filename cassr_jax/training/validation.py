"""Validation of a run: its loss and its pictures on examples that it does not train on, always the same ones.

All devices share the examples, and one compiled function measures them. Nothing here depends on the seed of the run, so
that the measures of two runs can be compared, and nothing that a run draws depends on whether it is validated.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from cassr_jax.config import TrainConfig
from cassr_jax.data.pipeline import Records
from cassr_jax.data.resident import ResidentPool
from cassr_jax.errors import InputError
from cassr_jax.files import same_place
from cassr_jax.models.division import divided
from cassr_jax.models.parameters import Params
from cassr_jax.models.perceptual import lpips_between, lpips_features
from cassr_jax.networks import Networks, merge_all
from cassr_jax.seeds import seed_key
from cassr_jax.sharding.placement import Placement
from cassr_jax.training.checkpoint import LOWEST_LOSS, Criterion
from cassr_jax.training.dividing import gathered
from cassr_jax.training.objectives import make_objective
from cassr_jax.training.previews import latents_shape, made_pictures
from cassr_jax.training.setup import first_examples, for_stage, validation_data
from cassr_jax.training.stages import stage_named, start_read
from cassr_jax.typing import Examples, HostExamples, Images, Metrics, Pixels
from cassr_jax.weights.perceptual import lpips_weights

PREFIX = "validation/"
SEED = 0  # of the examples and of all that is drawn for them
_LEAST_SIDE = 31  # px; AlexNet has no output for smaller pictures
_LUMA = np.array([65.481, 128.553, 24.966], np.float32) / 255  # of ITU-R BT.601


def criterion(config: TrainConfig) -> Criterion:
    """What makes a checkpoint of the run one of the best: its validation if there is one, or else its loss."""
    by = config.validation.best_by
    return Criterion(PREFIX + by, high=by == "psnr_y") if config.validation.every else LOWEST_LOSS


def check_validation(config: TrainConfig) -> None:
    """Checks that a run can be validated, as far as its configuration tells.

    Raises:
        InputError: there are no examples apart from those of the training, or two kinds of them, or `keep_best` would
            have to compare checkpoints that were not validated.
    """
    every, path, held_out = config.validation.every, config.validation.path, config.data.held_out
    if not every:
        return
    if bool(path) == bool(held_out):
        found = f"data.held_out {held_out} and validation.path {path!r}"
        raise InputError(f"validation: found {found}, expected one of the two")
    if path and any(same_place(Path(path), Path(used)) for used in config.data.weights()):
        raise InputError(f"validation.path is {path}, which is trained on, expected other data, or data.held_out")
    if config.keep_best and config.save_every % every:
        raise InputError(
            f"save_every is {config.save_every}, expected a multiple of validation.every, {every}: keep_best compares "
            "checkpoints that were validated"
        )


@dataclass(frozen=True)
class Validation:
    """A function of the averaged weights and the frozen ones, which gives the measures; all processes must call it.

    Attributes:
        measure: (averaged weights, frozen weights, LPIPS's weights, a batch) -> its measures.
        lpips: LPIPS's weights, on all devices; none where it is not measured.
        batches: this process's part of each batch.
        placement: how batches lie on the devices.
        missing: measure -> why it is left out.
    """

    measure: Callable[[Params, Params, Params, Examples], Metrics]
    lpips: Params
    batches: Sequence[HostExamples]
    placement: Placement
    missing: Mapping[str, str]

    def __call__(self, averaged: Params, frozen: Params) -> dict[str, float]:
        """The means of the measures over all examples, whose names begin with `PREFIX`."""
        placed = map(self.placement.place_batch, self.batches)
        found = [jax.device_get(self.measure(averaged, frozen, self.lpips, batch)) for batch in placed]
        return {PREFIX + name: float(np.mean([measures[name] for measures in found])) for name in found[0]}


def make_validation(
    config: TrainConfig,
    networks: Networks,
    prompt_ids: np.ndarray | None,
    placement: Placement,
    sets: Records | ResidentPool,
) -> Validation:
    """The validation of a run on the first examples of `sets`.

    It measures the loss of the stage. If the stage restores pictures and the examples hold their targets, it also
    measures `psnr_y`, in dB on the luma of the 8-bit pictures, and `lpips`, with AlexNet, if its weights are installed.
    The loss leaves out the discriminator, which is another one in every validation.

    Raises:
        InputError: `sets` hold fewer examples, or not what the stage reads, or `best_by` cannot be measured.
    """
    judged = replace(config, loss=replace(config.loss, adversarial_weight=0.0))
    objective = make_objective(judged, networks.graphdefs, prompt_ids)
    batches = _batches(config, networks, sets)
    no_pictures = _why_no_pictures(config, networks, batches[0])
    weights, no_lpips = ({}, no_pictures) if no_pictures else _lpips(config)
    missing = {name: reason for name, reason in (("psnr_y", no_pictures), ("lpips", no_lpips)) if reason}
    by = config.validation.best_by
    if by in missing:
        raise InputError(f"validation.best_by is {by}, expected what can be measured: {missing[by]}")
    division = placement.division

    def measure(averaged: Params, frozen: Params, lpips: Params, batch: Examples) -> Metrics:
        params = gathered({**frozen, **averaged}, placement, config.dtype)
        batch = placement.divide(batch)
        keys = jax.vmap(partial(jax.random.fold_in, seed_key(SEED)))(batch["number"])
        with divided(division):
            found = {"loss": objective(params, batch, keys)[0]}
            if no_pictures:
                return found
            modules = merge_all(networks.graphdefs, params)
            shape = latents_shape(config, modules)
            noise = jax.vmap(lambda key: jax.random.normal(jax.random.fold_in(key, 0), shape))(keys)
            made = made_pictures(config, modules, prompt_ids, batch, noise)
            return found | _distances(lpips, _rounded(made), batch["hr"])

    compiled = jax.jit(measure, out_shardings=placement.whole)
    return Validation(compiled, placement.place_whole(weights), batches, placement, missing)


def _batches(config: TrainConfig, networks: Networks, sets: Records | ResidentPool) -> list[HostExamples]:
    """This process's examples, in batches of as many as training works on at once.

    Their timesteps are spread evenly, over all examples and within each batch.
    """
    size = config.batch_size // config.accumulate
    calls = -(-config.validation.records // size)
    count = calls * size
    if isinstance(sets, Records) and len(sets) < count:
        raise InputError(
            f"validation.records is {config.validation.records}, {count} in whole parts of a batch, expected at most "
            f"the {len(sets)} that the sets hold"
        )
    data = validation_data(config)
    found = first_examples(sets, count, SEED, data)
    examples = for_stage(replace(config, data=replace(data, resident=False)), networks, found)
    examples |= {name: found[name] for name in {"hr", start_read(config)} & found.keys()}
    last = config.loss.max_timestep
    step = (config.known_schedule.num_train_timesteps if last is None else last + 1) / count
    timesteps = ((np.arange(count) + 0.5) * step).astype(np.int32).reshape(size, calls).T.reshape(-1)
    examples |= {"timesteps": timesteps, "number": np.arange(count, dtype=np.int32)}
    own = size // jax.process_count()
    begins = range(own * jax.process_index(), count, size)
    return [{name: value[begin : begin + own] for name, value in examples.items()} for begin in begins]


def _why_no_pictures(config: TrainConfig, networks: Networks, batch: HostExamples) -> str:
    """Why the stage's pictures cannot be measured; empty if they can."""
    if config.stage != "vae" and not stage_named(config.stage).reads:
        return f"stage {config.stage} restores no pictures"
    if "vae" not in networks.configs:
        return "there is no vae to make pictures with"
    return "" if "hr" in batch else "the records hold no hr to compare pictures with"


def _lpips(config: TrainConfig) -> tuple[Mapping[str, np.ndarray], str]:
    """LPIPS's weights, or none and the reason."""
    if config.data.crop_size < _LEAST_SIDE:
        return {}, f"data.crop_size is {config.data.crop_size}, expected at least {_LEAST_SIDE}"
    try:
        return lpips_weights("alexnet"), ""
    except InputError as error:
        return {}, str(error)


def _rounded(images: Images) -> Images:
    """Pictures in [-1, 1] as they are when written in 8 bit, in 0..255."""
    return jnp.clip(jnp.round((images.astype(jnp.float32) + 1) * 127.5), 0, 255)


def _distances(lpips: Params, made: Images, truth: Pixels) -> Metrics:
    """The mean PSNR and, if there are weights, the mean LPIPS of pictures in 0..255."""
    true = truth.astype(jnp.float32)
    errors = jnp.mean(jnp.square(jnp.sum((made - true) * _LUMA, -1)), (1, 2))
    found = {"psnr_y": jnp.mean(10 * jnp.log10(255**2 / jnp.maximum(errors, 1e-10)))}
    if lpips:
        features = (lpips_features(lpips, images / 127.5 - 1) for images in (made, true))
        found["lpips"] = jnp.mean(lpips_between(lpips, *features))
    return found
