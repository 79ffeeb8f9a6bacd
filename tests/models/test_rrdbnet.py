"""RRDBNet against a torch one written from its description: recorded outputs always, live where torch is installed."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cassr_jax.models.parameters import abstract, merge
from cassr_jax.models.rrdbnet import RRDBNet, RRDBNetConfig
from cassr_jax.weights.convert import from_torch
from tests.random_weights import random_state_dict

GOLDEN = Path(__file__).parents[1] / "golden" / "rrdbnet.npz"


def relative_l2(actual: jax.Array, expected: np.ndarray) -> float:
    difference = np.asarray(actual, np.float64) - expected
    return float(np.linalg.norm(difference) / np.linalg.norm(expected))


def upscale(config: RRDBNetConfig, state: dict, images: np.ndarray, dtype=jnp.float32) -> jax.Array:
    graphdef, shapes = abstract(lambda rngs: RRDBNet(config, dtype=dtype, rngs=rngs))
    return jax.jit(lambda params, images: merge(graphdef, params)(images))(from_torch(state, shapes), images)


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    with np.load(GOLDEN) as file:
        return dict(file)


def golden_network(golden, scale: int) -> tuple[RRDBNetConfig, dict[str, np.ndarray]]:
    shapes = json.loads(str(golden["shapes"]))[str(scale)]
    return RRDBNetConfig(**json.loads(str(golden["config"])), scale=scale), random_state_dict(
        shapes, int(golden["seed"])
    )


@pytest.mark.parametrize("scale", [4, 2, 1])
def test_equals_recorded_torch(golden, scale):
    output = upscale(*golden_network(golden, scale), golden["images"])
    assert output.dtype == jnp.float32
    assert output.shape == (2, 8 * scale, 12 * scale, 3)
    assert relative_l2(output, golden[f"x{scale}"]) <= 1e-5


def test_bfloat16_stays_near_float32(golden):
    output = upscale(*golden_network(golden, 4), golden["images"], jnp.bfloat16)
    assert output.dtype == jnp.bfloat16
    assert relative_l2(output, golden["x4"]) <= 2e-2


def test_default_is_the_published_network():
    _, shapes = abstract(lambda rngs: RRDBNet(RRDBNetConfig(), rngs=rngs))
    assert len(shapes) == 2 * 351
    assert sum(np.prod(shape.shape, dtype=int) for shape in shapes.values()) == 16_697_987
    assert shapes["body.22.rdb3.conv5.kernel"].shape == (3, 3, 192, 64)


def test_equal_blocks_are_compiled_once():
    """A program of 21 convolutions, where one that has each of the 23 blocks in it has 351: 1 s to compile, not 10."""
    graphdef, shapes = abstract(lambda rngs: RRDBNet(RRDBNetConfig(), rngs=rngs))
    images = jax.ShapeDtypeStruct((1, 16, 16, 3), jnp.float32)
    program = jax.jit(lambda params, images: merge(graphdef, params)(images)).lower(shapes, images).as_text()
    assert program.count("stablehlo.convolution") == 6 + 15


def test_rejects_what_it_cannot_scale():
    with pytest.raises(ValueError, match="scale is 3, expected 1, 2 or 4"):
        abstract(lambda rngs: RRDBNet(RRDBNetConfig(scale=3), rngs=rngs))
    narrow = RRDBNetConfig(num_feat=4, num_block=1, num_grow_ch=2, scale=2)
    graphdef, shapes = abstract(lambda rngs: RRDBNet(narrow, rngs=rngs))
    with pytest.raises(ValueError, match="image of 7x8 pixels, expected multiples of 2"):
        jax.eval_shape(lambda p: merge(graphdef, p)(jnp.zeros((1, 7, 8, 3))), shapes)


@pytest.mark.reference
def test_equals_torch():
    pytest.importorskip("torch")
    from tests.golden.make_rrdbnet import shapes_of, torch_rrdbnet

    config = {"num_feat": 12, "num_block": 3, "num_grow_ch": 6}
    state = random_state_dict(shapes_of(**config), seed=1)
    images = np.random.default_rng(1).random((1, 10, 6, 3), np.float32)
    assert relative_l2(upscale(RRDBNetConfig(**config), state, images), torch_rrdbnet(state, images, **config)) <= 1e-5
