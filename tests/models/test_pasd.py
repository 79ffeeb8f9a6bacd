"""PASD against its own classes: predictions, the names of its weights, and a whole run of its sampler."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cassr_jax.models.denoisers import ControlNetDenoiser, PASDDenoiser
from cassr_jax.models.parameters import abstract, initialise, merge
from cassr_jax.models.pixel_attention import PixelAttention, PixelAttentionConfig
from cassr_jax.models.unet import UNet, UNetConfig
from cassr_jax.weights.convert import torch_name
from tests import narrow, narrow_pasd

GOLDEN = Path(__file__).parents[1] / "golden" / "pasd.npz"


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    with np.load(GOLDEN) as file:
        return dict(file)


def of(golden: dict[str, np.ndarray], start: str) -> dict[str, np.ndarray]:
    return {name.removeprefix(start): value for name, value in golden.items() if name.startswith(start)}


@pytest.mark.parametrize("case", narrow_pasd.CASES)
def test_a_prediction_equals_the_published_programs(golden, case):
    errors = narrow.errors(narrow_pasd.run(case), of(golden, f"{case}/"))
    assert max(errors.values()) <= 1e-5, errors


@pytest.mark.slow
@pytest.mark.parametrize("case", narrow_pasd.FULL)
def test_at_full_size_a_prediction_is_as_near_float64_as_float32_can_be(golden, case):
    """Torch's own float32 is 1e-5 off; XLA sums in another order, and may be three times as far."""
    made, expected = narrow_pasd.run(case)["prediction"], golden[f"{case}/prediction"].astype(np.float64)
    error = np.linalg.norm(np.asarray(made, np.float64) - expected) / np.linalg.norm(expected)
    assert error <= 3 * golden[f"{case}/float32"] <= 6e-5, error


@pytest.mark.parametrize("case", narrow_pasd.CASES)
def test_weights_have_the_published_names_and_shapes(golden, case):
    published = json.loads(str(golden["shapes"]))[case]
    ours: dict[str, dict[str, int]] = {"unet": {}, "controlnet": {}}
    for name, factory in narrow_pasd.factories(case).items():
        place = "controlnet" if name == "controlnet" else "unet"  # the attention lies within its U-Net
        shapes = abstract(factory)[1]
        ours[place] |= {torch_name(path): int(np.prod(value.shape)) for path, value in shapes.items()}
    theirs = {place: {name: int(np.prod(shape)) for name, shape in names.items()} for place, names in published.items()}
    assert ours == theirs


def test_a_run_of_20_steps_has_the_published_programs_latents(golden):
    expected = of(golden, "run/step.")
    errors = [
        float(np.linalg.norm(made - expected[str(i)]) / np.linalg.norm(expected[str(i)]))
        for i, made in enumerate(narrow_pasd.trajectory())
    ]
    assert len(errors) == len(expected) == 21
    assert max(errors) <= 1e-5, errors


@pytest.mark.parametrize("light", [False, True])
def test_untrained_it_is_the_plain_controlnet(light):
    factories = narrow_pasd.factories("pasd") | {
        "pixel_attention": lambda rngs: PixelAttention(narrow_pasd.UNET, PixelAttentionConfig(light), rngs=rngs)
    }
    modules = {
        name: merge(*initialise(factory, jax.random.key(number)))
        for number, (name, factory) in enumerate(factories.items())
    }
    graphdef, params = narrow.random_network(factories["controlnet"], seed=1)
    modules["controlnet"] = merge(graphdef, params)  # whose residuals are not zero
    plain = ControlNetDenoiser(modules["unet"], modules["controlnet"])
    ours = PASDDenoiser(modules["unet"], modules["controlnet"], modules["pixel_attention"])
    given = narrow_pasd.given()

    def made(net: ControlNetDenoiser) -> jax.Array:
        hints = net.embed_images(jnp.asarray(2 * given.images - 1))
        text = net.embed_text(jnp.asarray(given.context[:2]))
        return net(jnp.asarray(given.latents), net.embed_time(jnp.asarray(given.timesteps)), text, hints)

    np.testing.assert_array_equal(made(ours), made(plain))


def test_a_fidelity_of_zero_takes_nothing_from_the_picture():
    graphdefs, params = narrow_pasd.networks("pasd_light")
    net, given = narrow_pasd.denoiser(graphdefs, params), narrow_pasd.given()
    text, temb = net.embed_text(jnp.asarray(given.context[:2])), net.embed_time(jnp.asarray(given.timesteps))
    one, other = (net.embed_images(jnp.asarray(images)) for images in (given.images, 1 - given.images))
    of_weight = [[net(jnp.asarray(given.latents), temb, text, h, jnp.float32(w)) for h in (one, other)] for w in (0, 1)]
    np.testing.assert_array_equal(*of_weight[0])
    assert np.abs(np.subtract(*of_weight[1])).max() > 1e-3


def test_at_stable_diffusion_15_it_is_as_published():
    """A transformer behind each of the 12 layers, or one more attention in each of the 9 transformers."""
    full, light = (
        {
            torch_name(name)
            for name in abstract(lambda rngs, v=v: PixelAttention(UNetConfig(), PixelAttentionConfig(v), rngs=rngs))[1]
        }
        for v in (False, True)
    )
    assert {name.split(".proj_in.")[0] for name in full if ".proj_in." in name} == {
        f"up_blocks.{i}.pixel_attentions.{j}" for i in range(4) for j in range(3)
    }
    assert {name.split(".proj_in_plus.")[0] for name in light if ".proj_in_plus." in name} == {
        f"up_blocks.{i}.attentions.{j}" for i in (1, 2, 3) for j in range(3)
    }
    assert not full & set(map(torch_name, abstract(lambda rngs: UNet(UNetConfig(), rngs=rngs))[1]))
