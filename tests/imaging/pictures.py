"""Makes the awkward files that people have: odd bit depths, missing markers, cut transfers."""

import io
import struct
import zlib

import numpy as np
from PIL import Image


def encoded(image: Image.Image, format: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def photograph(height: int = 96, width: int = 128, seed: int = 0) -> np.ndarray:
    """(height, width, 3) uint8 with structure at several scales, so that a coded file spreads over all its bytes."""
    rng = np.random.default_rng(seed)
    picture = np.zeros((height, width, 3))
    for cells in (3, 12, 48):
        noise = Image.fromarray(rng.integers(0, 256, (cells, cells, 3), dtype=np.uint8))
        picture += np.asarray(noise.resize((width, height), Image.Resampling.BICUBIC)) / 3
    return picture.astype(np.uint8)


def png(samples: np.ndarray, depth: int, color_type: int, transparent: bytes | None = None) -> bytes:
    """A PNG of (H, W, C) samples at 8 or 16 bits, or (H, W, 1) at 1, 2 or 4; `transparent` is the tRNS chunk's body."""
    height, width, channels = samples.shape
    if depth == 16:
        rows = samples.astype(">u2").tobytes()
    elif depth == 8:
        rows = samples.astype(np.uint8).tobytes()
    else:
        bits = samples[..., 0][..., None] >> np.arange(depth - 1, -1, -1) & 1  # (H, W, depth)
        rows = np.packbits(bits.reshape(height, width * depth).astype(np.uint8), axis=1).tobytes()
    stride = -(-width * channels * depth // 8)
    data = b"".join(b"\0" + rows[y * stride : (y + 1) * stride] for y in range(height))
    chunks = [_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, color_type, 0, 0, 0))]
    if transparent is not None:
        chunks.append(_chunk(b"tRNS", transparent))
    chunks += [_chunk(b"IDAT", zlib.compress(data)), _chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds almost nothing: what a decompression bomb looks like from outside."""
    header = _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + _chunk(b"IDAT", zlib.compress(bytes(1000))) + _chunk(b"IEND", b"")


def without_adobe_marker(jpeg: bytes) -> bytes:
    start = jpeg.index(b"\xff\xee")
    return jpeg[:start] + jpeg[start + 2 + struct.unpack(">H", jpeg[start + 2 : start + 4])[0] :]


def as_ycck(jpeg: bytes) -> bytes:
    """Declares a CMYK JPEG's channels to be YCCK, in the last byte of its Adobe marker."""
    start = jpeg.index(b"\xff\xee")
    return jpeg[: start + 15] + b"\x02" + jpeg[start + 16 :]


def palette_with_hidden_magenta() -> Image.Image:
    """32x32: index 0, magenta and transparent, around a ring of index 1, half-opaque green, and a blue core."""
    indices = np.zeros((32, 32), np.uint8)
    indices[4:-4, 4:-4] = 1
    indices[12:-12, 12:-12] = 2
    image = Image.fromarray(indices, mode="P")
    image.putpalette([255, 0, 255, 0, 160, 0, 0, 0, 200])
    image.info["transparency"] = bytes([0, 128, 255])
    return image


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
