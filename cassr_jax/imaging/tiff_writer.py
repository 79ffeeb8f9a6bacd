"""Writing TIFF: grey or RGB of 8 or 16 bits, with and without alpha, with all metadata (TIFF 6.0)."""

import struct
import zlib
from io import BufferedWriter
from itertools import accumulate

import numpy as np
from PIL import Image
from PIL.ExifTags import IFD
from PIL.TiffImagePlugin import ImageFileDirectory_v2
from PIL.TiffTags import BYTE, LONG, SHORT, UNDEFINED

from cassr_jax.imaging.metadata import Metadata, with_texts

_STRIP = 2**20  # bytes of a strip before it is packed
_LEVEL = 6  # of zlib
_DEFLATE, _DIFFERENCES, _UNASSOCIATED, _CONTIGUOUS = 8, 2, 2, 1
_GREY, _RGB = 1, 2
_XMP, _IPTC, _PROFILE = 700, 33723, 34675
_HEADER = 8  # bytes


def write(file: BufferedWriter, samples: np.ndarray, icc: bytes | None, metadata: Metadata) -> None:
    """Writes samples (H, W, 1 to 4) uint8 or uint16: grey or RGB, the last of an even number being alpha."""
    height, width, channels = samples.shape
    tall = max(1, _STRIP // (width * channels * samples.itemsize))
    strips = [
        zlib.compress(_differences(samples[top : top + tall]).tobytes(), _LEVEL) for top in range(0, height, tall)
    ]
    counts = tuple(map(len, strips))
    tags = _directory(metadata)
    for number, kind, value in (
        (256, LONG, width),
        (257, LONG, height),
        (258, SHORT, (8 * samples.itemsize,) * channels),
        (259, SHORT, _DEFLATE),
        (262, SHORT, _GREY if channels < 3 else _RGB),
        (273, LONG, (0, *accumulate(counts[:-1]))),  # from the end of the directory, which Pillow adds
        (277, SHORT, channels),
        (278, LONG, tall),
        (279, LONG, counts),
        (284, SHORT, _CONTIGUOUS),
        (317, SHORT, _DIFFERENCES),
        *([(338, SHORT, _UNASSOCIATED)] if channels % 2 == 0 else []),
        *([(_PROFILE, UNDEFINED, icc)] if icc else []),
        *([(_XMP, BYTE, metadata.xmp)] if metadata.xmp else []),
        *([(_IPTC, UNDEFINED, metadata.iptc)] if metadata.iptc else []),
    ):
        tags.tagtype[number] = kind
        tags[number] = value
    file.write(struct.pack("<2sHI", b"II", 42, _HEADER))
    file.write(tags.tobytes(_HEADER))
    file.writelines(strips)


def _directory(metadata: Metadata) -> ImageFileDirectory_v2:
    """The directory of a file with the EXIF of a picture, and its texts and resolution."""
    tags = ImageFileDirectory_v2(prefix=b"II")
    exif = Image.Exif()
    if found := with_texts(metadata):
        exif.load(found)
    for number, value in exif.items():
        if number not in (IFD.Exif, IFD.GPSInfo):
            tags[number] = value
    for number in (IFD.Exif, IFD.GPSInfo):
        inside = dict(exif.get_ifd(number))
        if IFD.Interop in inside:
            inside[IFD.Interop] = dict(exif.get_ifd(IFD.Interop))
        if inside:
            tags[number] = inside
    return tags


def _differences(rows: np.ndarray) -> np.ndarray:
    """Each sample less the one to its left, in the order of bytes of the file."""
    changed = rows.copy()
    changed[:, 1:] -= rows[:, :-1]
    return changed.astype(changed.dtype.newbyteorder("<"))
