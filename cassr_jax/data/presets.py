"""How much damage a degradation does: the ranges that it draws from, as named presets.

`light`, `realesrgan` and `stablesr` are those of the published programs of these names; `camera` is our own.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from cassr_jax.data.kernels import KernelRanges, Range


@dataclass(frozen=True)
class Order:
    """The ranges of one round of blur, resizing, noise and JPEG."""

    kernel: KernelRanges
    resize_prob: tuple[float, float, float]  # probabilities of enlarging, shrinking and keeping the size
    resize_range: Range  # smallest factor of shrinking, greatest factor of enlarging
    noise_sigma: Range  # standard deviation of Gaussian noise, in units of 1/255
    poisson_scale: Range  # factor of Poisson noise
    jpeg_quality: Range
    blur_prob: float = 1.0
    gaussian_prob: float = 0.5  # probability of Gaussian noise; otherwise it is Poisson noise


@dataclass(frozen=True)
class Preset:
    """The ranges that a degradation is drawn from.

    Raises:
        ValueError: the target is both sharpened and softened.
    """

    first: Order
    second: Order
    final_sinc_prob: float = 0.8
    sharpen: bool = False  # unsharp masking of the target
    soften: Range | None = None  # sigma of a Gaussian blur of the target, in px
    no_degradation_prob: float = 0.0  # probability that the picture is only shrunk bicubically

    def __post_init__(self) -> None:
        if self.sharpen and self.soften is not None:
            raise ValueError(f"a preset has sharpen and soften {self.soften}, expected at most one of the two")


LIGHT = Preset(
    first=Order(
        kernel=KernelRanges(sigma=(0.2, 3.0)),
        resize_prob=(0.2, 0.7, 0.1),
        resize_range=(0.3, 1.5),
        noise_sigma=(1.0, 15.0),
        poisson_scale=(0.05, 2.0),
        jpeg_quality=(60, 95),
    ),
    second=Order(
        kernel=KernelRanges(sigma=(0.2, 1.5)),
        resize_prob=(0.3, 0.4, 0.3),
        resize_range=(0.6, 1.2),
        noise_sigma=(1.0, 12.0),
        poisson_scale=(0.05, 1.0),
        jpeg_quality=(60, 100),
        blur_prob=0.5,
    ),
)

REALESRGAN = Preset(
    first=replace(
        LIGHT.first, resize_range=(0.15, 1.5), noise_sigma=(1.0, 30.0), poisson_scale=(0.05, 3.0), jpeg_quality=(30, 95)
    ),
    second=replace(
        LIGHT.second,
        resize_range=(0.3, 1.2),
        noise_sigma=(1.0, 25.0),
        poisson_scale=(0.05, 2.5),
        jpeg_quality=(30, 95),
        blur_prob=0.8,
    ),
    sharpen=True,
)

_STABLESR_KERNEL = KernelRanges(sigma=(0.2, 1.5), beta_generalized=(0.5, 2.0), beta_plateau=(1.0, 1.5))
STABLESR = replace(
    LIGHT,
    first=replace(LIGHT.first, kernel=_STABLESR_KERNEL),
    second=replace(LIGHT.second, kernel=replace(_STABLESR_KERNEL, sigma=(0.2, 1.0), sizes=(7, 9, 11))),
    sharpen=True,
    no_degradation_prob=0.01,
)

# A picture that a good camera took from too far away: the lens blurs it, the sensor adds a little noise, and it is
# saved once or twice at high quality. Nothing is resized in between, so the blur is measured in pixels of the target.
# The target is what the camera takes from close by: its lens and its colour filter blur that too, while a photograph
# that was shrunk for the screen is sharp to the pixel.
CAMERA = Preset(
    first=Order(
        kernel=KernelRanges(sigma=(0.8, 3.6), sinc_prob=0.0),
        resize_prob=(0.0, 0.0, 1.0),
        resize_range=(1.0, 1.0),
        noise_sigma=(0.0, 5.0),
        poisson_scale=(0.0, 0.4),
        jpeg_quality=(85, 100),
    ),
    second=Order(
        kernel=KernelRanges(sigma=(0.2, 0.8)),
        resize_prob=(0.0, 0.0, 1.0),
        resize_range=(1.0, 1.0),
        noise_sigma=(0.0, 2.5),
        poisson_scale=(0.0, 0.2),
        jpeg_quality=(80, 100),
        blur_prob=0.3,
    ),
    final_sinc_prob=0.2,
    soften=(0.3, 0.9),
)

PRESETS: Mapping[str, Preset] = MappingProxyType(
    {"light": LIGHT, "realesrgan": REALESRGAN, "stablesr": STABLESR, "camera": CAMERA}
)
