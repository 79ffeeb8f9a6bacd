"""The image attention of CasSR: its weights, what it does before training, and that training reaches all of it."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cassr_jax.models.controlnet import ControlNet, ControlNetOutput
from cassr_jax.models.denoisers import Denoiser
from cassr_jax.models.multiple_attention import GuidanceSwitches, MultipleAttention
from cassr_jax.models.parameters import Params, Shapes, abstract, initialise, merge, nest, select
from cassr_jax.models.unet import UNetConfig
from cassr_jax.weights.convert import from_torch
from tests import narrow, narrow_denoisers
from tests.narrow_denoisers import KINDS, Given, make_denoiser, predict

GOLDEN = Path(__file__).parents[1] / "golden" / "denoisers.npz"
FACTORIES = narrow_denoisers.FACTORIES
GRAPHDEFS = {name: abstract(factory)[0] for name, factory in FACTORIES.items()}


def test_weights_have_the_described_names_and_shapes():
    with np.load(GOLDEN) as golden:
        described = json.loads(str(golden["shapes"]))
    _, shapes = abstract(FACTORIES["multiple_attention"])
    from_torch({key: np.empty(shape, np.float32) for key, shape in described.items()}, shapes)  # raises otherwise


def test_stable_diffusion_15_has_9_pairs():
    _, shapes = abstract(lambda rngs: MultipleAttention(UNetConfig(), rngs=rngs))
    keys = {name: shape.shape for name, shape in shapes.items() if name.endswith("to_k.kernel")}
    sources = [(1280, 1280), (1280, 1280), (640, 1280), (640, 640), (640, 640), (320, 640)] + [(320, 320)] * 3
    for i, shape in enumerate(sources):
        for image in ("reference", "lr"):
            assert keys.pop(f"up_blocks.{1 + i // 3}.{i % 3}.{image}.attn.to_k.kernel") == shape
    assert not keys


@dataclass(frozen=True)
class AfterZeroConvolutions:
    """A ControlNet whose features are taken after its zero convolutions."""

    controlnet: ControlNet

    def __getattr__(self, name: str) -> Any:
        return getattr(self.controlnet, name)

    def __call__(self, *args: Any) -> ControlNetOutput:
        output = self.controlnet(*args)
        return output._replace(features=output.residuals)


def denoise(
    params: Params, given: Given, kind: str, make: Callable[[Mapping[str, Any]], Denoiser] | None = None
) -> jax.Array:
    """The prediction, each picture at its own timestep, of a denoiser of that kind, by default the plain one."""
    make = make or partial(make_denoiser, kind)
    modules = {name: merge(GRAPHDEFS[name], select(params, name)) for name in GRAPHDEFS}
    images = given.images(kind)
    return predict(make(modules), given.latents, given.timesteps, given.context[1:3], *images)


def stable_diffusion(params: Params, given: Given) -> jax.Array:
    """The same of the U-Net alone, called as it is."""
    unet = merge(GRAPHDEFS["unet"], select(params, "unet"))
    temb, text = unet.embed_time(jnp.asarray(given.timesteps)), unet.text_key_values(jnp.asarray(given.context[1:3]))
    h, skips = unet.encode(jnp.asarray(given.latents), temb, text)
    return unet.decode(h, skips, temb, text)


@pytest.fixture(scope="module")
def given() -> Given:
    return narrow_denoisers.given()


@pytest.fixture(scope="module")
def untrained() -> Params:
    """The U-Net random, all else as it starts: the ControlNet's encoder is the U-Net's."""
    unet = narrow.random_params(shapes_of("unet"))
    params = nest("unet", unet)
    for name in ("controlnet", "multiple_attention", "scedit"):
        params |= nest(name, initialise(FACTORIES[name], jax.random.key(0, impl="rbg"))[1])
    return params | {name: params[name.replace("controlnet", "unet", 1)] for name in params if _encoder(name, params)}


def shapes_of(name: str) -> Shapes:
    return abstract(FACTORIES[name])[1]


def _encoder(name: str, params: Params) -> bool:
    return name.startswith("controlnet.") and name.replace("controlnet", "unet", 1) in params


def test_untrained_denoisers_are_stable_diffusion_bit_for_bit(untrained, given):
    # Operation by operation: compiled as a whole, XLA fuses the programs differently, and their last bits with it.
    alone = stable_diffusion(untrained, given)
    with np.load(GOLDEN) as golden:
        assert narrow.relative_l2(alone, golden["base.whole/training"]) <= 1e-5  # diffusers' own U-Net
    for kind in KINDS:
        np.testing.assert_array_equal(denoise(untrained, given, kind), alone)


class TestGradient:
    """What moves on which step. Everything must move in the end, or a part of the network would never train."""

    def gradients(
        self, params: Params, given: Given, trainable: tuple[str, ...], steps: int, kind: str, make: Any = None
    ):
        target = np.random.default_rng(3).normal(size=given.latents.shape).astype(np.float32)
        trained = {name: value for name, value in params.items() if name.startswith(trainable)}
        frozen = {name: value for name, value in params.items() if name not in trained}
        optimizer = optax.adam(1e-2)

        @jax.jit
        def step(trained, state, frozen):
            def loss(trained):
                return jnp.mean(jnp.square(denoise(frozen | trained, given, kind, make) - target))

            gradient = jax.grad(loss)(trained)
            updates, state = optimizer.update(gradient, state)
            return gradient, optax.apply_updates(trained, updates), state

        state = optimizer.init(trained)
        result = []
        for _ in range(steps):
            gradient, trained, state = step(trained, state, frozen)
            result.append({name for name, value in gradient.items() if np.abs(value).max() > 0})
        return set(trained), result

    def test_guidance(self, untrained, given):
        trained, steps = self.gradients(untrained, given, ("controlnet.", "multiple_attention."), 3, "cassr")
        # Step 1: the zero layers that the loss sees. Their zeros hide all that lies behind them.
        first = {name for name in trained if name.startswith("controlnet.controlnet_") and "cond_embedding" not in name}
        first |= {name for name in trained if ".attn.to_out.0." in name}
        assert steps[0] == first
        # Step 2: all but the hint net, which has a zero convolution of its own at its end.
        hint_net = {name for name in trained if "cond_embedding" in name and "conv_out" not in name}
        assert hint_net
        assert steps[1] == trained - hint_net
        assert steps[2] == trained

    def test_tuner(self, untrained, given):
        trained, steps = self.gradients(untrained, given, ("scedit.",), 2, "scedit")
        # Step 1: the tuners' last layers, the first dense hint, and of the others, fed with zeros, the biases.
        first = {name for name in trained if ".ln2." in name or ".dense_hint_blocks.0." in name}
        first |= {name for name in trained if ".dense_hint_blocks." in name and name.endswith(".bias")}
        assert steps[0] == first
        assert steps[1] == trained

    def test_keys_made_after_the_zero_convolutions_would_never_train(self, untrained, given):
        """The trap that the features before the zero convolutions avoid: the output projection sees zeros."""

        def trapped(modules: Mapping[str, Any]) -> Denoiser:
            controlnet = AfterZeroConvolutions(modules["controlnet"])
            return make_denoiser("cassr", {**modules, "controlnet": controlnet}, GuidanceSwitches(residuals=False))

        _, steps = self.gradients(untrained, given, ("multiple_attention.",), 1, "cassr", trapped)
        assert not {name for name in steps[0] if name.endswith("to_out.0.kernel")}
