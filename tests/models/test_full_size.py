"""Stable Diffusion 1.5 at its full widths against torch diffusers, on small latents. Takes 8 GB and minutes.

One network after another, torch's first: its weights share memory with the arrays that ours are made from.
"""

import gc
from collections.abc import Iterator

import jax
import numpy as np
import pytest

from cassr_jax.models.controlnet import ControlNet, ControlNetConfig
from cassr_jax.models.parameters import abstract, merge
from cassr_jax.models.unet import UNet, UNetConfig
from cassr_jax.models.vae import AutoencoderKL, VAEConfig
from cassr_jax.weights.convert import from_torch
from tests import narrow
from tests.random_weights import random_state_dict

torch = pytest.importorskip("torch")
pytestmark = [pytest.mark.slow, pytest.mark.reference]

CONFIG = UNetConfig()


@pytest.fixture(autouse=True)
def _free_memory() -> Iterator[None]:
    yield
    gc.collect()
    jax.clear_caches()


@pytest.fixture(scope="module")
def given() -> narrow.Inputs:
    """Latents 16x16, images eight pixels a latent, the text's 77 tokens."""
    rng = np.random.default_rng(0)
    return narrow.Inputs(
        latents=rng.normal(size=(1, 16, 16, 4)).astype(np.float32),
        timesteps=np.array([421], np.int32),
        context=rng.normal(size=(1, 77, CONFIG.cross_attention_dim)).astype(np.float32),
        images=rng.uniform(size=(1, 128, 128, 3)).astype(np.float32),
    )


@pytest.fixture(scope="module")
def residuals() -> tuple[list[np.ndarray], np.ndarray]:
    """What a ControlNet might add, at a tenth of the skips' size."""
    rng, side, result = np.random.default_rng(1), 16, []
    for channels, down in CONFIG.skips:
        side //= 2 if down else 1
        result.append(0.1 * rng.normal(size=(1, side, side, channels)).astype(np.float32))
    return result, 0.1 * rng.normal(size=result[-1].shape).astype(np.float32)


def state_of(module: torch.nn.Module) -> dict[str, np.ndarray]:
    """Kernels at sqrt(3) times torch's own initial size, which keeps the size of activations through the network.

    At three times its size, as the narrow tests have them, attention is so sharp that the full U-Net multiplies
    rounding: two float32 programs are 1.06e-5 apart there.
    """
    state = random_state_dict({name: tuple(value.shape) for name, value in module.state_dict().items()})
    for value in state.values():
        if value.ndim > 1:
            value *= np.float32(3**-0.5)
    return state


def report(record_property, errors: dict[str, float]) -> None:
    record_property("relative_l2", errors)
    print(errors)
    assert max(errors.values()) <= 1e-5, errors


def test_unet(given, residuals, record_property):
    from tests import references

    with torch.device("meta"):
        theirs = references.unet(CONFIG)
    state = state_of(theirs)
    references.give_weights(theirs, state)
    call = references.nchw(given.latents), torch.from_numpy(given.timesteps), torch.from_numpy(given.context)
    down, middle = [references.nchw(x) for x in residuals[0]], references.nchw(residuals[1])
    with torch.no_grad():
        alone = theirs(*call).sample
        controlled = theirs(*call, down_block_additional_residuals=down, mid_block_additional_residual=middle).sample
    expected = {"sample": references.nhwc(alone), "controlled": references.nhwc(controlled)}
    del theirs

    graphdef, shapes = abstract(lambda rngs: UNet(CONFIG, rngs=rngs))
    params = jax.device_put(from_torch(state, shapes))
    del state

    @jax.jit
    def run(params, given, residuals):
        unet = merge(graphdef, params)
        temb, text = unet.embed_time(given.timesteps), unet.text_key_values(given.context)
        h, skips = unet.encode(given.latents, temb, text)
        edited = [skip + residual for skip, residual in zip(skips, residuals[0], strict=True)]
        return {
            "sample": unet.decode(h, skips, temb, text),
            "controlled": unet.decode(h + residuals[1], edited, temb, text),
        }

    report(record_property, narrow.errors(run(params, given, residuals), expected))


def test_controlnet(given, record_property):
    from tests import references

    with torch.device("meta"):
        theirs = references.controlnet(CONFIG, ControlNetConfig())
    state = state_of(theirs)
    references.give_weights(theirs, state)
    call = references.nchw(given.latents), torch.from_numpy(given.timesteps), torch.from_numpy(given.context)
    with torch.no_grad():
        down, middle = theirs(*call, references.nchw(given.images), return_dict=False)
    expected = {f"residual.{i}": references.nhwc(x) for i, x in enumerate(down)} | {"middle": references.nhwc(middle)}
    assert len(expected) == 13

    graphdef, shapes = abstract(lambda rngs: ControlNet(CONFIG, ControlNetConfig(), rngs=rngs))

    @jax.jit
    def run(params, given):
        net = merge(graphdef, params)
        time, text = net.embed_time(given.timesteps), net.text_key_values(given.context)
        output = net(given.latents, time, text, net.embed_hint(given.images))
        return {f"residual.{i}": x for i, x in enumerate(output.residuals)} | {"middle": output.middle}

    report(record_property, narrow.errors(run(from_torch(state, shapes), given), expected))


def test_vae(given, record_property):
    from tests import references

    theirs = references.vae(VAEConfig())
    state = state_of(theirs)
    expected = references.vae_outputs(references.give_weights(theirs, state), given)
    graphdef, shapes = abstract(lambda rngs: AutoencoderKL(VAEConfig(), rngs=rngs))
    run = jax.jit(lambda params, given: narrow.vae_outputs(merge(graphdef, params), given))
    actual = run(from_torch(state, shapes), given)
    report(record_property, narrow.errors(actual, expected))
