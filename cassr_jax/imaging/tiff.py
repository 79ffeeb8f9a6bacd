"""TIFF files: the page that is the photograph, and samples that Pillow does not decode correctly.

Pillow decodes samples of up to 8 bits, and 16-bit ones in compressions for which tifffile needs another package. It
refuses all others, cuts them to 8 bits, or misreads them if they are in planes or in the other byte order. It refuses
alpha beside CMYK and beside greys whose 0 is white, and overlooks the value that a file declares as white.
"""

import io
import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from enum import IntEnum
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from PIL.Image import UnidentifiedImageError
from tifffile import COMPRESSION, PHOTOMETRIC, TiffFile, TiffPage

from cassr_jax.errors import InputError
from cassr_jax.imaging.decoding import MAX_INPUT_PIXELS, check_size
from cassr_jax.imaging.pixels import DEEP, shallow
from cassr_jax.imaging.profiles import cmyk_to_rgb
from cassr_jax.imaging.samples import BITS_PER_SAMPLE, WHITE_IS_ZERO, Meaning, to_8_bits, to_bits, type_for

SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
# Tag numbers, each followed by its values.
SUBFILE_TYPE, REDUCED, MASK = 254, 1, 4
OLD_SUBFILE_TYPE, OLD_REDUCED = 255, 2
ORIENTATION, PROFILE, DNG_VERSION = 0x0112, 34675, 50706
GREYS, RGB, PALETTE, CMYK, MOSAICS = (0, 1), 2, 3, 5, (32803, 34892)  # photometric interpretations
UNSIGNED, UNDEFINED, COMPLEX = 1, 4, (5, 6)  # sample formats
UNCOMPRESSED, CONTIGUOUS = 1, 1
ASSOCIATED, UNASSOCIATED = 1, 2  # extra samples

logging.getLogger("tifffile").addHandler(logging.NullHandler())  # it logs what it tolerates, and raises errors


class Photograph(NamedTuple):
    """A photograph of a file.

    Attributes:
        image: it in 8 bits, as Pillow gives it.
        count: how many photographs the file holds.
        bits: the most bits of a sample in the file.
        deep: its colours as they lie in the file, (H, W, 1 or 3) uint16; None if they are not to be had.
    """

    image: Image.Image
    count: int
    bits: int
    deep: np.ndarray | None = None


@contextmanager
def photograph(data: bytes, path: Path, number: int = 0) -> Iterator[Photograph]:
    """A photograph in a file, by default the first; thumbnails and masks do not count.

    Args:
        data: the file's bytes.
        path: its name in errors.

    Raises:
        InputError: it is a camera's raw file or a volume, or its samples cannot be decoded.
    """
    _refuse_raw(path, raw=data[8:10] == b"CR")  # Canon's
    with TiffFile(io.BytesIO(data)) as file:
        pages = list(_chained(file.pages, path))
        if not pages:
            raise ValueError("it has no page")
        nested = [page for parent in pages for page in _chained(parent.pages or (), path)]
        _refuse_raw(path, raw=any(DNG_VERSION in x.tags or x.photometric in MOSAICS for x in pages + nested))
        photographs = [page for page in pages if _is_photograph(page)]
        nested = [page for page in nested if _is_photograph(page)]
        page = (photographs or sorted(nested, key=_area, reverse=True) or pages)[number]
        count = max(len(photographs), 1)
        _check(path, page)
        decoded = _decoded(path, page, data)
    if decoded is not None:
        yield Photograph(decoded[0], count, _most_bits(page), decoded[1])
        return
    if page.is_subifd:
        raise InputError(f"{path}: {_kind(page)} behind a thumbnail are not read; save the photograph alone")
    try:
        image = Image.open(io.BytesIO(data), formats=("TIFF",))
    except UnidentifiedImageError as error:
        raise InputError(
            f"{path}: cannot be decoded as {_kind(page)}: such samples are not read, or the file is damaged; save it "
            "as RGB without compression"
        ) from error
    with image:
        image.seek(pages.index(page))
        yield Photograph(image, count, _most_bits(page))


def _chained(pages: Iterable[object], path: Path) -> Iterator[TiffPage]:
    """The pages of a chain, in which each names the next one's place.

    Raises:
        InputError: the chain leads back into itself, and so has no end.
    """
    places: set[int] = set()
    for page in pages:
        if isinstance(page, TiffPage):
            if page.offset in places:
                raise InputError(f"{path}: damaged, its pages lead round in a circle")
            places.add(page.offset)
            yield page


def _check(path: Path, page: TiffPage) -> None:
    """Checks, before anything is decoded, that a page is a plane of pixels with real samples, and none too large.

    Raises:
        InputError: it is something else, or a size in it is no number.
    """
    width, height, samples = page.imagewidth, page.imagelength, page.samplesperpixel
    for name, size in (("width", width), ("height", height), ("depth", page.imagedepth), ("samples", samples)):
        if not isinstance(size, int):
            raise InputError(f"{path}: its {name} is {str(size)[:40]!r}, expected a whole number; the file is damaged")
    check_size(path, width, height)
    if page.imagedepth > 1:
        raise InputError(f"{path}: a volume, {page.imagedepth} planes deep, expected a picture; save one plane")
    if width * height * samples > 4 * MAX_INPUT_PIXELS:
        raise InputError(
            f"{path}: {width}x{height} pixels of {samples} samples each, expected at most {4 * MAX_INPUT_PIXELS} "
            "samples in all"
        )
    if any(kind in COMPLEX for kind in np.atleast_1d(page.sampleformat)):
        raise InputError(f"{path}: holds complex numbers, expected real ones; save their magnitudes")


def _refuse_raw(path: Path, *, raw: bool) -> None:
    if raw:
        raise InputError(
            f"{path}: a camera's raw file, expected a developed picture; export it as JPEG, PNG or TIFF first"
        )


def _is_photograph(page: TiffPage) -> bool:
    reduced = _tag(page, OLD_SUBFILE_TYPE) == OLD_REDUCED
    return not reduced and not (_tag(page, SUBFILE_TYPE) or 0) & (REDUCED | MASK)


def _area(page: TiffPage) -> int:
    return page.imagewidth * page.imagelength


def _tag(page: TiffPage, number: int) -> Any:
    tag = page.tags.get(number)
    return None if tag is None else tag.value


def _decoded(path: Path, page: TiffPage, data: bytes) -> tuple[Image.Image, np.ndarray | None] | None:
    """The page in 8 bits, with its profile and orientation, and its deep colours; None if Pillow gives what is there.

    Raises:
        InputError: neither tifffile nor Pillow can decode it.
    """
    samples = None if _is_for_pillow(page) else _samples(path, page, data)
    if samples is None:
        return None
    planes, _, height, width, _ = page.shaped
    samples = samples.reshape(planes, height, width, -1).transpose(1, 2, 0, 3).reshape(height, width, -1)
    colors, alpha = _colors_and_alpha(path, page, samples)
    deep, colors = (colors, shallow(colors)) if colors.dtype == DEEP else (None, colors)
    profile = _tag(page, PROFILE)
    if page.photometric == CMYK:
        inks = Image.frombytes("CMYK", (width, height), colors.tobytes())
        inks.info["icc_profile"], profile = profile, None
        colors = np.array(cmyk_to_rgb(inks))
    picture = colors if alpha is None else np.concatenate([colors, alpha], axis=-1)
    image = Image.fromarray(picture[..., 0] if picture.shape[-1] == 1 else picture)
    image.format = "TIFF"
    if isinstance(profile, bytes):
        image.info["icc_profile"] = profile
    image.getexif()[ORIENTATION] = _tag(page, ORIENTATION) or 1
    return image, deep


def _is_for_pillow(page: TiffPage) -> bool:
    """Whether Pillow decodes the page correctly, or else nothing does."""
    extra = len(page.extrasamples)
    if page.photometric == CMYK:
        return not extra or page.samplesperpixel - extra != 4
    if page.photometric not in (*GREYS, RGB, PALETTE):
        return True
    decodes = extra == 0 or (extra == 1 and page.photometric != WHITE_IS_ZERO)
    return _is_shallow(page) and decodes and not page.is_subifd and not _declares_white(page)


def _is_shallow(page: TiffPage, bits: int = 8) -> bool:
    return _most_bits(page) <= bits and page.sampleformat in (UNSIGNED, UNDEFINED)


def _declares_white(page: TiffPage) -> bool:
    """Whether the largest value that a sample is said to have is not the largest that its bits can express."""
    white = Meaning.of_tags({tag.code: tag.value for tag in page.tags}).white
    return page.photometric != PALETTE and white is not None and white < 2 ** _most_bits(page) - 1


def _samples(path: Path, page: TiffPage, data: bytes) -> np.ndarray | None:
    """The samples as they are stored; None if Pillow decodes them.

    Raises:
        InputError: neither tifffile nor Pillow gives them as they are stored, and Pillow's picture would be wrong.
    """
    try:
        unpacks = _most_bits(page) % 8 and page.compression == UNCOMPRESSED
        return _unpacked(page) if unpacks else page.asarray()
    except (ValueError, NotImplementedError) as error:  # a compression for which tifffile needs another package
        if not _is_shallow(page, 16) or page.planarconfig != CONTIGUOUS or page.is_subifd:
            raise InputError(
                f"{path}: {_kind(page)} are not read, expected 8 or 16 bits; save it with those"
            ) from error
    falls = page.photometric == WHITE_IS_ZERO
    if not (_is_shallow(page) and _declares_white(page)) or (falls and page.extrasamples):
        return None
    # Pillow overlooks the declared white, scales fewer bits to 8, and divides colours by the alpha they contain.
    if ASSOCIATED in page.extrasamples:
        raise InputError(
            f"{path}: {_kind(page)}, multiplied by alpha and with a declared white below 255, are not read; save it "
            "without compression"
        )
    with Image.open(io.BytesIO(data), formats=("TIFF",)) as image:
        image.seek(page.index)
        scaled = 255 - np.asarray(image) if falls else np.asarray(image)
    return scaled // np.uint8(255 // (2 ** _most_bits(page) - 1))


def _most_bits(page: TiffPage) -> int:
    return max(np.atleast_1d(_tag(page, BITS_PER_SAMPLE) or 1).tolist())


def _kind(page: TiffPage) -> str:
    color, compression = _named(PHOTOMETRIC, page.photometric), _named(COMPRESSION, page.compression)
    count = len(page.extrasamples)
    extra = f" and {count} extra sample{'s' if count > 1 else ''}" if count else ""
    return f"{_most_bits(page)}-bit {color} samples{extra} with compression {compression}"


def _named(names: type[IntEnum], value: int) -> str:
    return names(value).name if value in list(names) else str(value)


def _unpacked(page: TiffPage) -> np.ndarray:
    """Uncompressed samples whose bits do not fill whole bytes; each row begins on a byte."""
    bits, planar = _most_bits(page), page.planarconfig != CONTIGUOUS
    if planar or page.is_tiled or page.fillorder != 1 or bits > 31:
        raise NotImplementedError
    parts = []
    for start, count in zip(page.dataoffsets, page.databytecounts, strict=True):
        page.parent.filehandle.seek(start)
        parts.append(np.frombuffer(page.parent.filehandle.read(count), np.uint8))
    count = page.imagewidth * page.samplesperpixel
    rows = np.concatenate(parts).reshape(page.imagelength, -(-count * bits // 8))
    samples = np.unpackbits(rows, axis=1, count=count * bits).reshape(page.imagelength, count, bits)
    weights = 1 << np.arange(bits - 1, -1, -1)
    return (samples @ weights).astype(np.uint16 if bits <= 16 else np.uint32)


def _colors_and_alpha(path: Path, page: TiffPage, samples: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """Samples (H, W, C) as colours (H, W, 1, 3 or 4) and alpha (H, W, 1) uint8, None without one.

    The colours are uint16 if the file has more than 8 bits, or else uint8.
    """
    meaning = Meaning.of_tags({tag.code: tag.value for tag in page.tags})
    colors = {RGB: 3, CMYK: 4}.get(page.photometric, 1)
    kept = page.photometric in (*GREYS, RGB) and _most_bits(page) > 8
    dtype = type_for(samples[..., :colors], meaning, path) if kept else np.dtype(np.uint8)
    if page.photometric == PALETTE:
        if page.colormap is None:
            raise ValueError("it has no palette")
        picture = to_8_bits(page.colormap.T[samples[..., 0]], Meaning(bits=16), path)
    else:
        picture = to_bits(samples[..., :colors], meaning, path, dtype)
    kinds = [int(kind) for kind in page.extrasamples]
    alphas = [i for i, kind in enumerate(kinds) if kind in (ASSOCIATED, UNASSOCIATED)]
    if not alphas:
        return picture, None
    alpha = to_bits(samples[..., colors + alphas[0], None], replace(meaning, white_is_zero=False), path, dtype)
    if kinds[alphas[0]] == ASSOCIATED:  # the colours are multiplied by it
        most = np.iinfo(dtype).max
        straight = np.rint(picture * (most / np.maximum(alpha, 1, dtype=np.float32)))
        picture = np.minimum(straight, most).astype(dtype)
    return picture, shallow(alpha)
