"""Makes the awkward files that people have: odd bit depths, missing markers, cut transfers."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from cassr_jax.imaging.io import Picture, read, with_bits


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


def packed_tiff(samples: np.ndarray, bits: int, order: str) -> bytes:
    """An uncompressed TIFF of (H, W, 1 or 3) samples whose rows are strings of `bits` each; `order` is "<" or ">"."""
    height, width, channels = samples.shape
    rows = (samples.reshape(height, -1)[..., None] >> np.arange(bits - 1, -1, -1) & 1).reshape(height, -1)
    data = np.packbits(rows.astype(np.uint8), axis=1).tobytes()
    depths = struct.pack(f"{order}{channels}H", *[bits] * channels)
    tags = {256: width, 257: height, 259: 1, 262: 2 if channels == 3 else 1, 277: channels, 278: height, 279: len(data)}
    start = 8 + 2 + 12 * (len(tags) + 2) + 4
    tags |= {258: start if channels == 3 else bits, 273: start + len(depths)}
    short = (258,) if channels == 1 else ()
    entries = b"".join(
        struct.pack(f"{order}HHI", tag, 3 if tag == 258 else 4, channels if tag == 258 else 1)
        + (struct.pack(f"{order}HH", tags[tag], 0) if tag in short else struct.pack(f"{order}I", tags[tag]))
        for tag in sorted(tags)
    )
    header = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}IH", 8, len(tags))
    return header + entries + bytes(4) + depths + data


def grey_profile(gamma: float) -> bytes:
    """An ICC profile of version 2 for grey with that exponent, and as little else as a profile may have."""
    white = b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(x * 65536) for x in (0.9642, 1, 0.8249)))
    curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256)) + bytes(2)
    parts = {b"wtpt": white, b"kTRC": curve}
    table, body, start = struct.pack(">I", len(parts)), b"", 128 + 4 + 12 * len(parts)
    for name, part in parts.items():
        table += name + struct.pack(">II", start + len(body), len(part))
        body += part
    header = struct.pack(">I4sI4s4s4s12x4s", start + len(body), b"lcms", 0x02400000, b"mntr", b"GRAY", b"XYZ ", b"acsp")
    return header.ljust(68, b"\0") + white[8:].ljust(60, b"\0") + table + body


def with_chunks(png: bytes, *chunks: bytes) -> bytes:
    """A PNG with more chunks behind its header."""
    return png[:33] + b"".join(chunks) + png[33:]


def chunk(name: bytes, data: bytes, sound: bool = True) -> bytes:
    """A PNG's chunk, with a false check sum where it is not sound."""
    made = _chunk(name, data)
    return made if sound else made[:-1] + bytes([made[-1] ^ 1])


def box(name: bytes, *contents: bytes) -> bytes:
    """A box of ISO 14496-12, as JPEG 2000 and AVIF are made of."""
    body = b"".join(contents)
    return struct.pack(">I", 8 + len(body)) + name + body


def read_in_8_bits(path: Path) -> Picture:
    """The picture in a file, in 8 bits whatever the file has."""
    return with_bits(read(path), 8)
