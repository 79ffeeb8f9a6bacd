"""Reading and writing pictures: every format becomes RGB plus alpha, and files are written whole or not at all.

This module does without JAX, so a script can report unreadable files before it loads any networks.
"""

import io
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image, ImageMode

from cassr_jax.errors import InputError
from cassr_jax.files import replaced
from cassr_jax.imaging import depth, jpeg, metadata, png16, tiff, tiff_writer
from cassr_jax.imaging.alpha import beside, shown
from cassr_jax.imaging.decoding import FORMATS, MAX_INPUT_PIXELS, TooLarge, check_size, strictly
from cassr_jax.imaging.grey import is_grey
from cassr_jax.imaging.metadata import Metadata
from cassr_jax.imaging.pixels import DEEP, deepened, shallow
from cassr_jax.imaging.profiles import settle
from cassr_jax.imaging.samples import raw_mode, rgb_and_alpha
from cassr_jax.imaging.side_chunks import sides

OUTPUT_FORMATS = {
    **{".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"},
    **{".tif": "TIFF", ".tiff": "TIFF"},
}
DEEP_FORMATS = ("PNG", "TIFF")
"""The formats that hold 16 bits per sample."""
LARGEST_SIDE = {"PNG": 2**31 - 1, "JPEG": 65_500, "WEBP": 16_383, "TIFF": 2**31 - 1}
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
"""The transpose that turns a picture of each EXIF orientation upright; 1 and unknown values need none."""
_TURNED: Mapping[Image.Transpose | None, Callable[[np.ndarray], np.ndarray]] = {
    None: lambda array: array,
    Image.Transpose.FLIP_LEFT_RIGHT: lambda array: array[:, ::-1],
    Image.Transpose.ROTATE_180: lambda array: array[::-1, ::-1],
    Image.Transpose.FLIP_TOP_BOTTOM: lambda array: array[::-1],
    Image.Transpose.TRANSPOSE: lambda array: array.swapaxes(0, 1),
    Image.Transpose.ROTATE_270: lambda array: np.rot90(array, -1),
    Image.Transpose.TRANSVERSE: lambda array: array[::-1, ::-1].swapaxes(0, 1),
    Image.Transpose.ROTATE_90: np.rot90,
}


@dataclass(frozen=True)
class Picture:
    """One still picture, upright (its EXIF orientation applied).

    Attributes:
        rgb: (H, W, 3) uint8, or uint16 for a file with more bits per sample. Where alpha is 0 the colour is whatever
            the file holds: see `opaque`.
        alpha: (H, W) uint8, or None for a picture without alpha.
        grey: whether it is stored as grey, and so is its result.
        icc: the colour profile of `rgb`, saved with the result; None means sRGB.
        format: Pillow's name for the file's format ("PNG"), None for a picture from memory.
        metadata: what the file says besides its pixels, carried into the result.
        frames: the number of frames or pages in the source, of which this is the first (or current) one.
        warnings: a line for each property of the file that is lost.
    """

    rgb: np.ndarray
    alpha: np.ndarray | None = None
    grey: bool = False
    icc: bytes | None = None
    format: str | None = None
    frames: int = 1
    warnings: tuple[str, ...] = ()
    metadata: Metadata = field(default_factory=Metadata)

    @property
    def bits(self) -> int:
        """The bits of a sample of `rgb`."""
        return 8 * self.rgb.itemsize


def in_colors_of(picture: Picture, rgb: np.ndarray) -> Picture:
    """A picture of colours `rgb` that mean what those of `picture` do, and of nothing else."""
    return Picture(rgb, icc=picture.icc, metadata=Metadata(codes=picture.metadata.codes))


def with_bits(picture: Picture, bits: int) -> Picture:
    """The same picture with 8 or 16 bits per sample."""
    return replace(picture, rgb=deepened(picture.rgb) if bits == 16 else shallow(picture.rgb))


def read(path: str | os.PathLike[str]) -> Picture:
    """The picture in a file; an animation gives its first frame, and `frames` is their number.

    Raises:
        InputError: the file is missing, empty, cut short, larger than MAX_INPUT_PIXELS, a camera's raw file, a volume,
            or not a picture in a supported format.
    """
    path = Path(path)
    return decoded(contents(path), path)


def contents(path: Path) -> bytes:
    """The bytes of a file.

    Raises:
        InputError: it is missing or empty, or cannot be read.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error
    if not data:
        raise InputError(f"{path}: the file is empty (0 bytes), expected a picture")
    return data


def decoded(data: bytes, path: Path, frame: int = 0) -> Picture:
    """The picture that `read` gives of a file with these bytes.

    Args:
        path: its name in errors.
        frame: which of its frames or pages.

    Raises:
        InputError: see `read`.
    """
    if data.startswith(tiff.SIGNATURES):
        with strictly(path), tiff.photograph(data, path, frame) as page:
            found, dropped = metadata.of_tiff(data)
            picture = _settled(page.image, str(path), page.count)
            turn = _turn(page.image)
        picture = replace(picture, warnings=(*picture.warnings, *dropped), metadata=found)
        return _with_depth(picture, page.deep, turn, page.bits)
    try:
        return _with_sides(data, path, frame)
    except TooLarge:
        raise
    except InputError:
        with strictly(path):
            whole = jpeg.with_end(data) if data.startswith(jpeg.SIGNATURE) else None
        if whole is None:
            raise
        picture = _with_sides(whole, path, frame)
        return replace(picture, warnings=(*picture.warnings, "its end marker is missing, but no pixel is"))


def _with_sides(data: bytes, path: Path, frame: int) -> Picture:
    with strictly(path):
        beside = sides(data)
        with Image.open(io.BytesIO(beside.data), formats=FORMATS) as image:
            if beside.icc is not None:
                image.info["icc_profile"] = beside.icc
            if frame:
                image.seek(frame)
            picture = _settled(image, str(path))
            turn = _turn(image)  # only now, because Pillow decodes a PNG to find its EXIF
            found, dropped = metadata.read(image, data, beside.metadata)  # for which Pillow may decode the picture
    picture = replace(picture, warnings=(*beside.warnings, *picture.warnings, *dropped), metadata=found)
    bits = depth.bits_per_sample(data)
    deep = png16.read(beside.data) if picture.format == "PNG" and bits == 16 else None
    return _with_depth(picture, None if deep is None else deep[..., : 3 if deep.shape[-1] > 2 else 1], turn, bits)


def _with_depth(picture: Picture, deep: np.ndarray | None, turn: Image.Transpose | None, bits: int) -> Picture:
    """A picture with the colours (h, w, 1 or 3) uint16 as they lie in its file, or a warning if they were converted."""
    if deep is not None:
        grey = deep.shape[-1] == 1 and picture.icc is None
        deep = np.ascontiguousarray(np.broadcast_to(_TURNED[turn](deep), picture.rgb.shape))
        # Unless the colours were converted, they are the same in 8 bits, whether these were rounded or cut off.
        if np.max(np.abs((deep >> 8).astype(np.int16) - picture.rgb), initial=0) <= 1:
            return replace(picture, rgb=deep, grey=grey, warnings=(*picture.warnings, *depth.lost(bits, 16)))
    return replace(picture, warnings=(*picture.warnings, *depth.lost(bits)))


def from_pil(image: Image.Image, name: str = "") -> Picture:
    """The current frame of an open Pillow image, of any mode but LAB.

    The largest value of 32-bit and floating-point samples decides whether they count as 8 bits, 16 bits or 0 to 1.

    Args:
        name: the picture's name in errors; by default its file name, if it has one.

    Raises:
        InputError: the image is cut short or too large, or its samples have no agreed range.
    """
    name = name or str(getattr(image, "filename", "") or "picture")
    with strictly(name):
        return _settled(image, name)


def from_array(image: np.ndarray) -> Picture:
    """A picture from an array: (H, W) or (H, W, 1) grey, (H, W, 2) grey and alpha, (H, W, 3) RGB, (H, W, 4) RGBA.

    It is uint8, or uint16 for 16 bits per sample.

    The array is copied, because whoever reads frames may reuse it for the next one.

    Raises:
        InputError: the array has another type or shape, or a mask.
    """
    if not hasattr(image, "__array__") or isinstance(image, np.ma.MaskedArray):
        found = type(image).__name__
        raise InputError(f"the picture is of type {found}, expected a PIL image or an array of uint8 or uint16")
    image = np.asarray(image)
    if image.ndim == 2:
        image = image[..., None]
    if (
        image.dtype not in (np.uint8, DEEP)
        or image.ndim != 3
        or image.shape[-1] not in (1, 2, 3, 4)
        or 0 in image.shape
    ):
        raise InputError(
            f"picture array of {image.dtype} and shape {image.shape}: expected uint8 or uint16 of (height, width), "
            "(height, width, 3) or (height, width, 4)"
        )
    if image.shape[0] * image.shape[1] > MAX_INPUT_PIXELS:
        raise InputError(
            f"picture array of shape {image.shape}: expected at most {MAX_INPUT_PIXELS} pixels (height x width)"
        )
    channels = image.shape[-1]
    if channels <= 2:
        rgb, alpha = np.repeat(image[..., :1], 3, axis=-1), image[..., 1] if channels == 2 else None
    else:
        rgb, alpha = np.array(image[..., :3], order="C"), image[..., 3] if channels == 4 else None
    return Picture(rgb=rgb, alpha=None if alpha is None else np.array(shallow(alpha), order="C"))


def to_array(picture: Picture) -> np.ndarray:
    """The picture (H, W, 3), or (H, W, 4) if it has an alpha, of its colours' type."""
    if picture.alpha is None:
        return picture.rgb
    return np.dstack([picture.rgb, deepened(picture.alpha) if picture.rgb.dtype == DEEP else picture.alpha])


def to_pil(picture: Picture) -> Image.Image:
    """The picture in 8 bits as a Pillow image: RGB or L, or RGBA or LA; `info["icc_profile"]` is its profile."""
    image = Image.fromarray(to_array(replace(picture, rgb=shallow(picture.rgb))))
    if picture.grey:
        image = image.convert("L" if picture.alpha is None else "LA")
    if picture.icc is not None:
        image.info["icc_profile"] = picture.icc
    return image


def opaque(picture: Picture) -> np.ndarray:
    """The colours for a network that sees no alpha, (H, W, 3); see `alpha.shown`."""
    return picture.rgb if picture.alpha is None else shown(picture.rgb, picture.alpha)


def with_rgb(picture: Picture, rgb: np.ndarray) -> Picture:
    """The picture with new colours `rgb` (H, W, 3), made from `opaque(picture)`; see `alpha.beside`."""
    if picture.alpha is None:
        return replace(picture, rgb=rgb)
    colors, enlarged = beside(picture.alpha, picture.rgb, rgb)
    return replace(picture, rgb=colors, alpha=enlarged)


Restore = Callable[[np.ndarray], np.ndarray]
"""(h, w, 3) -> (H, W, 3) of the same type"""


Kind = TypeVar("Kind", Picture, Image.Image, np.ndarray)


def upscale(image: Kind, restore: Restore) -> Kind:
    """Restores a picture of any kind and returns the same kind: Pillow image, array or Picture.

    Args:
        image: anything that `from_pil` or `from_array` takes; a grey array comes back as RGB, alpha is kept.
        restore: enlarges the colours; it never sees the alpha, nor a colour hidden under it.
    """
    picture, back = as_picture(image)
    return back(with_rgb(picture, restore(opaque(picture))))


def as_picture(image: Kind) -> tuple[Picture, Callable[[Picture], Kind]]:
    """A picture of any kind, and the function that makes the same kind of a picture again.

    Raises:
        InputError: it is no picture; see `from_pil` and `from_array`.
    """
    if isinstance(image, Picture):
        return image, lambda picture: picture
    if isinstance(image, Image.Image):
        return from_pil(image), to_pil
    return from_array(image), to_array


def side_by_side(images: list[np.ndarray]) -> np.ndarray:
    """Pictures of equal height, (H, W, 3), joined from left to right in 8 bits."""
    return np.concatenate([*map(shallow, images)], axis=1)


def check_writable(path: str | os.PathLike[str], height: int, width: int, alpha: np.ndarray | None = None) -> str:
    """Pillow's name for the format that the suffix of `path` means, once it is known to hold the picture.

    Raises:
        InputError: the suffix is unknown, a side is longer than the format allows, or JPEG would lose transparency.
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


def write(path: str | os.PathLike[str], picture: Picture) -> list[str]:
    """Writes PNG, JPEG (quality 95, full colour), WebP (quality 95) or TIFF, by the path's suffix; creates its folder.

    PNG and TIFF have 16 bits per sample if the picture has; the others take the nearest colours of 8. The file appears
    whole or not at all: it is written under another name and then moved.

    Returns:
        The names of those metadata of the picture that the format cannot hold.

    Raises:
        InputError: the format cannot hold the picture (see `check_writable`), or the file cannot be written.
    """
    path = Path(path)
    height, width = picture.rgb.shape[:2]
    format = check_writable(path, height, width, picture.alpha)
    about = picture.metadata.of_size(height, width)
    if format == "TIFF":
        with replaced(path) as file:
            tiff_writer.write(file, _stored(picture), picture.icc, about)
        return metadata.lost_in_tags(about)
    image = to_pil(replace(picture, alpha=None) if format == "JPEG" else picture)
    options, lost = metadata.save_options(about, format)
    if format == "PNG" and picture.rgb.dtype == DEEP:
        small = io.BytesIO()  # whose metadata Pillow writes, for our pixels
        image.crop((0, 0, 1, 1)).save(small, format, icc_profile=picture.icc, **options)
        with replaced(path) as file:
            file.write(png16.written(_stored(picture), png16.ancillary(small.getvalue())))
        return lost
    with replaced(path) as file:
        image.save(file, format, icc_profile=picture.icc, **SAVE_OPTIONS[format], **options)
    return lost


def _stored(picture: Picture) -> np.ndarray:
    """The samples of a picture as a file has them, (H, W, 1 to 4)."""
    samples = to_array(picture)
    return samples[..., [0, *range(3, samples.shape[-1])]] if picture.grey else samples


def _settled(image: Image.Image, name: str, frames: int | None = None) -> Picture:
    """The current frame, decoded, upright, in the colours it is worked on; Pillow counts the frames by default."""
    check_size(name, image.width, image.height)
    stored = raw_mode(image)
    image.load()
    format, counted = image.format, frames or getattr(image, "n_frames", 1)
    if format == "MPO":  # a phone's photograph followed by previews, which everyone regards as a still
        format, counted = "JPEG", 1
    image = _upright(image)
    rgb, alpha = rgb_and_alpha(image, stored, name)
    rgb, icc, warnings = settle(rgb, image)
    grey = ImageMode.getmode(image.mode).basemode == "L" and icc is None and is_grey(rgb)
    return Picture(rgb=rgb, alpha=alpha, grey=grey, icc=icc, format=format, frames=counted, warnings=tuple(warnings))


def _upright(image: Image.Image) -> Image.Image:
    turn = _turn(image)
    return image if turn is None else image.transpose(turn)


def _turn(image: Image.Image) -> Image.Transpose | None:
    if image.format == "JXL":  # whose decoder turns it by its own field, which counts more than EXIF
        return None
    try:
        return TURNS.get(image.getexif().get(EXIF_ORIENTATION, 1))
    except Exception:  # damaged metadata say nothing about the pixels
        return None
