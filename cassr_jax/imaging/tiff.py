"""TIFF files: the page that is the photograph, and samples that Pillow does not decode correctly.

Pillow decodes samples of up to 8 bits, and 16-bit ones in compressions for which tifffile needs another package. It
refuses all others, cuts them to 8 bits, or misreads them if they are in planes or in the other byte order.
"""

import io
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from enum import IntEnum
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from PIL.Image import UnidentifiedImageError
from tifffile import COMPRESSION, PHOTOMETRIC, TiffFile, TiffPage

from cassr_jax.errors import InputError
from cassr_jax.imaging.decoding import MAX_INPUT_PIXELS, check_size
from cassr_jax.imaging.samples import BITS_PER_SAMPLE, Meaning, to_8_bits

SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
# Tag numbers, each followed by its values.
SUBFILE_TYPE, REDUCED, MASK = 254, 1, 4
OLD_SUBFILE_TYPE, OLD_REDUCED = 255, 2
ORIENTATION, PROFILE, DNG_VERSION = 0x0112, 34675, 50706
GREYS, RGB, PALETTE, MOSAICS = (0, 1), 2, 3, (32803, 34892)  # photometric interpretations
UNSIGNED, UNDEFINED, COMPLEX = 1, 4, (5, 6)  # sample formats
UNCOMPRESSED, CONTIGUOUS = 1, 1
ASSOCIATED, UNASSOCIATED = 1, 2  # extra samples

logging.getLogger("tifffile").addHandler(logging.NullHandler())  # it logs what it tolerates, and raises errors


@contextmanager
def photograph(data: bytes, path: Path) -> Iterator[tuple[Image.Image, int, int]]:
    """The first photograph in a file, their number, and the bits of a sample; thumbnails and masks do not count.

    Args:
        data: the file's bytes.
        path: its name in errors.

    Raises:
        InputError: it is a camera's raw file or a volume, or its samples cannot be decoded.
    """
    _refuse_raw(path, raw=data[8:10] == b"CR")  # Canon's
    with TiffFile(io.BytesIO(data)) as file:
        pages = [page for page in file.pages if isinstance(page, TiffPage)]
        if not pages:
            raise ValueError("it has no page")
        nested = [page for parent in pages for page in parent.pages or () if isinstance(page, TiffPage)]
        _refuse_raw(path, raw=any(DNG_VERSION in x.tags or x.photometric in MOSAICS for x in pages + nested))
        photographs = [page for page in pages if _is_photograph(page)]
        nested = [page for page in nested if _is_photograph(page)]
        page = (photographs or sorted(nested, key=_area, reverse=True) or pages)[0]
        count = max(len(photographs), 1)
        _check(path, page)
        decoded = _decoded(path, page)
    if decoded is not None:
        yield decoded, count, _most_bits(page)
        return
    if page.is_subifd:
        raise InputError(f"{path}: {_kind(page)} behind a thumbnail are not read; save the photograph alone")
    try:
        image = Image.open(io.BytesIO(data), formats=("TIFF",))
    except UnidentifiedImageError as error:
        raise InputError(
            f"{path}: cannot be decoded as {_kind(page)}, expected 8 or 16 bits of grey, RGB or CMYK in a sound file"
        ) from error
    with image:
        image.seek(pages.index(page))
        yield image, count, _most_bits(page)


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


def _decoded(path: Path, page: TiffPage) -> Image.Image | None:
    """The page in 8 bits, with its profile and orientation; None if Pillow has to decode it.

    Raises:
        InputError: neither tifffile nor Pillow can decode it.
    """
    bits, unsigned = _most_bits(page), page.sampleformat in (UNSIGNED, UNDEFINED)
    of_pillow = bits <= 8 and unsigned and len(page.extrasamples) < 2 and not page.is_subifd
    if page.photometric not in (*GREYS, RGB, PALETTE) or of_pillow:
        return None
    try:
        samples = _unpacked(page) if bits % 8 and page.compression == UNCOMPRESSED else page.asarray()
    except (ValueError, NotImplementedError) as error:  # a compression for which tifffile needs another package
        if bits <= 16 and unsigned and page.planarconfig == CONTIGUOUS and not page.is_subifd:
            return None
        raise InputError(f"{path}: {_kind(page)} are not read, expected 8 or 16 bits; save it with those") from error
    planes, _, height, width, _ = page.shaped
    samples = samples.reshape(planes, height, width, -1).transpose(1, 2, 0, 3).reshape(height, width, -1)
    image = Image.fromarray(_in_8_bits(path, page, samples))
    image.format = "TIFF"
    if isinstance(profile := _tag(page, PROFILE), bytes):
        image.info["icc_profile"] = profile
    image.getexif()[ORIENTATION] = _tag(page, ORIENTATION) or 1
    return image


def _most_bits(page: TiffPage) -> int:
    return max(np.atleast_1d(_tag(page, BITS_PER_SAMPLE) or 1).tolist())


def _kind(page: TiffPage) -> str:
    color, compression = _named(PHOTOMETRIC, page.photometric), _named(COMPRESSION, page.compression)
    extra = f" and {len(page.extrasamples)} extra samples" if page.extrasamples else ""
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


def _in_8_bits(path: Path, page: TiffPage, samples: np.ndarray) -> np.ndarray:
    """Samples (H, W, C) as uint8 (H, W) or (H, W, 2 to 4), as Pillow takes them."""
    meaning = Meaning.of_tags({tag.code: tag.value for tag in page.tags})
    colors = 3 if page.photometric == RGB else 1
    if page.photometric == PALETTE:
        if page.colormap is None:
            raise ValueError("it has no palette")
        picture = to_8_bits(page.colormap.T[samples[..., 0]], Meaning(bits=16), path)
    else:
        picture = to_8_bits(samples[..., :colors], meaning, path)
    kinds = [int(kind) for kind in page.extrasamples]
    alphas = [i for i, kind in enumerate(kinds) if kind in (ASSOCIATED, UNASSOCIATED)]
    if not alphas:
        return picture[..., 0] if picture.shape[-1] == 1 else picture
    alpha = to_8_bits(samples[..., colors + alphas[0], None], replace(meaning, white_is_zero=False), path)
    if kinds[alphas[0]] == ASSOCIATED:  # the colours are multiplied by it
        straight = np.rint(picture * (255 / np.maximum(alpha, 1, dtype=np.float32)))
        picture = np.minimum(straight, 255).astype(np.uint8)
    return np.concatenate([picture, alpha], axis=-1)
