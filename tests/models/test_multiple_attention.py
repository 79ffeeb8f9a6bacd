"""The image attention of CasSR: against torch, before training, and that training reaches all of it."""

import json
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cassr_jax.models.controlnet import ControlNet, ControlNetConfig
from cassr_jax.models.multiple_attention import GuidanceSwitches, MultipleAttention
from cassr_jax.models.parameters import Params, Shapes, abstract, initialise, merge, nest, select
from cassr_jax.models.scedit import CSCTuner
from cassr_jax.models.unet import UNet, UNetConfig
from cassr_jax.weights.convert import from_torch
from tests import narrow
from tests.models.test_vae import recorded

CONFIG = narrow.SMALL
FACTORIES: dict[str, Callable[..., Any]] = {
    "unet": lambda rngs: UNet(CONFIG, rngs=rngs),
    "controlnet": lambda rngs: ControlNet(
        CONFIG, ControlNetConfig(conditioning_embedding_out_channels=(8, 12, 16)), rngs=rngs
    ),
    "multiple_attention": lambda rngs: MultipleAttention(CONFIG, rngs=rngs),
    "scedit": lambda rngs: CSCTuner(CONFIG, narrow.SCEDIT, rngs=rngs),
}
GRAPHDEFS = {name: abstract(factory)[0] for name, factory in FACTORIES.items()}


def test_guided_unet_equals_the_recorded(networks_golden):
    errors = narrow.errors(narrow.run_guided(), recorded(networks_golden, "guided"))
    assert max(errors.values()) <= 1e-5, errors


@pytest.mark.reference
def test_guided_unet_equals_torch():
    pytest.importorskip("torch")
    from tests import references

    errors = narrow.errors(narrow.run_guided(), references.run_guided())
    assert max(errors.values()) <= 1e-5, errors


def test_weights_have_the_described_names_and_shapes(networks_golden):
    _, shapes = abstract(FACTORIES["multiple_attention"])
    described = json.loads(str(networks_golden["shapes"]))["multiple_attention/small"]
    from_torch({key: np.empty(shape, np.float32) for key, shape in described.items()}, shapes)  # raises otherwise


def test_stable_diffusion_15_has_9_pairs():
    _, shapes = abstract(lambda rngs: MultipleAttention(UNetConfig(), rngs=rngs))
    keys = {name: shape.shape for name, shape in shapes.items() if name.endswith("to_k.kernel")}
    sources = [(1280, 1280), (1280, 1280), (640, 1280), (640, 640), (640, 640), (320, 640)] + [(320, 320)] * 3
    for i, shape in enumerate(sources):
        for image in ("reference", "lr"):
            assert keys.pop(f"up_blocks.{1 + i // 3}.{i % 3}.{image}.attn.to_k.kernel") == shape
    assert not keys


class Variant(NamedTuple):
    """A way to call the networks: the U-Net alone, with CasSR's guidance where switches are given, with SCEdit."""

    switches: GuidanceSwitches | None = None
    tuned: bool = False
    keys_after_zero_convs: bool = False


def denoise(params: Params, given: narrow.Inputs, variants: tuple[Variant, ...]) -> list[jax.Array]:
    """The prediction of every variant; what they have in common is computed once."""
    unet, controlnet, attention, tuner = (merge(GRAPHDEFS[name], select(params, name)) for name in FACTORIES)
    latents, timesteps, context, images = given
    temb, text = unet.embed_time(timesteps), unet.text_key_values(context)
    h, skips = unet.encode(latents, temb, text)
    edited = tuner(skips, tuner.hints(images))

    twice = partial(jax.tree.map, lambda x: jnp.concatenate([x, x]))
    hints = controlnet.embed_hint(jnp.concatenate([images, images[:, ::-1]]))  # LR image and reference
    control_temb, control_text = controlnet.embed_time(timesteps), controlnet.text_key_values(context)
    control = controlnet(twice(latents), twice(control_temb), twice(control_text), hints)

    def halves(arrays: list[jax.Array]) -> tuple[list[jax.Array], list[jax.Array]]:
        lr, reference = zip(*(jnp.split(x, 2) for x in arrays), strict=True)
        return list(lr), list(reference)

    def run(variant: Variant) -> jax.Array:
        middle, ours, guides = h, edited if variant.tuned else skips, None
        if variant.switches is not None:
            if variant.switches.residuals:
                middle = h + sum(jnp.split(control.middle, 2))
                ours = [skip + lr + r for skip, lr, r in zip(ours, *halves(control.residuals), strict=True)]
            source = control.residuals if variant.keys_after_zero_convs else control.features
            guides = attention.bind(*halves(source), variant.switches)
        return unet.decode(middle, ours, temb, text, guides)

    return [run(variant) for variant in variants]


def compiled(*variants: Variant) -> Callable[[Params, narrow.Inputs], list[jax.Array]]:
    return jax.jit(partial(denoise, variants=variants))


@pytest.fixture(scope="module")
def given() -> narrow.Inputs:
    return narrow.inputs(CONFIG.cross_attention_dim)


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


def test_untrained_cascade_is_stable_diffusion_bit_for_bit(untrained, given):
    guided, tuned, both = Variant(GuidanceSwitches()), Variant(tuned=True), Variant(GuidanceSwitches(), tuned=True)
    # Operation by operation: compiled as a whole, XLA fuses the two programs differently, and their last bits with it.
    alone, *others = denoise(untrained, given, (Variant(), guided, tuned, both))
    assert np.std(alone) > 0.1
    for output in others:
        np.testing.assert_array_equal(output, alone)


def test_each_switch_changes_a_trained_network(given):
    params: Params = {}
    for i, name in enumerate(FACTORIES):
        params |= nest(name, narrow.random_params(shapes_of(name), seed=i))
    switches = {
        "all": GuidanceSwitches(),
        "no residuals": GuidanceSwitches(residuals=False),
        "reference attention only": GuidanceSwitches(lr_attention=False, residuals=False),
        "LR attention only": GuidanceSwitches(reference_attention=False, residuals=False),
        "residuals only": GuidanceSwitches(reference_attention=False, lr_attention=False),
        "none": GuidanceSwitches(reference_attention=False, lr_attention=False, residuals=False),
    }
    *outputs, alone = compiled(*(Variant(s) for s in switches.values()), Variant())(params, given)
    for i, one in enumerate(outputs):
        for other in outputs[:i]:
            assert narrow.relative_l2(one, other) > 0.05
    np.testing.assert_array_equal(outputs[-1], alone)


class TestGradient:
    """What moves on which step. Everything must move in the end, or a part of the network would never train."""

    def gradients(self, params: Params, given: narrow.Inputs, trainable: tuple[str, ...], steps: int, variant: Variant):
        target = np.random.default_rng(3).normal(size=given.latents.shape).astype(np.float32)
        trained = {name: value for name, value in params.items() if name.startswith(trainable)}
        frozen = {name: value for name, value in params.items() if name not in trained}
        optimizer = optax.adam(1e-2)

        @jax.jit
        def step(trained, state, frozen):
            def loss(trained):
                return jnp.mean(jnp.square(denoise(frozen | trained, given, (variant,))[0] - target))

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
        trained, steps = self.gradients(
            untrained, given, ("controlnet.", "multiple_attention."), 3, Variant(GuidanceSwitches())
        )
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
        trained, steps = self.gradients(untrained, given, ("scedit.",), 2, Variant(tuned=True))
        # Step 1: the tuners' last layers, the first dense hint, and of the others, fed with zeros, the biases.
        first = {name for name in trained if ".ln2." in name or ".dense_hint_blocks.0." in name}
        first |= {name for name in trained if ".dense_hint_blocks." in name and name.endswith(".bias")}
        assert steps[0] == first
        assert steps[1] == trained

    def test_keys_made_after_the_zero_convolutions_would_never_train(self, untrained, given):
        """The trap that the features before the zero convolutions avoid: the output projection sees zeros."""
        _, steps = self.gradients(
            untrained,
            given,
            ("multiple_attention.",),
            1,
            Variant(GuidanceSwitches(residuals=False), keys_after_zero_convs=True),
        )
        assert not {name for name in steps[0] if name.endswith("to_out.0.kernel")}
