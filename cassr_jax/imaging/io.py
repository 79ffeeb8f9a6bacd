"""Pictures in and out: any file a person has becomes 8-bit RGB plus alpha, and what is written is whole or not there.

No JAX here, so that a script can name every unreadable file before it pays for loading networks.
"""

import contextlib
import io
import os
import threading
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np
from PIL import Image, ImageChops, ImageCms, ImageFile, UnidentifiedImageError

from cassr_jax.errors import InputError
from cassr_jax.files import replaced

MAX_INPUT_PIXELS = 2**26  # 67 million; read from the header, before a byte of the picture is decoded
MAX_OUTPUT_PIXELS = 2**28  # 268 million: 3.2 GB as float32 RGB
FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF", "PPM", "AVIF", "JPEG2000")
"""What Pillow may open. Not all it can: its EPS reader starts another program, others guess without a signature."""

OUTPUT_FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
LARGEST_SIDE = {"PNG": 2**31 - 1, "JPEG": 65_500, "WEBP": 16_383}
SAVE_OPTIONS = {
    "PNG": {"compress_level": 4},
    "JPEG": {"quality": 95, "subsampling": 0},
    "WEBP": {"quality": 95, "method": 4},
}
EXIF_ORIENTATION = 0x0112
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What makes a picture of each EXIF orientation upright; 1 and anything unknown is upright already."""


@dataclass(frozen=True)
class Picture:
    """One still picture, upright (its EXIF orientation applied).

    Attributes:
        rgb: (H, W, 3) uint8. Where alpha is 0 the colour is whatever the file held: see `fill_hidden`.
        alpha: (H, W) uint8, or None for a picture that has none.
        icc: the colour profile of `rgb`, written back with the result; None stands for sRGB.
        format: Pillow's name of the file's format ("PNG"), None for a picture from memory.
        frames: how many frames or pages the source has; only the first (or current) one is here.
    """

    rgb: np.ndarray
    alpha: np.ndarray | None = None
    icc: bytes | None = None
    format: str | None = None
    frames: int = 1


def read(path: str | os.PathLike[str]) -> Picture:
    """The picture in a file, its first frame if it is an animation (`frames` then tells how many there are).

    Raises:
        InputError: the file is missing, empty, no picture, of a refused format, cut short, or larger than
            MAX_INPUT_PIXELS.
    """
    path = Path(path)
    try:
        if path.stat().st_size == 0:
            raise InputError(f"{path}: the file is empty (0 bytes), expected a picture")
        with path.open("rb") as file, _pillow_errors(path), Image.open(file, formats=FORMATS) as image:
            return from_pil(image, name=str(path))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error


def from_pil(image: Image.Image, name: str = "") -> Picture:
    """The current frame of an open Pillow image, of any mode but floating-point, LAB and 32-bit integers.

    Args:
        name: what to call it in an error; by default its file name, if it has one.

    Raises:
        InputError: it is cut short, too large, or of a mode with no agreed range.
    """
    name = name or str(getattr(image, "filename", "") or "picture")
    if image.width * image.height > MAX_INPUT_PIXELS:
        raise InputError(
            f"{name}: {image.width}x{image.height} is {image.width * image.height} pixels, "
            f"expected at most {MAX_INPUT_PIXELS}"
        )
    if min(image.size) < 1:
        raise InputError(f"{name}: {image.width}x{image.height} has no pixels")
    with _pillow_errors(name):
        raw_mode = _raw_mode(image)
        image.load()
        format, frames = image.format, getattr(image, "n_frames", 1)
        if format == "MPO":  # a phone's photograph with previews behind it, a still to everyone
            format, frames = "JPEG", 1
        image = _upright(image)
        icc = _profile(image)
        rgb, alpha = _rgb_and_alpha(image, raw_mode, name)
    return Picture(rgb=rgb, alpha=alpha, icc=icc, format=format, frames=frames)


def from_array(image: np.ndarray) -> Picture:
    """A picture from a uint8 array: (H, W) or (H, W, 1) grey, (H, W, 2) grey and alpha, (H, W, 3) RGB, (H, W, 4) RGBA.

    Raises:
        InputError: another type or shape.
    """
    image = np.asarray(image)
    if image.ndim == 2:
        image = image[..., None]
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[-1] not in (1, 2, 3, 4) or 0 in image.shape:
        raise InputError(
            f"picture array of {image.dtype} and shape {image.shape}: expected uint8 of (height, width), "
            "(height, width, 3) or (height, width, 4)"
        )
    channels = image.shape[-1]
    if channels <= 2:
        rgb, alpha = np.repeat(image[..., :1], 3, axis=-1), image[..., 1] if channels == 2 else None
    else:
        rgb, alpha = image[..., :3], image[..., 3] if channels == 4 else None
    if rgb.shape[0] * rgb.shape[1] > MAX_INPUT_PIXELS:
        raise InputError(
            f"picture array of shape {image.shape}: expected at most {MAX_INPUT_PIXELS} pixels (height x width)"
        )
    return Picture(rgb=np.ascontiguousarray(rgb), alpha=None if alpha is None else np.ascontiguousarray(alpha))


def to_array(picture: Picture) -> np.ndarray:
    """(H, W, 3) uint8, or (H, W, 4) where there is an alpha."""
    return picture.rgb if picture.alpha is None else np.dstack([picture.rgb, picture.alpha])


def to_pil(picture: Picture) -> Image.Image:
    """RGB, or RGBA where there is an alpha; the colour profile goes along as `info["icc_profile"]`."""
    image = Image.fromarray(to_array(picture))
    if picture.icc is not None:
        image.info["icc_profile"] = picture.icc
    return image


def output_size(height: int, width: int, scale: float) -> tuple[int, int]:
    """(height, width) after scaling, rounded, at least 1 px.

    Raises:
        InputError: the scale is not a positive number, or the result has more than MAX_OUTPUT_PIXELS.
    """
    if not 0 < scale < float("inf"):
        raise InputError(f"scale {scale}: expected a positive number")
    size = max(1, round(height * scale)), max(1, round(width * scale))
    if size[0] * size[1] > MAX_OUTPUT_PIXELS:
        raise InputError(
            f"{width}x{height} at scale {scale:g} gives {size[1]}x{size[0]} = {size[0] * size[1]} pixels, "
            f"expected at most {MAX_OUTPUT_PIXELS}: choose a smaller scale or crop"
        )
    return size


def bicubic(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resizes uint8 (h, w) or (h, w, 3) to size (height, width): the one upscaling that makes the LQ image.

    Pillow's BICUBIC (a = -0.5, mirror-free borders, antialiased when it shrinks), which is what SeeSR, PASD, DiffBIR
    and OSEDiff feed their networks; OpenCV's and torch's have a = -0.75 and overshoot more.
    """
    height, width = size
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC))


def resized(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resizes float (h, w, C) to size (height, width) as `bicubic` does, without rounding."""
    height, width = size
    if image.shape[:2] == (height, width):
        return image
    planes = (
        Image.fromarray(np.ascontiguousarray(plane, np.float32)).resize((width, height), Image.Resampling.BICUBIC)
        for plane in np.moveaxis(image, -1, 0)
    )
    return np.stack([np.asarray(plane) for plane in planes], axis=-1)


def fill_hidden(picture: Picture) -> np.ndarray:
    """(H, W, 3) uint8: `rgb` with each wholly transparent pixel in the colour of the nearest one that shows.

    What hides under alpha 0 (black, a palette's key colour) would otherwise fringe every edge once it is interpolated.
    A picture with nothing visible keeps what it has.
    """
    if picture.alpha is None:
        return picture.rgb
    hidden = picture.alpha == 0
    if not hidden.any() or hidden.all():
        return picture.rgb
    _, labels = cv2.distanceTransformWithLabels(
        hidden.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5, labelType=cv2.DIST_LABEL_PIXEL
    )
    color_of_label = np.zeros((labels.max() + 1, 3), np.uint8)
    color_of_label[labels[~hidden]] = picture.rgb[~hidden]
    return color_of_label[labels]


def with_rgb(picture: Picture, rgb: np.ndarray) -> Picture:
    """The picture with `rgb` (H, W, 3) uint8 for its colours and its alpha brought bicubically to that size.

    Alpha that is flat (0, say) over the 4x4 pixels bicubic looks at stays exactly what it was.
    """
    alpha = None if picture.alpha is None else bicubic(picture.alpha, (rgb.shape[0], rgb.shape[1]))
    return replace(picture, rgb=rgb, alpha=alpha)


Restore = Callable[[np.ndarray], np.ndarray]
"""(h, w, 3) uint8 -> (H, W, 3) uint8"""


Kind = TypeVar("Kind", Picture, Image.Image, np.ndarray)


def upscale(image: Kind, restore: Restore) -> Kind:
    """Restores a picture of any kind and returns the same kind: Pillow image, uint8 array or Picture.

    Args:
        image: as `from_pil` or `from_array` take it; grey comes back as RGB, alpha is kept.
        restore: enlarges the colours; never sees the alpha, nor a colour hidden under it.
    """
    if isinstance(image, Picture):
        return with_rgb(image, restore(fill_hidden(image)))
    if isinstance(image, Image.Image):
        return to_pil(upscale(from_pil(image), restore))
    return to_array(upscale(from_array(image), restore))


def side_by_side(images: list[np.ndarray]) -> np.ndarray:
    """uint8 (H, W, 3) pictures of one height in a row, left to right."""
    return np.concatenate(images, axis=1)


def check_writable(path: str | os.PathLike[str], height: int, width: int, alpha: np.ndarray | None = None) -> str:
    """Pillow's name of the format that `path`'s suffix asks for, if that format can hold such a picture.

    Raises:
        InputError: an unknown suffix, a side above what the format allows, or transparency in JPEG.
    """
    suffix = Path(path).suffix
    if suffix.lower() not in OUTPUT_FORMATS:
        raise InputError(f"{path}: cannot write '{suffix}', expected one of {', '.join(OUTPUT_FORMATS)}")
    format = OUTPUT_FORMATS[suffix.lower()]
    if max(height, width) > LARGEST_SIDE[format]:
        raise InputError(
            f"{path}: {width}x{height} does not fit into {format}, expected sides of at most {LARGEST_SIDE[format]}"
        )
    if format == "JPEG" and alpha is not None and alpha.min() < 255:
        raise InputError(f"{path}: JPEG holds no transparency, expected png or webp for a picture with alpha")
    return format


def write(path: str | os.PathLike[str], picture: Picture) -> None:
    """Writes PNG, JPEG (quality 95, full colour) or WebP (quality 95), by the path's suffix; makes its folder.

    The file appears whole or not at all: it is written beside its place and moved there.

    Raises:
        InputError: as `check_writable`, or the file system refuses.
    """
    path = Path(path)
    height, width = picture.rgb.shape[:2]
    format = check_writable(path, height, width, picture.alpha)
    image = Image.fromarray(picture.rgb) if format == "JPEG" else to_pil(picture)
    with replaced(path) as file:
        image.save(file, format, icc_profile=picture.icc, **SAVE_OPTIONS[format])


class _StrictAndQuiet:
    """While anyone is inside: Pillow refuses what is cut short, and warns of nothing.

    Other libraries are fond of switching `LOAD_TRUNCATED_IMAGES` on, which fills a missing half with grey; Pillow's
    warnings are of sizes, which are checked here, and of metadata, which are not used. Both switches are the process's,
    so of several threads the first one in sets them and the last one out restores them.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0

    def __enter__(self) -> None:
        with self._lock:
            self._inside += 1
            if self._inside == 1:
                self._lenient = ImageFile.LOAD_TRUNCATED_IMAGES
                ImageFile.LOAD_TRUNCATED_IMAGES = False
                self._warnings = warnings.catch_warnings()
                self._warnings.__enter__()
                warnings.simplefilter("ignore")

    def __exit__(self, *exception: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._warnings.__exit__(None, None, None)
                ImageFile.LOAD_TRUNCATED_IMAGES = self._lenient


_strict_and_quiet = _StrictAndQuiet()


@contextlib.contextmanager
def _pillow_errors(name: str | os.PathLike[str]) -> Iterator[None]:
    """Makes one InputError of whatever Pillow meets in a damaged file: nearly any built-in exception, so all."""
    try:
        with _strict_and_quiet:
            yield
    except InputError:
        raise
    except UnidentifiedImageError as error:
        raise InputError(f"{name}: no picture in a format that can be read ({', '.join(FORMATS)})") from error
    except Exception as error:
        raise InputError(f"{name}: cannot be decoded, the file is damaged or cut short ({error})") from error


def _raw_mode(image: Image.Image) -> str:
    """How the file stores its samples ("RGB;16B", "YCCK"); "" where Pillow does not tell, as for an image in memory."""
    if _is_unmarked_ycck(image):
        return "YCCK"
    args = image.tile[0].args if isinstance(image, ImageFile.ImageFile) and image.tile else ""
    first = args[0] if isinstance(args, tuple) and args else args
    return first if isinstance(first, str) else ""


def _is_unmarked_ycck(image: Image.Image) -> bool:
    """A JPEG of four channels with no Adobe marker to say whether they are CMYK or YCCK, subsampled as only YCCK is."""
    if image.format != "JPEG" or image.mode != "CMYK" or "adobe" in image.info:
        return False
    samples = [horizontal * vertical for _, horizontal, vertical, _ in getattr(image, "layer", [])]
    return len(samples) == 4 and max(samples[1:3]) < samples[0]


def _upright(image: Image.Image) -> Image.Image:
    try:
        turn = TURNS.get(image.getexif().get(EXIF_ORIENTATION, 1))
    except Exception:  # metadata too damaged to parse says nothing about the pixels
        turn = None
    return image if turn is None else image.transpose(turn)


def _profile(image: Image.Image) -> bytes | None:
    """The ICC profile if it describes RGB; a grey or CMYK one cannot go into the RGB file that is written."""
    icc = image.info.get("icc_profile")
    return icc if isinstance(icc, bytes) and icc[16:20] == b"RGB " else None


def _rgb_and_alpha(image: Image.Image, raw_mode: str, name: str) -> tuple[np.ndarray, np.ndarray | None]:
    """(H, W, 3) and (H, W) or None, uint8."""
    transparent = image.info.get("transparency")
    if image.mode.startswith("I"):
        grey = np.asarray(image).astype(np.int64)
        if grey.min() < 0 or grey.max() > 65_535:
            raise InputError(f"{name}: 32-bit samples from {grey.min()} to {grey.max()}, expected 8 or 16 bits")
        alpha = np.where(grey == transparent, 0, 255).astype(np.uint8) if isinstance(transparent, int) else None
        return np.repeat(((grey + 128) // 257).astype(np.uint8)[..., None], 3, axis=-1), alpha
    if image.mode in ("F", "LAB"):
        raise InputError(f"{name}: samples of Pillow's mode {image.mode} have no agreed range, expected 8 or 16 bits")
    if image.mode in ("L", "RGB") and transparent is not None:
        image.info["transparency"] = _in_8_bits(transparent, raw_mode)
    if image.has_transparency_data:
        rgba = np.array(image.convert("RGBA"))
        return np.ascontiguousarray(rgba[..., :3]), np.ascontiguousarray(rgba[..., 3])
    if image.mode == "CMYK":
        image = _cmyk_to_rgb(image, raw_mode)
    return np.array(image.convert("RGB")), None


def _in_8_bits(transparent: int | tuple[int, ...], raw_mode: str) -> int | tuple[int, ...]:
    """A PNG's transparent colour, which Pillow leaves in the file's own bits, scaled as Pillow scales the samples."""
    if isinstance(transparent, tuple):
        return tuple(value >> 8 for value in transparent) if "16" in raw_mode else transparent
    return transparent * {"L;2": 85, "L;4": 17}.get(raw_mode, 1) if isinstance(transparent, int) else transparent


def _cmyk_to_rgb(image: Image.Image, raw_mode: str) -> Image.Image:
    """By the embedded profile if there is one, else by (1 - ink)(1 - black).

    Pillow reads every four-channel JPEG as inverted, with the Adobe marker or without, and so does every common writer
    store it; hence no picture turns into its negative.
    """
    if raw_mode == "YCCK":  # the decoder took brightness and two colour differences for ink: undo its inversion
        *inverted, black = image.split()
        inks = Image.merge("YCbCr", [ImageChops.invert(channel) for channel in inverted]).convert("RGB")
        image = Image.merge("CMYK", (*inks.split(), black))
    icc = image.info.get("icc_profile")
    if not isinstance(icc, bytes) or icc[16:20] != b"CMYK":
        return image.convert("RGB")
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(icc))
        converted = ImageCms.profileToProfile(image, profile, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except (ImageCms.PyCMSError, OSError):
        return image.convert("RGB")
    return image.convert("RGB") if converted is None else converted
