"""Made pictures, and what is measured of a degraded pair; shared by the tests and the maker of the golden values."""

import cv2
import numpy as np


def picture(size: int, seed: int) -> np.ndarray:
    """A picture somewhat like a photograph: 1 / f^1.4 texture, patches with sharp edges, correlated colours.

    uint8 (size, size, 3).
    """
    rng = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None])
    frequency[0, 0] = np.inf
    spectrum = np.fft.rfft2(rng.normal(size=(2, size, size))) / frequency**1.4
    texture = np.fft.irfft2(spectrum, (size, size))
    texture /= texture.std(axis=(1, 2), keepdims=True)
    image = 0.45 + 0.14 * texture[0][..., None] + 0.04 * texture[1][..., None] * np.array([1.0, 0.0, -1.0])
    for _ in range(6):
        corners = rng.uniform(0, size, (3, 2)).astype(np.int32)
        patch = np.zeros((size, size), np.uint8)
        cv2.fillConvexPoly(patch, corners, 1)
        image += patch[..., None] * rng.normal(0, 0.18, 3) * np.array([1.0, 0.9, 1.0])
    return np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)


def small_picture() -> np.ndarray:
    """Float32 (13, 17, 3) in [0, 1]."""
    return np.random.default_rng(7).random((13, 17, 3), dtype=np.float32)


def psnr(lr: np.ndarray, hr: np.ndarray) -> float:
    """Of the degraded picture, enlarged bicubically, to its target; dB."""
    enlarged = cv2.resize(lr, hr.shape[1::-1], interpolation=cv2.INTER_CUBIC)
    return float(cv2.PSNR(enlarged, hr))


def noise_level(lr: np.ndarray, hr: np.ndarray) -> float:
    """Standard deviation of grey noise by Immerkaer's estimator (1996): the mean response to a mask blind to edges."""
    grey = cv2.cvtColor(lr, cv2.COLOR_RGB2GRAY).astype(np.float32)
    mask = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32)
    return float(np.sqrt(np.pi / 2) * np.abs(cv2.filter2D(grey, -1, mask)[1:-1, 1:-1]).mean() / 6)


def color_noise(lr: np.ndarray, hr: np.ndarray) -> float:
    """The same of the difference of red and green, which grey noise leaves alone."""
    difference = lr[..., 0].astype(np.float32) - lr[..., 1]
    mask = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32)
    return float(np.sqrt(np.pi / 2) * np.abs(cv2.filter2D(difference, -1, mask)[1:-1, 1:-1]).mean() / 6)


def sharpness(lr: np.ndarray, hr: np.ndarray) -> float:
    """Mean length of the gradient of the grey, in grey levels per px."""
    grey = cv2.cvtColor(lr, cv2.COLOR_RGB2GRAY).astype(np.float32)
    return float(np.hypot(cv2.Sobel(grey, -1, 1, 0), cv2.Sobel(grey, -1, 0, 1)).mean() / 8)


MEASURES = {"psnr": psnr, "noise_level": noise_level, "color_noise": color_noise, "sharpness": sharpness}
