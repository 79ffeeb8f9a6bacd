"""LPIPS and DISTS against plain torch (golden arrays) and against the values their authors published."""

import importlib.util
from pathlib import Path

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cassr_jax.errors import InputError
from cassr_jax.weights.perceptual import dists_weights, lpips_weights
from tests.evaluation.narrow_backbones import narrow_params
from tests.perceptual import dists, lpips

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "evaluation.npz")
NETS = ["alexnet", "vgg16"]
# pyiqa's own calibration table; LPIPS with VGG16 measured with the package lpips 0.1.4.
CALIBRATION = {
    "I03": {"alexnet": 0.7237, "vgg16": 0.7614, "dists": 0.4742},
    "I04": {"alexnet": 0.2572, "vgg16": 0.2090, "dists": 0.1424},
    "I06": {"alexnet": 0.0508, "vgg16": 0.0544, "dists": 0.0682},
    "I08": {"alexnet": 0.0521, "vgg16": 0.0475, "dists": 0.0287},
    "I19": {"alexnet": 0.4253, "vgg16": 0.5971, "dists": 0.3123},
}


narrow = narrow_params


def published(measure: str) -> dict[str, np.ndarray]:
    try:
        return dists_weights() if measure == "dists" else lpips_weights(measure)
    except InputError as error:
        pytest.skip(str(error))


def pair() -> tuple[np.ndarray, np.ndarray]:
    first, second = GOLDEN["pictures"].astype(np.float32) / 127.5 - 1
    return first, second


def measure(name: str, weights, a, b) -> np.ndarray:
    function = dists if name == "dists" else lambda p, x, y: lpips(p, x, y, name)
    return np.asarray(jax.jit(function)(weights, a, b))


@pytest.mark.parametrize("net", NETS)
def test_lpips_of_narrow_backbones_and_its_gradient_equal_torch(net):
    a, b = pair()

    def total(x: jax.Array) -> tuple[jax.Array, jax.Array]:
        values = lpips(narrow(net), x, b, net)
        return values.sum(), values

    gradient, values = jax.jit(jax.grad(total, has_aux=True))(a)
    np.testing.assert_allclose(values, GOLDEN[f"narrow.lpips.{net}"], rtol=2e-5)
    expected = GOLDEN[f"gradient.{net}"]
    assert np.linalg.norm(gradient[:, ::5, ::5] - expected) < 2e-5 * np.linalg.norm(expected)


def test_dists_of_a_narrow_backbone_equals_torch():
    np.testing.assert_allclose(measure("dists", narrow("vgg16"), *pair()), GOLDEN["narrow.dists"], rtol=2e-5)


@pytest.mark.parametrize("name", [*NETS, "dists"])
def test_published_weights_on_synthetic_pictures(name):
    expected = GOLDEN["published.dists" if name == "dists" else f"published.lpips.{name}"]
    np.testing.assert_allclose(measure(name, published(name), *pair()), expected, rtol=2e-5)


# The smallest distance always; the rest, a minute of VGG16, with -m slow.
@pytest.mark.parametrize("name", [*NETS, "dists"])
@pytest.mark.parametrize(
    "picture", ["I08", *(pytest.param(name, marks=pytest.mark.slow) for name in ("I03", "I04", "I06", "I19"))]
)
def test_the_authors_pictures_to_every_published_digit(picture, name):
    spec = importlib.util.find_spec("pyiqa")
    folder = Path(spec.origin).parents[1] / "ResultsCalibra" if spec and spec.origin else Path("none")
    if not folder.is_dir():
        pytest.skip("pyiqa 0.1.16, which ships the calibration pictures, is not installed")
    distorted, reference = (cv2.imread(str(folder / f"{kind}_dir" / f"{picture}.bmp")) for kind in ("dist", "ref"))
    a, b = (image[None, ..., ::-1].astype(np.float32) / 127.5 - 1 for image in (distorted, reference))
    value = measure(name, published(name), a, b)
    assert value[0] == pytest.approx(CALIBRATION[picture][name], abs=5.1e-5)


@pytest.mark.parametrize("name", [*NETS, "dists"])
def test_equal_flat_pictures_have_distance_zero_and_a_finite_gradient(name):
    # Black biases drive whole pixels to zero features, where a length has no derivative.
    weights = {key: -np.abs(value) if key.endswith("bias") else value for key, value in narrow("vgg16").items()}
    weights = weights if name != "alexnet" else narrow(name) | {"conv.0.bias": np.full(4, -9, np.float32)}
    flat = np.full((1, 64, 64, 3), -0.1, np.float32)

    def value(x: jax.Array) -> jax.Array:
        return (dists(weights, x, flat) if name == "dists" else lpips(weights, x, flat, name)).sum()

    distance, gradient = jax.jit(jax.value_and_grad(value))(jnp.asarray(flat))
    assert abs(distance) < 1e-6
    assert np.isfinite(gradient).all()


def test_low_precision_images_are_measured_in_float32():
    a, b = (jnp.asarray(x[:1], jnp.bfloat16) for x in pair())
    result = measure("alexnet", narrow("alexnet"), a, b)
    assert result.dtype == jnp.float32
    expected = measure("alexnet", narrow("alexnet"), a.astype(jnp.float32), b.astype(jnp.float32))
    np.testing.assert_allclose(result, expected, rtol=1e-6)
