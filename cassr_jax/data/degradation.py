"""Two-order degradation, which turns a sharp picture into a small, blurred, noisy and compressed one.

This is the pipeline of Real-ESRGAN (Wang et al., arXiv 2107.10833) as a pure function of a picture, a seed and a
preset. Its operations follow the published torch code, with two differences. JPEG is the real codec, on 8-bit pixels.
And the first resizing maps the whole picture onto the whole result; the published code passes on the factor that was
drawn, and if this does not divide the size, the far edge moves by up to a pixel and the pair is out of register.
"""

import cv2
import numpy as np

from cassr_jax.data.kernels import draw_blur, draw_final_sinc, uniform
from cassr_jax.data.presets import Order, Preset
from cassr_jax.data.resize import MODES, resize

GRAY_NOISE_PROB = 0.4


def degrade(
    image: np.ndarray, seed: int | np.random.Generator, preset: Preset, *, scale: int = 4
) -> tuple[np.ndarray, np.ndarray]:
    """Degrade a picture; the same picture, seed and preset give the same result.

    Args:
        image: uint8 RGB (H, W, 3), with sides that are multiples of `scale`.
        seed: a seed, or the generator to draw from.
        preset: the ranges to draw from.
        scale: how many times smaller the low-resolution picture is.

    Returns:
        lr, uint8 (H / scale, W / scale, 3), and the target hr, uint8 (H, W, 3): `image`, sharpened or softened if the
        preset says so.

    Raises:
        ValueError: the picture has another type, shape or size.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"the picture is {image.dtype} {image.shape}, expected uint8 (H, W, 3)")
    height, width = image.shape[:2]
    if min(height, width) < scale or height % scale or width % scale:
        raise ValueError(f"the picture is {width}x{height} px, expected positive multiples of the scale {scale}")
    rng = np.random.default_rng(seed)
    small = (height // scale, width // scale)

    hr = image
    clean = image.astype(np.float32) / 255.0
    if preset.sharpen:
        clean = unsharp_mask(clean)
        hr = to_uint8(clean)
    untouched = rng.random() < preset.no_degradation_prob
    lr = resize(clean, small, "bicubic") if untouched else _damage(rng, clean, preset, small)
    if preset.soften is not None:
        hr = to_uint8(gaussian_blur(clean, uniform(rng, preset.soften)))
    return to_uint8(lr), hr


def _damage(rng: np.random.Generator, clean: np.ndarray, preset: Preset, small: tuple[int, int]) -> np.ndarray:
    """Both rounds of blur, resizing, noise and JPEG: float32 (H, W, 3) to float32 of the `small` size."""
    first, second = preset.first, preset.second
    out = _blur_randomly(rng, clean, first)
    out = _resize_randomly(rng, out, first, clean.shape[:2])
    out = _add_noise_randomly(rng, out, first)
    out = _compress_randomly(rng, out, first)

    out = _blur_randomly(rng, out, second)
    out = _resize_randomly(rng, out, second, small)
    out = _add_noise_randomly(rng, out, second)

    compress_last = rng.random() < 0.5
    if not compress_last:
        out = _compress_randomly(rng, out, second)
    out = resize(out, small, str(rng.choice(MODES)))
    if rng.random() < preset.final_sinc_prob:
        out = blur(out, draw_final_sinc(rng))
    return _compress_randomly(rng, out, second) if compress_last else out


def blur(image: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Filter float32 (H, W, 3) with a kernel (K, K); the border is reflected without repeating the edge pixel."""
    return cv2.filter2D(image, -1, kernel, borderType=cv2.BORDER_REFLECT_101)


def gaussian_blur(image: np.ndarray, sigma: float) -> np.ndarray:
    """Blur float32 (H, W, 3) with an isotropic Gaussian of `sigma` px; the border as in `blur`."""
    return cv2.GaussianBlur(image, (0, 0), sigma, borderType=cv2.BORDER_REFLECT_101)


def add_gaussian_noise(rng: np.random.Generator, image: np.ndarray, sigma: float, *, gray: bool) -> np.ndarray:
    """Add normal noise of standard deviation `sigma` / 255 to float32 (H, W, 3) in [0, 1], and clip to that range.

    With `gray`, the three channels get the same noise.
    """
    shape = (*image.shape[:2], 1 if gray else 3)
    noise = rng.standard_normal(shape, dtype=np.float32)
    noise *= np.float32(sigma / 255.0)
    return np.clip(image + noise, 0.0, 1.0)


def add_poisson_noise(rng: np.random.Generator, image: np.ndarray, scale: float, *, gray: bool) -> np.ndarray:
    """Add `scale` times the noise of counting photons to float32 (H, W, 3) in [0, 1], and clip to that range.

    White has n photons, where n is the number of different values in the 8-bit picture, rounded up to a power of two.
    The noise of a pixel v is Poisson(v n) / n - v, with variance v / n. With `gray`, the photons of the picture's grey
    are counted, and the three channels get the same noise.
    """
    values = image @ np.array([[0.2989], [0.587], [0.114]], np.float32) if gray else image
    levels = to_uint8(values)
    used = np.count_nonzero(np.bincount(levels.ravel(), minlength=256))
    photons = 2.0 ** np.ceil(np.log2(used))
    rounded = levels / np.float32(255.0)
    noise = (rng.poisson(rounded * photons) / photons).astype(np.float32) - rounded
    return np.clip(image + np.float32(scale) * noise, 0.0, 1.0)


def compress(image: np.ndarray, quality: int) -> np.ndarray:
    """Clip float32 RGB (H, W, 3) to [0, 1], write it as baseline JPEG with 4:2:0 chroma, and read it back."""
    bgr = cv2.cvtColor(to_uint8(image), cv2.COLOR_RGB2BGR)
    sampling = cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420
    _, data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, sampling])
    decoded = cv2.cvtColor(np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR)), cv2.COLOR_BGR2RGB)
    return decoded.astype(np.float32) / 255.0


def unsharp_mask(image: np.ndarray, *, weight: float = 0.5, radius: int = 50, threshold: float = 10.0) -> np.ndarray:
    """Sharpen float32 (H, W, 3) in [0, 1] where it differs from a blurred copy by more than `threshold` / 255.

    `radius` is the width of the Gaussian window, made odd; sigma is OpenCV's for that width (8 px for 51).
    """
    window = (radius | 1, radius | 1)
    residual = image - cv2.GaussianBlur(image, window, 0)
    mask = (np.abs(residual) * 255.0 > threshold).astype(np.float32)
    soft = cv2.GaussianBlur(mask, window, 0)
    sharp = np.clip(image + weight * residual, 0.0, 1.0)
    return soft * sharp + (1.0 - soft) * image


def to_uint8(image: np.ndarray) -> np.ndarray:
    """Turn [0, 1] into 0..255, clipped and rounded half to even."""
    return np.rint(np.clip(image, 0.0, 1.0) * 255.0).astype(np.uint8)


def _blur_randomly(rng: np.random.Generator, image: np.ndarray, order: Order) -> np.ndarray:
    return blur(image, draw_blur(rng, order.kernel)) if rng.random() < order.blur_prob else image


def _resize_randomly(rng: np.random.Generator, image: np.ndarray, order: Order, base: tuple[int, int]) -> np.ndarray:
    """Resize to `base` times a drawn factor, by a drawn mode."""
    least, greatest = order.resize_range
    low, high = ((1.0, greatest), (least, 1.0), (1.0, 1.0))[rng.choice(3, p=order.resize_prob)]
    factor = rng.uniform(low, high)
    height, width = (max(1, int(side * factor)) for side in base)
    return resize(image, (height, width), str(rng.choice(MODES)))


def _add_noise_randomly(rng: np.random.Generator, image: np.ndarray, order: Order) -> np.ndarray:
    gray = bool(rng.random() < GRAY_NOISE_PROB)
    if rng.random() < order.gaussian_prob:
        return add_gaussian_noise(rng, image, uniform(rng, order.noise_sigma), gray=gray)
    return add_poisson_noise(rng, image, uniform(rng, order.poisson_scale), gray=gray)


def _compress_randomly(rng: np.random.Generator, image: np.ndarray, order: Order) -> np.ndarray:
    return compress(image, round(uniform(rng, order.jpeg_quality)))
