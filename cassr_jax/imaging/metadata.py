"""What a file says besides its pixels: EXIF, XMP, IPTC, resolution and texts, carried from a picture to its result.

All of it is somebody else's bytes. What cannot be read or does not fit is named and left out; it is never a reason to
refuse a picture.
"""

import io
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from PIL import Image
from PIL.ExifTags import IFD
from PIL.PngImagePlugin import PngInfo

Strip = Literal["gps", "all"]

XMP_KEYWORD = "XML:com.adobe.xmp"  # of a PNG's text

_LARGEST = 2**24  # bytes of any part; larger ones are no metadata of a photograph
_LONGEST_NAME = 79  # of a PNG's text
_SEGMENT = 65_533  # bytes of a JPEG's segment
_ORIENTATION, _IPTC_RESOURCE = 0x0112, 0x0404
_WIDTH, _HEIGHT, _MAKER_NOTE = 0xA002, 0xA003, 0x927C
_X_RESOLUTION, _Y_RESOLUTION, _RESOLUTION_UNIT = 0x011A, 0x011B, 0x0128
_INCH, _CENTIMETRE = 2, 3
# Tags that say how a TIFF stores its pixels, or hold what is carried apart: XMP, IPTC, the profile, Photoshop's layers.
_STRUCTURE = frozenset(
    [
        *(*range(254, 263), 266, 273, 274, *range(277, 280), 284, *range(290, 294), 297, 301, *range(317, 326), 330),
        *(*range(332, 343), 347, *range(512, 522), *range(529, 533), 700, 33723, 34377, 34675, 37724),
    ]
)
# Texts of a PNG, and the EXIF tags that mean the same.
_TAGS = {"Description": 0x010E, "Software": 0x0131, "Author": 0x013B, "Copyright": 0x8298}
_COMMENT = "Comment"
_GAIN_MAPS = (b"hdrgm:Version", b"ns.apple.com/HDRGainMap", b"urn:iso:std:iso:ts:21496")

_TURNED = re.compile(rb'(tiff:Orientation(?:="|>))\d+')
_SIZES = {
    re.compile(rb'((?:exif:PixelXDimension|tiff:ImageWidth)(?:="|>))\d+'): 1,
    re.compile(rb'((?:exif:PixelYDimension|tiff:ImageLength)(?:="|>))\d+'): 0,
}
_XMP_PLACES = re.compile(
    rb'\s*exif:GPS\w+="[^"]*"|<exif:GPS\w+[^>]*/>|<exif:GPS(\w+)\b[^>]*>.*?</exif:GPS\1>', re.DOTALL
)


@dataclass(frozen=True)
class Metadata:
    """What a picture's file says besides its pixels.

    Attributes:
        exif: as Pillow writes it, with b"Exif" in front; it says nothing of how the picture is turned.
        xmp: the packet, a piece of XML.
        iptc: the records of IPTC-IIM.
        dpi: pixels an inch, across and down.
        texts: keyword -> text, as in a PNG.
        codes: a PNG's cICP: the codes of ITU-T H.273 for primaries, transfer, matrix and range of colours that are not
            sRGB's, such as those of HDR pictures; empty for others.
    """

    exif: bytes = b""
    xmp: bytes = b""
    iptc: bytes = b""
    dpi: tuple[float, float] | None = None
    texts: Mapping[str, str] = field(default_factory=dict)
    codes: bytes = b""

    def without(self, strip: Strip | None) -> "Metadata":
        """Metadata without the place where the picture was taken, without anything, or all of them for None."""
        if strip is None:
            return self
        if strip == "all":
            return Metadata(codes=self.codes)
        exif = _changed(self.exif, lambda exif: exif.__delitem__(IFD.GPSInfo) if IFD.GPSInfo in exif else None)
        return replace(self, exif=exif, xmp=_XMP_PLACES.sub(b"", self.xmp))

    def of_size(self, height: int, width: int) -> "Metadata":
        """The metadata of a picture of that size; a size is corrected where one is given."""

        def resize(exif: Image.Exif) -> None:
            inside = exif.get_ifd(IFD.Exif)
            inside.update({tag: side for tag, side in ((_WIDTH, width), (_HEIGHT, height)) if tag in inside})

        xmp = self.xmp
        for pattern, axis in _SIZES.items():
            xmp = pattern.sub(rb"\g<1>" + str((height, width)[axis]).encode(), xmp)
        return replace(self, exif=_changed(self.exif, resize), xmp=xmp)


def of_tiff(data: bytes) -> tuple[Metadata, list[str]]:
    """The metadata of a TIFF's first page, and a line for each part that is dropped.

    All are dropped if Pillow cannot open it, as it cannot for some kinds of samples.
    """
    try:
        with Image.open(io.BytesIO(data), formats=("TIFF",)) as image:
            return read(image, data, Metadata())
    except Exception:
        return Metadata(), ["its metadata are dropped, since they stand beside samples of a rare kind"]


def read(image: Image.Image, data: bytes, known: Metadata) -> tuple[Metadata, list[str]]:
    """The metadata of a file that Pillow has opened, and a line for each part that is dropped.

    Args:
        data: the file.
        known: what was found without Pillow.
    """
    lost: list[str] = []

    def tried(name: str, make: Callable[[], Any], otherwise: Any) -> Any:
        try:
            found = make()
        except Exception:  # a damaged part raises nearly anything
            lost.append(f"its {name} is damaged and dropped")
            return otherwise
        if isinstance(found, bytes) and len(found) > _LARGEST:
            lost.append(f"its {name} has {len(found):,} bytes and is dropped, expected at most {_LARGEST:,}")
            return otherwise
        return found

    exif = tried("EXIF", lambda: _exif(image), b"")
    xmp = known.xmp or tried("XMP", lambda: _bytes(image.info.get("xmp")), b"")
    iptc = tried("IPTC", lambda: _iptc(image), b"")
    dpi = known.dpi or tried("resolution", lambda: _dpi(image), None)
    comment = _bytes(image.info.get("comment"))[:_LARGEST].decode("utf-8", "replace").strip("\0 \n")
    texts = {**({_COMMENT: comment} if comment else {}), **known.texts}
    if any(mark in data for mark in _GAIN_MAPS):
        lost.append("its gain map, which brightens it on an HDR screen, is dropped, and its XMP with it")
        xmp = b""
    return Metadata(exif, _TURNED.sub(rb"\g<1>1", xmp), iptc, dpi, texts, known.codes), lost


def lost_in_tags(metadata: Metadata) -> list[str]:
    """The names of the texts for which EXIF has no tag, and of the colours that only a PNG can name."""
    lost = [name for name in metadata.texts if name not in _TAGS]
    if metadata.codes:
        primaries, transfer = metadata.codes[:2]
        lost.append(f"colours (primaries {primaries} and transfer {transfer} of ITU-T H.273)")
    return lost


def save_options(metadata: Metadata, format: str) -> tuple[dict[str, Any], list[str]]:
    """The options with which Pillow saves metadata in a format, and the names of the parts that it cannot hold."""
    if format == "PNG":
        return _for_png(metadata)
    lost = [name for name in lost_in_tags(metadata) if not (name == _COMMENT and format == "JPEG")]
    exif = with_texts(metadata)
    if format == "JPEG":
        if len(exif) > _SEGMENT:  # a camera's own notes are most of it
            exif = _changed(exif, lambda found: found.get_ifd(IFD.Exif).pop(_MAKER_NOTE, None))
            lost.append("the maker's notes of its EXIF")
        parts = {"exif": exif, "xmp": metadata.xmp, "comment": metadata.texts.get(_COMMENT, "").encode()}
        lost += [name.upper() for name, part in parts.items() if len(part) > _SEGMENT - 64]
        kept = {name: part for name, part in parts.items() if part and len(part) <= _SEGMENT - 64}
        extra = _photoshop(metadata.iptc)
        if len(extra) > _SEGMENT:
            lost.append("IPTC")
        elif extra:
            kept["extra"] = extra
        return kept | ({"dpi": metadata.dpi} if metadata.dpi else {}), lost
    if metadata.iptc:
        lost.append("IPTC")
    return {name: part for name, part in (("exif", exif), ("xmp", metadata.xmp)) if part}, lost


def _for_png(metadata: Metadata) -> tuple[dict[str, Any], list[str]]:
    texts = PngInfo()
    lost = []
    for name, text in metadata.texts.items():
        try:
            (texts.add_text if text.isascii() else texts.add_itxt)(name, text)
        except (ValueError, UnicodeError):
            lost.append(name)
    if metadata.xmp:
        texts.add_itxt(XMP_KEYWORD, metadata.xmp.decode("utf-8", "replace"))
    if metadata.iptc:  # as ImageMagick and ExifTool keep it
        digits = re.sub(r"(.{72})", r"\1\n", metadata.iptc.hex())
        texts.add_text("Raw profile type iptc", f"\niptc\n{len(metadata.iptc):8}\n{digits}\n", zip=True)
    if metadata.codes:
        texts.add(b"cICP", metadata.codes)
    options: dict[str, Any] = {"pnginfo": texts}
    return options | ({"exif": metadata.exif} if metadata.exif else {}) | (
        {"dpi": metadata.dpi} if metadata.dpi else {}
    ), lost


def _exif(image: Image.Image) -> bytes:
    """The EXIF without what describes the stored pixels; empty if nothing is left."""
    found, kept = image.getexif(), Image.Exif()
    for tag, value in found.items():
        if tag not in _STRUCTURE and tag not in (IFD.Exif, IFD.GPSInfo):
            kept[tag] = value
    for ifd in (IFD.Exif, IFD.GPSInfo):
        if inside := dict(found.get_ifd(ifd)):
            if ifd == IFD.Exif and IFD.Interop in inside:
                inside[IFD.Interop] = dict(found.get_ifd(IFD.Interop))
            kept.get_ifd(ifd).update(inside)
    return kept.tobytes() if len(kept) or any(kept.get_ifd(ifd) for ifd in (IFD.Exif, IFD.GPSInfo)) else b""


def _changed(exif: bytes, change: Callable[[Image.Exif], object]) -> bytes:
    if not exif:
        return exif
    found = Image.Exif()
    found.load(exif)
    for ifd in (IFD.Exif, IFD.GPSInfo):
        found.get_ifd(ifd)  # which is read from the bytes only when it is asked for
    change(found)
    return found.tobytes()


def with_texts(metadata: Metadata) -> bytes:
    """The EXIF with the texts and the resolution that it has tags for, unless it has its own."""
    values = {tag: metadata.texts[name] for name, tag in _TAGS.items() if name in metadata.texts}
    if metadata.dpi is not None:
        values |= {_X_RESOLUTION: metadata.dpi[0], _Y_RESOLUTION: metadata.dpi[1], _RESOLUTION_UNIT: _INCH}
    if not values:
        return metadata.exif

    def add(exif: Image.Exif) -> None:
        for tag, value in values.items():
            if tag not in exif:
                exif[tag] = value

    return _changed(metadata.exif or Image.Exif().tobytes(), add)


def _iptc(image: Image.Image) -> bytes:
    resources = image.info.get("photoshop")
    if isinstance(resources, Mapping):
        return _bytes(resources.get(_IPTC_RESOURCE))
    tags = getattr(image, "tag_v2", None)
    return b"" if tags is None else _bytes(tags.get(33723))


def _photoshop(iptc: bytes) -> bytes:
    """A JPEG's segment that holds IPTC among Photoshop's resources; empty without any."""
    if not iptc:
        return b""
    resource = b"8BIM" + _IPTC_RESOURCE.to_bytes(2, "big") + b"\0\0" + len(iptc).to_bytes(4, "big") + iptc
    body = b"Photoshop 3.0\0" + resource + b"\0" * (len(iptc) % 2)
    return b"\xff\xed" + (len(body) + 2).to_bytes(2, "big") + body if len(body) + 2 <= _SEGMENT else bytes(_SEGMENT + 1)


def _dpi(image: Image.Image) -> tuple[float, float] | None:
    found, exif = image.info.get("dpi"), image.getexif()
    if found is None and _X_RESOLUTION in exif:
        unit = {_INCH: 1.0, _CENTIMETRE: 2.54}.get(exif.get(_RESOLUTION_UNIT, _INCH), 0.0)
        found = tuple(float(exif.get(tag, 0)) * unit for tag in (_X_RESOLUTION, _Y_RESOLUTION))
    if not isinstance(found, tuple) or len(found) != 2:
        return None
    across, down = map(float, found)
    return (across, down) if 1 <= across < 1e6 and 1 <= down < 1e6 else None


def _bytes(found: object) -> bytes:
    return found.encode() if isinstance(found, str) else found if isinstance(found, bytes) else b""


def png_texts(chunks: Mapping[bytes, list[bytes]], unpack: Callable[[bytes], bytes]) -> Iterator[tuple[str, str]]:
    """The keywords and texts of a PNG's chunks (tEXt, zTXt, iTXt), those that are damaged left out.

    Args:
        unpack: undoes the compression of a text.
    """
    for name in (b"tEXt", b"zTXt", b"iTXt"):
        for body in chunks.get(name, []):
            keyword, _, rest = body.partition(b"\0")
            try:
                if name == b"tEXt":
                    text = rest.decode("latin-1")
                elif name == b"zTXt":
                    text = unpack(rest[1:]).decode("latin-1")
                else:
                    body = rest[2:].split(b"\0", 2)[2]
                    text = (unpack(body) if rest[0] else body).decode("utf-8")
            except Exception:  # damaged metadata say nothing about the pixels
                continue
            if keyword and len(keyword) <= _LONGEST_NAME and len(text) <= _LARGEST:
                yield keyword.decode("latin-1"), text
