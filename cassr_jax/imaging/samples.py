"""Conversion of samples of any depth and meaning to RGB and alpha of 8 or 16 bits."""

import os
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageChops, ImageFile

from cassr_jax.errors import InputError
from cassr_jax.imaging.pixels import DEEP
from cassr_jax.imaging.profiles import cmyk_to_rgb

BITS_PER_SAMPLE, PHOTOMETRIC, MAX_SAMPLE_VALUE, SAMPLE_FORMAT = 258, 262, 281, 339  # tags of a TIFF
WHITE_IS_ZERO, SIGNED = 0, 2  # values of two of them


@dataclass(frozen=True)
class Meaning:
    """What the samples of a file mean, for a decoder that gives them unscaled.

    Attributes:
        bits: the bits of a sample, None if only the array's type tells.
        signed: whether the type has negative samples, if `bits` is known.
        white: the value that the file declares as white, None if it declares none.
        white_is_zero: whether 0 is white.
    """

    bits: int | None = None
    signed: bool = False
    white: int | None = None
    white_is_zero: bool = False

    @classmethod
    def of_tags(cls, tags: Mapping[int, object]) -> "Meaning":
        """The meaning that a TIFF's tags, by number, give its samples."""
        declared = _first(tags.get(MAX_SAMPLE_VALUE)) or 0
        # Any maximum but 2**n - 1 is a statistic. The standard forbids that to change how a picture looks.
        is_white = declared > 0 and declared & (declared + 1) == 0
        return cls(
            bits=_first(tags.get(BITS_PER_SAMPLE)),
            signed=_first(tags.get(SAMPLE_FORMAT)) == SIGNED,
            white=declared if is_white else None,
            white_is_zero=tags.get(PHOTOMETRIC) == WHITE_IS_ZERO,
        )


def to_8_bits(samples: np.ndarray, meaning: Meaning, name: str | os.PathLike[str]) -> np.ndarray:
    """Samples of any integer or floating type as uint8 of the same shape; see `to_bits`."""
    return to_bits(samples, meaning, name, np.dtype(np.uint8))


def to_bits(samples: np.ndarray, meaning: Meaning, name: str | os.PathLike[str], dtype: np.dtype) -> np.ndarray:
    """Samples of any integer or floating type as uint8 or uint16 of the same shape, scaled to its range.

    Raises:
        InputError: a sample is negative, infinite or NaN, or exceeds 8 and 16 bits in a type without an agreed range.
    """
    white, most = _white(samples, meaning, name), np.iinfo(dtype).max
    if samples.dtype.kind == "u" and samples.dtype.itemsize <= 2:
        scaled = _scaled(np.arange(2 ** (8 * samples.dtype.itemsize)), white, most)[samples]
    else:
        scaled = _scaled(samples, white, most)
    scaled = scaled.astype(dtype)
    return dtype.type(most) - scaled if meaning.white_is_zero else scaled


def type_for(samples: np.ndarray, meaning: Meaning, name: str | os.PathLike[str]) -> np.dtype:
    """The type that holds samples without a loss: uint8, or uint16 for fractions and for more than 8 bits.

    Raises:
        InputError: as `to_bits`.
    """
    white = _white(samples, meaning, name)
    return np.dtype(np.uint8) if 1 < white < 2**8 or meaning.bits == 1 else DEEP


def rgb_and_alpha(image: Image.Image, raw_mode: str, name: str) -> tuple[np.ndarray, np.ndarray | None]:
    """The colours (H, W, 3) and alpha (H, W) or None of an image, uint8.

    Args:
        image: an image of any mode but LAB and its relatives, which have no agreed range.
        raw_mode: how the file stores its samples, from the function `raw_mode`.
        name: the picture's name in errors.

    Raises:
        InputError: the samples have no agreed range.
    """
    transparent = image.info.get("transparency")
    if image.mode.startswith("I") or image.mode == "F":
        samples = np.asarray(image)
        alpha = np.where(samples == transparent, 0, 255).astype(np.uint8) if isinstance(transparent, int) else None
        return np.repeat(to_8_bits(samples, _meaning(image), name)[..., None], 3, axis=-1), alpha
    if image.mode == "LAB":
        raise InputError(f"{name}: samples of Pillow's mode LAB have no agreed range, expected grey, RGB or CMYK")
    if image.mode in ("L", "RGB") and transparent is not None:
        image.info["transparency"] = _in_8_bits(transparent, raw_mode)
    if image.has_transparency_data:
        straight = image.convert("LA") if image.mode == "La" else image  # Pillow has no direct conversion
        rgba = np.array(straight.convert("RGBA"))
        return np.ascontiguousarray(rgba[..., :3]), np.ascontiguousarray(rgba[..., 3])
    if image.mode == "CMYK":
        image = cmyk_to_rgb(_inks(image) if raw_mode == "YCCK" else image)
    return np.array(image.convert("RGB")), None


def raw_mode(image: Image.Image) -> str:
    """How the file stores its samples ("RGB;16B", "YCCK"); "" if Pillow does not tell, as for an image in memory."""
    if _is_unmarked_ycck(image):
        return "YCCK"
    args = image.tile[0].args if isinstance(image, ImageFile.ImageFile) and image.tile else ""
    first = args[0] if isinstance(args, tuple) and args else args
    return first if isinstance(first, str) else ""


def _meaning(image: Image.Image) -> Meaning:
    tags = getattr(image, "tag_v2", None)
    if tags is not None:
        return Meaning.of_tags(tags)
    return Meaning(bits=16) if image.format in ("PNG", "PPM", "JPEG2000") else Meaning()  # Pillow's own scaling


def _white(samples: np.ndarray, meaning: Meaning, name: str | os.PathLike[str]) -> int:
    """The sample value of white, or of black if white is zero."""
    least, most = samples.min(), samples.max()
    bits = meaning.bits or 8 * samples.dtype.itemsize
    found = f"{name}: {bits}-bit samples from {least:g} to {most:g}"
    if not (np.isfinite(least) and np.isfinite(most) and least >= 0):  # NaN is not >= 0 either
        raise InputError(f"{found}, expected numbers from 0; save it with 8 or 16 bits")
    if meaning.white is not None and most <= meaning.white:
        return meaning.white
    real = samples.dtype.kind == "f"
    signed = meaning.signed if meaning.bits else samples.dtype.kind == "i"
    if bits <= 16 and not (real or signed):
        return 2**bits - 1
    if real and most <= 1:
        return 1
    whole = 2 ** (bits - signed) - 1
    if not real and most > whole // 2:
        return whole
    # Wider types usually contain 8 or 16 bits.
    if not real or np.array_equal(samples, np.rint(samples)):
        for white in (2**8 - 1, 2**16 - 1):
            if most <= white:
                return min(white, whole)
    expected = "0 to 1" if real else "values of 8 or 16 bits"
    raise InputError(f"{found} have no agreed white, expected {expected}; save it with 8 or 16 bits")


def _scaled(samples: np.ndarray, white: int, most: int) -> np.ndarray:
    """Samples scaled so that white is `most`, rounded and clipped; only unused places of a lookup table exceed it."""
    exact = np.float32 if most < 2**8 else np.float64
    return np.minimum(np.rint(samples * exact(most / white)), most)


def _in_8_bits(transparent: int | tuple[int, ...], raw_mode: str) -> int | tuple[int, ...]:
    """A PNG's transparent colour, scaled as Pillow scales the samples: Pillow leaves it in the file's own bits."""
    if isinstance(transparent, tuple):
        return tuple(value >> 8 for value in transparent) if "16" in raw_mode else transparent
    return transparent * {"L;2": 85, "L;4": 17}.get(raw_mode, 1) if isinstance(transparent, int) else transparent


def _is_unmarked_ycck(image: Image.Image) -> bool:
    """Whether a JPEG without Adobe marker is YCCK: four channels, subsampled as CMYK never is."""
    if image.format != "JPEG" or image.mode != "CMYK" or "adobe" in image.info:
        return False
    samples = [horizontal * vertical for _, horizontal, vertical, _ in getattr(image, "layer", [])]
    return len(samples) == 4 and max(samples[1:3]) < samples[0]


def _inks(image: Image.Image) -> Image.Image:
    """The CMYK of a YCCK picture, whose brightness and colour differences the decoder inverted as if they were ink."""
    *inverted, black = image.split()
    inks = Image.merge("YCbCr", [ImageChops.invert(channel) for channel in inverted]).convert("RGB")
    mixed = Image.merge("CMYK", (*inks.split(), black))
    mixed.info = image.info
    return mixed


def _first(value: object) -> int | None:
    first = value[0] if isinstance(value, tuple) and value else value
    return int(first) if isinstance(first, (int, float)) else None
