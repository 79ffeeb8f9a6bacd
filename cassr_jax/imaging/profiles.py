"""Colour profiles: which are kept and which are converted, since results are always RGB."""

import io
from functools import lru_cache

import numpy as np
from PIL import Image, ImageCms
from PIL.ExifTags import IFD

GREY, CMYK, RGB = b"GRAY", b"CMYK", b"RGB "  # the colour spaces in a profile's header


def colors_of(icc: bytes) -> bytes:
    """The colour space that a profile describes: GREY, CMYK, RGB or another name of four bytes."""
    return icc[16:20]


@lru_cache(maxsize=16)
def grey_to_rgb(icc: bytes) -> np.ndarray | None:
    """The sRGB colour of each grey of a profile, (256, 3) uint8; None if the profile is damaged."""
    ramp = Image.fromarray(np.arange(256, dtype=np.uint8)[None])
    converted = _converted(ramp, icc)
    return None if converted is None else np.asarray(converted)[0]


def cmyk_to_rgb(image: Image.Image) -> Image.Image:
    """Converts by the embedded profile if there is a sound one, otherwise by (1 - ink)(1 - black).

    Pillow takes every four-channel JPEG for inverted, with or without the Adobe marker. All common writers store them
    inverted, so no picture turns into its negative.
    """
    icc = image.info.get("icc_profile")
    converted = _converted(image, icc) if isinstance(icc, bytes) and colors_of(icc) == CMYK else None
    return image.convert("RGB") if converted is None else converted


def settle(rgb: np.ndarray, image: Image.Image) -> tuple[np.ndarray, bytes | None, list[str]]:
    """Converts colours whose profile an RGB file cannot carry, and keeps the profiles that it can.

    Args:
        rgb: (H, W, 3) uint8, the colours of `image`; CMYK is already converted.
        image: its mode tells which colours the file holds, and its `info` holds the profile.

    Returns:
        The colours, the profile that describes them (None for sRGB), and a line for each property that is lost.
    """
    icc = image.info.get("icc_profile")
    if not isinstance(icc, bytes) or not icc:
        return rgb, None, ["its EXIF says Adobe RGB, and it is taken for sRGB"] if _is_adobe_rgb(image) else []
    colors = colors_of(icc)
    if colors == RGB and image.mode != "CMYK":
        return rgb, icc, []
    if colors == CMYK and image.mode == "CMYK":
        sound = _converted(Image.new("CMYK", (1, 1)), icc) is not None
        return rgb, None, [] if sound else ["its CMYK profile is damaged, so its colours are only near"]
    if colors == GREY and np.array_equal(rgb, np.broadcast_to(rgb[..., :1], rgb.shape)):  # WebP stores greys as RGB
        table = grey_to_rgb(icc)
        if table is not None:
            return table[rgb[..., 0]], None, []
        return rgb, None, ["its grey profile is damaged, so its greys are taken for sRGB's"]
    name = colors.decode("latin-1").strip() or "no"
    return rgb, None, [f"its profile describes {name} colours, which it has not; it is taken for sRGB"]


def _is_adobe_rgb(image: Image.Image) -> bool:
    """Whether the EXIF marks the picture as Adobe RGB, as cameras do without a profile (DCF 2.0)."""
    try:
        return image.getexif().get_ifd(IFD.Interop).get(1) == "R03"
    except Exception:  # damaged metadata say nothing about the pixels
        return False


def _converted(image: Image.Image, icc: bytes) -> Image.Image | None:
    """The image in sRGB; None if the profile is damaged or of another kind."""
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(icc))
        return ImageCms.profileToProfile(image, profile, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except (ImageCms.PyCMSError, OSError):
        return None
