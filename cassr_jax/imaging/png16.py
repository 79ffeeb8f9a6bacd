"""PNG with 16 bits per sample, of which Pillow keeps 8: grey and RGB, with and without alpha (ISO/IEC 15948).

Only the pixels are read and written here. Metadata stay in the chunks that Pillow reads and writes.
"""

import struct
import zlib

import numpy as np

from cassr_jax.imaging.side_chunks import PNG_SIGNATURE, chunks

CHANNELS = {0: 1, 2: 3, 4: 2, 6: 4}  # by colour type
_COLOR_TYPE = {count: kind for kind, count in CHANNELS.items()}
_LEVEL = 4  # of zlib, as for 8 bits
_PAETH = 4
_PIECE = 2**24  # bytes that zlib unpacks at a time


def read(data: bytes) -> np.ndarray | None:
    """The samples of a PNG, (H, W, 1 to 4) uint16; None if it has not 16 bits, is interlaced or damaged."""
    header, packed = None, []
    for chunk in chunks(data):
        if chunk.name == b"IHDR" and len(chunk.body) == 13:
            header = struct.unpack(">IIBBBBB", chunk.body)
        elif chunk.name == b"IDAT":
            packed.append(chunk.body)
    if header is None or header[2] != 16 or header[3] not in CHANNELS or any(header[4:]):
        return None
    width, height, channels = header[0], header[1], CHANNELS[header[3]]
    rows = _unpacked(packed, height * (1 + width * channels * 2))
    if rows is None:
        return None
    filtered = rows.reshape(height, 1 + width * channels * 2)
    filters, values = filtered[:, 0], filtered[:, 1:].reshape(height, width, channels * 2)
    if filters.max(initial=0) > _PAETH:
        return None
    return np.ascontiguousarray(_unfiltered(filters, values)).view(">u2").astype(np.uint16)


def written(samples: np.ndarray, ancillary: bytes) -> bytes:
    """A PNG of samples (H, W, 1 to 4) uint16.

    Args:
        ancillary: whole chunks of metadata, which stand before the pixels.
    """
    height, width, channels = samples.shape
    values = np.ascontiguousarray(samples, ">u2").view(np.uint8).reshape(height, width, channels * 2)
    left, above, corner = _neighbours(values)
    rows = np.empty((height, 1 + width * channels * 2), np.uint8)
    rows[:, 0] = _PAETH
    rows[:, 1:] = (values - _paeth(left, above, corner)).reshape(height, -1)
    header = struct.pack(">IIBBBBB", width, height, 16, _COLOR_TYPE[channels], 0, 0, 0)
    pixels = zlib.compress(rows.tobytes(), _LEVEL)
    parts = [pixels[at : at + 2**30] for at in range(0, len(pixels), 2**30)]  # a chunk's length has 31 bits
    whole = [_chunk(b"IHDR", header), ancillary, *(_chunk(b"IDAT", part) for part in parts), _chunk(b"IEND", b"")]
    return PNG_SIGNATURE + b"".join(whole)


def ancillary(data: bytes) -> bytes:
    """The whole chunks of a PNG that are neither its header nor its pixels nor its end."""
    critical = (b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS")
    return b"".join(chunk.whole for chunk in chunks(data) if chunk.name not in critical)


def _chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def _unpacked(packed: list[bytes], size: int) -> np.ndarray | None:
    """So many bytes of a stream of zlib; None if it is damaged or has another length. It never unpacks more."""
    stream, parts, left = zlib.decompressobj(), [], size
    try:
        for body in packed:
            while body and left:
                part = stream.decompress(body, min(left, _PIECE))
                body = stream.unconsumed_tail
                if not part and not body:
                    break
                parts.append(part)
                left -= len(part)
    except zlib.error:
        return None
    return None if left else np.frombuffer(b"".join(parts), np.uint8)


def _unfiltered(filters: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The bytes of the pixels, (H, W, bytes), before they were filtered.

    A byte depends on those to its left, above, and above to the left. All rows are undone together, each one pixel
    behind the row above it, since a loop over single pixels would take minutes.
    """
    height, width, depth = values.shape
    # Row y's pixel x stands in column x + y: a column then depends on the two before it alone.
    steps = height + width - 1
    made = np.zeros((3, height + 1, depth), np.uint8)  # the last three columns, below a row of zeros
    result = np.zeros((height, width, depth), np.uint8)
    kinds = filters[:, None]
    for step in range(steps):
        first, last = max(0, step - width + 1), min(height, step + 1)  # the rows that have a pixel here
        rows = np.arange(first, last)
        columns = step - rows
        left = made[(step - 1) % 3, first + 1 : last + 1] * (columns > 0)[:, None]
        above = made[(step - 1) % 3, first:last]
        corner = made[(step - 2) % 3, first:last] * (columns > 0)[:, None]
        kind = kinds[first:last]
        predicted = np.select(
            [kind == 1, kind == 2, kind == 3, kind == _PAETH],
            [left, above, ((left.astype(np.uint16) + above) // 2).astype(np.uint8), _paeth(left, above, corner)],
            np.uint8(0),
        )
        found = values[rows, columns] + predicted
        result[rows, columns] = found
        made[step % 3, first + 1 : last + 1] = found
    return result


def _neighbours(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The bytes to the left, above, and above to the left of every pixel; zeros beyond the border."""
    left, above, corner = (np.zeros_like(values) for _ in range(3))
    left[:, 1:], above[1:], corner[1:, 1:] = values[:, :-1], values[:-1], values[:-1, :-1]
    return left, above, corner


def _paeth(left: np.ndarray, above: np.ndarray, corner: np.ndarray) -> np.ndarray:
    """The neighbour that is nearest to left + above - corner, in this order."""
    a, b, c = (x.astype(np.int16) for x in (left, above, corner))
    to_left, to_above, to_corner = np.abs(b - c), np.abs(a - c), np.abs(a + b - 2 * c)
    return np.where(
        (to_left <= to_above) & (to_left <= to_corner), left, np.where(to_above <= to_corner, above, corner)
    )
