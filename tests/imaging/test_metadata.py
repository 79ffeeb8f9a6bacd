"""What a file says besides its pixels comes out as it went in, but for what the restoration has changed."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from PIL.ExifTags import IFD
from PIL.PngImagePlugin import PngInfo

from cassr_jax.imaging import io
from cassr_jax.imaging.metadata import Metadata
from tests.imaging import pictures

MAKER, TURNED, TAKEN, WIDTH, HEIGHT, NORTH = 0x010F, 0x0112, 0x9003, 0xA002, 0xA003, 1
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6" exif:PixelXDimension="8" \
exif:PixelYDimension="6" exif:GPSLatitude="1,2N" dc:creator="someone"/></x:xmpmeta>'
IPTC = b"\x1c\x02\x05\x00\x05Title"
SUFFIXES = {"PNG": ".png", "JPEG": ".jpg", "WEBP": ".webp", "TIFF": ".tif"}


def exif() -> Image.Exif:
    made = Image.Exif()
    made[MAKER], made[TURNED] = "Maker", 6
    made[0x011A], made[0x011B], made[0x0128] = 300.0, 300.0, 2  # pixels an inch
    made.get_ifd(IFD.Exif).update({TAKEN: "2020:01:02 03:04:05", WIDTH: 8, HEIGHT: 6})
    made.get_ifd(IFD.GPSInfo).update({NORTH: "N", 2: (1.0, 2.0, 3.5)})
    return made


def app13(iptc: bytes) -> bytes:
    resource = b"8BIM\x04\x04\0\0" + len(iptc).to_bytes(4, "big") + iptc + b"\0" * (len(iptc) % 2)
    body = b"Photoshop 3.0\0" + resource
    return b"\xff\xed" + (len(body) + 2).to_bytes(2, "big") + body


def written(folder: Path, format: str) -> Path:
    """A picture of 8x6 px, to be turned, with all that the format can hold."""
    options: dict = {"exif": exif(), "dpi": (300, 300)}
    if format == "PNG":
        texts = PngInfo()
        texts.add_itxt("XML:com.adobe.xmp", XMP.decode())
        texts.add_text("Author", "An author")
        texts.add_text("Comment", "a word", zip=True)
        texts.add_itxt("Place", "Zürich")
        options["pnginfo"] = texts
    elif format == "TIFF":
        options["exif"] = Image.Exif()
        options["exif"].load(exif().tobytes())
        options["exif"][700], options["exif"][33723] = XMP, IPTC
    else:
        options["xmp"] = XMP
    if format == "JPEG":
        options |= {"comment": "a word", "extra": app13(IPTC)}
    file = folder / f"in{SUFFIXES[format]}"
    file.write_bytes(pictures.encoded(Image.fromarray(pictures.photograph(6, 8)), format, **options))
    return file


def enlarged(picture: io.Picture) -> io.Picture:
    return io.with_rgb(picture, picture.rgb.repeat(4, 0).repeat(4, 1))


def restored(file: Path, suffix: str) -> tuple[io.Picture, list[str], Path]:
    """The result of a picture, read again; what could not be written; and its file."""
    out = file.with_name(f"out{suffix}")
    lost = io.write(out, enlarged(io.read(file)))
    return io.read(out), lost, out


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp"])
@pytest.mark.parametrize("format", SUFFIXES)
def test_all_that_fits_comes_out(tmp_path, format, suffix):
    picture, lost, out = restored(written(tmp_path, format), suffix)
    assert picture.rgb.shape == (32, 24, 3)  # turned, and four times as large
    with Image.open(out) as image:
        found = image.getexif()
        assert found[MAKER] == "Maker"
        assert found.get(TURNED, 1) == 1
        taken = found.get_ifd(IFD.Exif)
        assert (taken[TAKEN], taken[WIDTH], taken[HEIGHT]) == ("2020:01:02 03:04:05", 24, 32)
        assert found.get_ifd(IFD.GPSInfo) == {NORTH: "N", 2: (1.0, 2.0, 3.5)}
    xmp = picture.metadata.xmp
    assert b'tiff:Orientation="1"' in xmp
    assert b'exif:PixelXDimension="24"' in xmp
    assert b'exif:PixelYDimension="32"' in xmp
    assert b'dc:creator="someone"' in xmp
    if suffix != ".webp":
        assert picture.metadata.dpi == pytest.approx((300, 300), abs=0.1)
    if format in ("JPEG", "TIFF"):
        assert ("IPTC" in lost) == (suffix == ".webp")
        if suffix == ".jpg":
            assert picture.metadata.iptc == IPTC
        elif suffix == ".png":
            assert IPTC.hex() in picture.metadata.texts["Raw profile type iptc"].replace("\n", "")
    if format == "PNG":
        if suffix == ".png":
            assert picture.metadata.texts == {"Author": "An author", "Comment": "a word", "Place": "Zürich"}
            assert lost == []
        else:
            with Image.open(out) as image:
                assert image.getexif()[0x013B] == "An author"
            assert lost == (["Place"] if suffix == ".jpg" else ["Comment", "Place"])


@pytest.mark.parametrize("format", SUFFIXES)
def test_the_place_or_everything_is_stripped(tmp_path, format):
    picture = io.read(written(tmp_path, format))
    placeless = picture.metadata.without("gps")
    io.write(tmp_path / "out.jpg", io.Picture(picture.rgb, metadata=placeless))
    with Image.open(tmp_path / "out.jpg") as image:
        assert not image.getexif().get_ifd(IFD.GPSInfo)
        assert image.getexif()[MAKER] == "Maker"
    assert b"GPS" not in placeless.xmp
    assert b"someone" in placeless.xmp
    assert picture.metadata.without("all") == Metadata()
    assert picture.metadata.without(None) is picture.metadata


def test_damaged_parts_are_named_and_the_picture_is_read(tmp_path):
    file = tmp_path / "in.jpg"
    data = pictures.encoded(Image.fromarray(pictures.photograph(6, 8)), "JPEG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff")
    file.write_bytes(data)
    picture = io.read(file)
    assert picture.metadata.exif == b""
    assert io.write(tmp_path / "out.png", picture) == []


def test_notes_too_long_for_a_jpeg_are_left_out_and_named(tmp_path):
    made = exif()
    made.get_ifd(IFD.Exif)[0x927C] = bytes(70_000)
    texts = Metadata(made.tobytes(), xmp=b"x" * 70_000, iptc=bytes(70_000), texts={"Comment": "c" * 70_000})
    picture = io.Picture(pictures.photograph(6, 8), metadata=texts)
    lost = io.write(tmp_path / "out.jpg", picture)
    assert lost == ["the maker's notes of its EXIF", "XMP", "COMMENT", "IPTC"]
    with Image.open(tmp_path / "out.jpg") as image:
        assert image.getexif()[MAKER] == "Maker"
    assert io.write(tmp_path / "out.png", picture) == []


@pytest.mark.parametrize("mark", [b'hdrgm:Version="1.0"', b'xmlns:a="http://ns.apple.com/HDRGainMap/1.0/"'])
def test_a_gain_map_is_named_as_dropped(tmp_path, mark):
    file = tmp_path / "in.jpg"
    xmp = XMP.replace(b"dc:creator", mark + b" dc:creator")
    file.write_bytes(pictures.encoded(Image.fromarray(pictures.photograph(6, 8)), "JPEG", xmp=xmp))
    picture = io.read(file)
    assert picture.metadata.xmp == b""
    assert any("gain map" in warning for warning in picture.warnings)


def test_a_text_that_unpacks_to_too_much_is_cut(tmp_path):
    import zlib

    body = b"Comment\0\0" + zlib.compress(bytes(2**27), 9)
    chunk = len(body).to_bytes(4, "big") + b"zTXt" + body + zlib.crc32(b"zTXt" + body).to_bytes(4, "big")
    data = pictures.encoded(Image.fromarray(np.zeros((2, 2, 3), np.uint8)), "PNG")
    (tmp_path / "bomb.png").write_bytes(data[:33] + chunk + data[33:])
    assert all(len(text) <= 2**24 for text in io.read(tmp_path / "bomb.png").metadata.texts.values())
