"""The metadata of a file: used where they describe the pixels, and no reason to refuse a picture where damaged."""

import struct
import zlib
from collections.abc import Iterator
from typing import NamedTuple

from cassr_jax.imaging.metadata import XMP_KEYWORD, Metadata, png_texts

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
JPEG2000_SIGNATURE = b"jP  \r\n\x87\n"  # from the fifth byte on
PIXEL_CHUNKS = (b"tRNS", b"acTL", b"fcTL", b"fdAT")  # chunks that Pillow needs besides the critical ones
LARGEST_PROFILE = 2**26  # bytes, unpacked
LARGEST_TEXT = 2**24
INCH = 0.0254  # m
WEBP_METADATA = 0x0C  # the feature bits for EXIF and XMP
SRGB_CHROMATICITIES = (31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000)
SRGB_GAMMA = 45455
# Codes of ITU-T H.273 for sRGB, nearly sRGB, or unspecified colours.
PRIMARIES, TRANSFERS = (1, 2), (1, 2, 6, 13, 14, 15)
NOT_SRGB = "its colours are not sRGB ({}) and are taken for it"


class Chunk(NamedTuple):
    name: bytes
    body: bytes
    whole: bytes
    sound: bool


class Sides(NamedTuple):
    """A file prepared for decoding, and what its metadata say.

    Attributes:
        data: the file without damaged metadata that a decoder would refuse.
        icc: a colour profile that Pillow does not find.
        metadata: those that Pillow does not find.
        warnings: a line for each property that is lost.
    """

    data: bytes
    icc: bytes | None = None
    warnings: tuple[str, ...] = ()
    metadata: Metadata = Metadata()


def sides(data: bytes) -> Sides:
    """Reads and mends the metadata of a file of any format."""
    if data.startswith(PNG_SIGNATURE):
        return _of_png(data)
    if data[4:12] == JPEG2000_SIGNATURE:
        return _of_jpeg2000(data)
    if data[4:8] == b"ftyp":
        return _of_avif(data)
    if data[:4] == b"RIFF" and data[8:16] == b"WEBPVP8X":
        return _of_webp(data)
    return Sides(data)


def _of_png(data: bytes) -> Sides:
    kept, warnings, colors = [PNG_SIGNATURE], [], {}
    others: dict[bytes, list[bytes]] = {}
    for chunk in chunks(data):
        if chunk.name[:1].isupper() or chunk.name in PIXEL_CHUNKS:
            kept.append(chunk.whole)
        elif not chunk.sound:
            warnings.append(f"its chunk {chunk.name.decode('latin-1')!r} is damaged and ignored")
        elif chunk.name == b"eXIf":
            kept.append(chunk.whole)
        elif chunk.name in (b"cICP", b"iCCP", b"sRGB", b"gAMA", b"cHRM"):
            colors.setdefault(chunk.name, chunk.body)
        else:
            others.setdefault(chunk.name, []).append(chunk.body)
    codes = colors.get(b"cICP", b"")
    icc, warning = _png_colors(colors)
    texts = dict(png_texts(others, lambda body: _unpacked(body, LARGEST_TEXT)))
    metadata = Metadata(
        xmp=texts.pop(XMP_KEYWORD, "").encode(), dpi=_png_dpi(others), texts=texts, codes=_of_codes(codes)
    )
    return Sides(b"".join(kept), icc, (*warnings, *warning), metadata)


def _png_dpi(chunks: dict[bytes, list[bytes]]) -> tuple[float, float] | None:
    body = chunks.get(b"pHYs", [b""])[0]
    if len(body) != 9 or body[8] != 1:  # which are not metres, but a ratio
        return None
    across, down = (round(number * INCH, 2) for number in struct.unpack(">II", body[:8]))
    return (across, down) if min(across, down) >= 1 else None


def _unpacked(body: bytes, most: int) -> bytes:
    return zlib.decompressobj().decompress(body, most)


def chunks(data: bytes) -> Iterator[Chunk]:
    """A PNG's chunks up to its end; the last one may be cut short."""
    at = len(PNG_SIGNATURE)
    while at < len(data):
        (length,) = struct.unpack(">I", data[at : at + 4].rjust(4, b"\xff"))
        whole = data[at : at + 12 + length]
        name, body, check = whole[4:8], whole[8:-4], whole[-4:]
        sound = zlib.crc32(name + body) == int.from_bytes(check, "big")
        yield Chunk(name, body, whole, sound)
        at += 12 + length
        if name == b"IEND":
            return


def _png_colors(chunks: dict[bytes, bytes]) -> tuple[bytes | None, list[str]]:
    """The profile and the warnings, by the standard's order of precedence."""
    if len(chunks.get(b"cICP", b"")) == 4:
        return None, []
    if (profile := chunks.get(b"iCCP")) is not None:
        try:
            return _unpacked(profile[profile.index(b"\0") + 2 :], LARGEST_PROFILE), []
        except (ValueError, zlib.error):
            return None, ["its colour profile is damaged, so it is taken for sRGB"]
    if b"sRGB" in chunks:
        return None, []
    lost = []
    if (gamma := _numbers(chunks.get(b"gAMA"), 1)) and abs(gamma[0] - SRGB_GAMMA) > 1000:
        lost.append(f"gAMA {gamma[0] / 100_000:g}")
    if (colors := _numbers(chunks.get(b"cHRM"), 8)) and any(
        abs(found - expected) > 1000 for found, expected in zip(colors, SRGB_CHROMATICITIES, strict=True)
    ):
        lost.append("cHRM")
    return None, [NOT_SRGB.format(", ".join(lost))] if lost else []


def _numbers(body: bytes | None, count: int) -> tuple[int, ...]:
    return struct.unpack(f">{count}I", body) if body is not None and len(body) == 4 * count else ()


def _of_codes(codes: bytes) -> bytes:
    """The codes of a PNG's cICP if they name other colours than sRGB's; nothing otherwise."""
    return codes if len(codes) == 4 and not (codes[0] in PRIMARIES and codes[1] in TRANSFERS) else b""


def _of_jpeg2000(data: bytes) -> Sides:
    for start, end in boxes(data, 0, len(data), (b"jp2h", b"colr")):
        if end > start + 3 and data[start] in (2, 3):  # a profile, restricted or not
            return Sides(data, data[start + 3 : end])
    return Sides(data)


def _of_webp(data: bytes) -> Sides:
    """The file without the metadata after the pixels, if those are cut short."""
    at = 12
    while at + 8 <= len(data):
        name, end = data[at : at + 4], at + 8 + int.from_bytes(data[at + 4 : at + 8], "little")
        if end > len(data) and name in (b"EXIF", b"XMP "):
            features = data[20] & ~WEBP_METADATA
            size = (at - 8).to_bytes(4, "little")
            whole = b"RIFF" + size + data[8:20] + bytes([features]) + data[21:at]
            return Sides(whole, None, (f"its chunk {name.decode().strip()!r} is cut short and ignored",))
        at = end + end % 2
    return Sides(data)


def _of_avif(data: bytes) -> Sides:
    found = [data[start:end] for start, end in boxes(data, 0, len(data), (b"meta", b"iprp", b"ipco", b"colr"))]
    codes = [struct.unpack(">HH", body[4:8]) for body in found if body[:4] == b"nclx" and len(body) >= 8]
    if not codes or any(body[:4] in (b"prof", b"rICC") for body in found):  # a profile takes precedence
        return Sides(data)
    primaries, transfer = codes[0]
    whole = bytes([primaries, transfer, 0, 1]) if max(codes[0]) < 2**8 else b""  # RGB of the full range, decoded
    return Sides(data, metadata=Metadata(codes=_of_codes(whole)))


def boxes(data: bytes, start: int, end: int, path: tuple[bytes, ...]) -> Iterator[tuple[int, int]]:
    """The ranges of the contents of the boxes at `path` (ISO 14496-12; JPEG 2000 has the same boxes)."""
    while start + 8 <= end:
        size, header = int.from_bytes(data[start : start + 4], "big"), 8
        if size == 1:
            size, header = int.from_bytes(data[start + 8 : start + 16], "big"), 16
        stop = end if size == 0 else min(start + size, end)
        if stop < start + header:
            return
        name, inside = data[start + 4 : start + 8], start + header
        if name == path[0] and len(path) == 1:
            yield inside, stop
        elif name == path[0]:
            yield from boxes(data, inside + 4 * (name == b"meta"), stop, path[1:])
        start = stop
