"""How many bits the samples of a file have, by its header: 16 are kept for PNG and TIFF, and 8 for the rest."""

import re

from cassr_jax.imaging.side_chunks import JPEG2000_SIGNATURE, PNG_SIGNATURE, boxes

_COMMENT = re.compile(rb"#[^\n]*")
_HEADER = 4096  # bytes that hold a PPM's header, comments included


def bits_per_sample(data: bytes) -> int:
    """The most bits of a sample in a file that is no TIFF; 8 if its header names no number."""
    if data.startswith(PNG_SIGNATURE):
        return max(data[24:25], default=8)
    if data[4:12] == JPEG2000_SIGNATURE:
        headers = [data[at:end] for at, end in boxes(data, 0, len(data), (b"jp2h", b"ihdr"))]
        # The highest bit is the sign; 255 says that the depths differ.
        return max((body[10] % 128 + 1 for body in headers if len(body) > 10 and body[10] < 255), default=8)
    if data[4:8] == b"ftyp":
        headers = [data[at:end] for at, end in boxes(data, 0, len(data), (b"meta", b"iprp", b"ipco", b"pixi"))]
        return max((bits for body in headers for bits in body[5:]), default=8)
    words = _COMMENT.sub(b" ", data[:_HEADER]).split(maxsplit=4)
    if words[:1] in ([b"P2"], [b"P3"], [b"P5"], [b"P6"]) and len(words) > 3 and words[3].isdigit():
        return int(words[3]).bit_length()
    return 8


def lost(bits: int, kept: int = 8) -> tuple[str, ...]:
    """The warning for a file with so many bits, if fewer are kept."""
    return (f"its {bits} bits per sample become {kept}",) if bits > kept else ()
