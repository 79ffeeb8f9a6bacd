"""TIFF files: the page that is the photograph, and samples that Pillow does not decode correctly.

Pillow decodes samples of up to 8 bits, and 16-bit ones in compressions for which tifffile needs another package. It
refuses all others, cuts them to 8 bits, or misreads them if they are in planes or in the other byte order.
"""

import io
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tifffile import COMPRESSION, TiffFile, TiffPage

from cassr_jax.errors import InputError
from cassr_jax.imaging.decoding import check_size
from cassr_jax.imaging.samples import BITS_PER_SAMPLE, Meaning, to_8_bits

SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
# Tag numbers, each followed by its values.
SUBFILE_TYPE, REDUCED, MASK = 254, 1, 4
OLD_SUBFILE_TYPE, OLD_REDUCED = 255, 2
ORIENTATION, PROFILE, DNG_VERSION = 0x0112, 34675, 50706
GREYS, RGB, MOSAICS = (0, 1), 2, (32803, 34892)  # photometric interpretations
UNSIGNED, UNDEFINED = 1, 4  # sample formats
UNCOMPRESSED, CONTIGUOUS = 1, 1
ASSOCIATED, UNASSOCIATED = 1, 2  # extra samples

logging.getLogger("tifffile").addHandler(logging.NullHandler())  # it logs what it tolerates, and raises errors


@contextmanager
def photograph(data: bytes, path: Path) -> Iterator[tuple[Image.Image, int]]:
    """The first photograph in a file, and their number; thumbnails and masks do not count.

    Args:
        data: the file's bytes.
        path: its name in errors.

    Raises:
        InputError: it is a camera's raw file, or its samples cannot be decoded.
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
        check_size(path, page.imagewidth, page.imagelength)
        decoded = _decoded(path, page)
    if decoded is not None:
        yield decoded, count
        return
    if page.is_subifd:
        raise InputError(f"{path}: {_kind(page)} behind a thumbnail are not read; save the photograph alone")
    with Image.open(io.BytesIO(data), formats=("TIFF",)) as image:
        image.seek(pages.index(page))
        yield image, count


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
    if page.photometric not in (*GREYS, RGB) or (bits <= 8 and unsigned and not page.is_subifd):
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
    return f"{_most_bits(page)}-bit samples with compression {COMPRESSION(page.compression).name}"


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
    picture = to_8_bits(samples[..., :colors], meaning, path)
    kinds = [int(kind) for kind in page.extrasamples]
    alphas = [i for i, kind in enumerate(kinds) if kind in (ASSOCIATED, UNASSOCIATED)]
    if not alphas:
        return picture[..., 0] if colors == 1 else picture
    alpha = to_8_bits(samples[..., colors + alphas[0], None], replace(meaning, white_is_zero=False), path)
    if kinds[alphas[0]] == ASSOCIATED:  # the colours are multiplied by it
        straight = np.rint(picture * (255 / np.maximum(alpha, 1, dtype=np.float32)))
        picture = np.minimum(straight, 255).astype(np.uint8)
    return np.concatenate([picture, alpha], axis=-1)
