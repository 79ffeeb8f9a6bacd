"""What stands beside the pixels decides nothing about them, and what it says of their colours is not lost silently."""

import zlib

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms, ImageFile

from cassr_jax.errors import InputError
from cassr_jax.imaging import io, jpeg
from cassr_jax.imaging.decoding import MAX_INPUT_PIXELS
from cassr_jax.imaging.side_chunks import sides
from tests.imaging import pictures

PHOTOGRAPH = pictures.photograph()
PNG = pictures.encoded(Image.fromarray(PHOTOGRAPH), "PNG")
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
LARGE = np.random.default_rng(0).bytes(2**21)


def read(path, data: bytes) -> io.Picture:
    (path / "a").write_bytes(data)
    return io.read(path / "a")


# PNG


@pytest.mark.parametrize(
    "chunk",
    [
        pictures.chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(2**21))),
        pictures.chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(bytes(2**21))),
        pictures.chunk(b"tEXt", b"Comment\0" + bytes(2**21)),
        pictures.chunk(b"zTXt", b"Comment\0\0" + b"no stream"),
    ],
    ids=["zTXt", "iTXt", "tEXt", "damaged stream"],
)
def test_text_of_any_size_costs_nothing(tmp_path, chunk):
    picture = read(tmp_path, pictures.with_chunks(PNG, chunk))
    assert np.array_equal(picture.rgb, PHOTOGRAPH)
    assert picture.warnings == ()


@pytest.mark.parametrize("name", [b"tEXt", b"eXIf", b"gAMA", b"iCCP"])
def test_a_bad_check_sum_beside_the_pixels_is_a_warning(tmp_path, name):
    picture = read(tmp_path, pictures.with_chunks(PNG, pictures.chunk(name, b"abcd", sound=False)))
    assert np.array_equal(picture.rgb, PHOTOGRAPH)
    assert picture.warnings == (f"its chunk '{name.decode()}' is damaged and ignored",)


def test_a_text_behind_the_pixels_that_is_cut_is_a_warning(tmp_path):
    end = pictures.chunk(b"IEND", b"")
    picture = read(tmp_path, PNG.removesuffix(end) + pictures.chunk(b"tEXt", b"Comment\0Hello")[:-7])
    assert np.array_equal(picture.rgb, PHOTOGRAPH)
    assert picture.warnings == ("its chunk 'tEXt' is damaged and ignored",)


def test_a_bad_check_sum_of_pixels_is_damage(tmp_path):
    at = PNG.index(b"IDAT") + 20
    with pytest.raises(InputError, match="damaged"):
        read(tmp_path, PNG[:at] + bytes([PNG[at] ^ 1]) + PNG[at + 1 :])
    with pytest.raises(InputError):  # transparency is pixels too
        read(tmp_path, pictures.with_chunks(PNG, pictures.chunk(b"tRNS", bytes(6), sound=False)))


def test_a_profile_of_any_size_is_carried(tmp_path):
    profile = pictures.chunk(b"iCCP", b"large\0\0" + zlib.compress(SRGB + LARGE))
    picture = read(tmp_path, pictures.with_chunks(PNG, profile))
    assert picture.icc == SRGB + LARGE
    damaged = read(tmp_path, pictures.with_chunks(PNG, pictures.chunk(b"iCCP", b"bad\0\0no stream")))
    assert damaged.icc is None
    assert damaged.warnings == ("its colour profile is damaged, so it is taken for sRGB",)


GAMMA, SRGB_GAMMA = (pictures.chunk(b"gAMA", value.to_bytes(4, "big")) for value in (100_000, 45_455))
WIDE, SRGB_COLORS = (
    pictures.chunk(b"cHRM", b"".join(value.to_bytes(4, "big") for value in values))
    for values in (
        (31270, 32900, 68000, 32000, 26500, 69000, 15000, 6000),
        (31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000),
    )
)


@pytest.mark.parametrize(
    ("chunks", "found"),
    [
        ([GAMMA], "gAMA 1"),
        ([WIDE, SRGB_GAMMA], "cHRM"),
        ([SRGB_GAMMA, SRGB_COLORS], None),
        ([GAMMA, pictures.chunk(b"sRGB", b"\0")], None),
        ([GAMMA, pictures.chunk(b"iCCP", b"p\0\0" + zlib.compress(SRGB))], None),
        ([WIDE, pictures.chunk(b"cICP", bytes([1, 13, 0, 1]))], None),
    ],
)
def test_colours_that_are_not_srgb_are_told(tmp_path, chunks, found):
    warnings = read(tmp_path, pictures.with_chunks(PNG, *chunks)).warnings
    assert len(warnings) == (found is not None)
    assert found is None or f"not sRGB ({found}" in warnings[0]


def test_codes_of_other_colours_are_carried_into_a_png_and_told_for_others(tmp_path):
    codes = bytes([9, 16, 0, 1])  # BT.2020 and PQ
    picture = read(tmp_path, pictures.with_chunks(PNG, pictures.chunk(b"cICP", codes), pictures.chunk(b"sRGB", b"\0")))
    assert (picture.warnings, picture.metadata.codes) == ((), codes)
    assert io.write(tmp_path / "a.png", io.in_colors_of(picture, picture.rgb)) == []
    assert io.read(tmp_path / "a.png").metadata.codes == codes
    assert picture.metadata.without("all").codes == codes
    assert io.write(tmp_path / "a.jpg", picture) == ["colours (primaries 9 and transfer 16 of ITU-T H.273)"]
    assert (
        read(tmp_path, pictures.with_chunks(PNG, pictures.chunk(b"cICP", bytes([1, 13, 0, 1])))).metadata.codes == b""
    )


# JPEG

BASELINE, PROGRESSIVE = (
    pictures.encoded(Image.fromarray(PHOTOGRAPH), "JPEG", progressive=progressive) for progressive in (False, True)
)
TRAILER = b"\0\0\x01\n\x0e\0\0\0Image_UTC_Data1500000000000SEFHk\0\0\0\x01\0\0\0\0\0\x01\n#\0\0\0\x24\0\0\0SEFT"
EMBEDDED = b"\0" + pictures.encoded(Image.new("RGB", (8, 8)), "JPEG")


@pytest.mark.parametrize("data", [BASELINE, PROGRESSIVE], ids=["baseline", "progressive"])
@pytest.mark.parametrize("tail", [b"", b"\xff", TRAILER, EMBEDDED], ids=["cut", "cut by one", "trailer", "embedded"])
def test_a_jpeg_that_lacks_only_its_end_marker_is_read_with_a_warning(tmp_path, data, tail):
    whole = read(tmp_path, data)
    picture = read(tmp_path, data[:-2] + tail)
    assert np.array_equal(picture.rgb, whole.rgb)
    # A baseline picture is complete with its last sample, and a trailer's zeros are read as no marker behind it.
    unnoticed = data is BASELINE and tail is TRAILER
    assert picture.warnings == (() if unnoticed else ("its end marker is missing, but no pixel is",))
    assert whole.warnings == ()


@pytest.mark.parametrize("data", [BASELINE, PROGRESSIVE], ids=["baseline", "progressive"])
def test_a_jpeg_with_its_end_marker_is_not_decoded_for_it(monkeypatch, data):
    monkeypatch.setattr(Image, "open", lambda *args, **options: pytest.fail("decoded"))
    assert jpeg.with_end(data) is None


@pytest.mark.parametrize("side", [9000, 50_000], ids=["over our limit", "over Pillow's limit"])
@pytest.mark.parametrize("missing", [0, 2], ids=["whole", "without its end"])
def test_a_jpeg_that_is_too_large_is_refused_from_its_header(tmp_path, monkeypatch, side, missing):
    frame = BASELINE.index(b"\xff\xc0") + 5
    data = BASELINE[:frame] + 2 * side.to_bytes(2, "big") + BASELINE[frame + 4 : len(BASELINE) - missing]
    monkeypatch.setattr(jpeg, "with_end", lambda data: pytest.fail("decoded once more"))
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda image: pytest.fail("decoded"))
    with pytest.raises(InputError, match=rf"a: .*{side * side} pixels.*expected at most {MAX_INPUT_PIXELS}"):
        read(tmp_path, data)


def test_a_damaged_jpeg_that_turns_out_too_large_is_an_input_error(tmp_path, monkeypatch):
    """The first reading fails for another reason; the search for the end marker meets Pillow's limit."""
    frame = BASELINE.index(b"\xff\xc0") + 5
    data = BASELINE[:frame] + 2 * (50_000).to_bytes(2, "big") + BASELINE[frame + 4 : -2]

    def damaged(data, path, frame):
        raise InputError(f"{path}: damaged")

    monkeypatch.setattr(io, "_with_sides", damaged)
    with pytest.raises(InputError, match=f"expected at most {MAX_INPUT_PIXELS}"):
        read(tmp_path, data)


@pytest.mark.parametrize("data", [BASELINE, PROGRESSIVE], ids=["baseline", "progressive"])
def test_a_trailer_behind_the_end_is_no_fault(tmp_path, data):
    assert read(tmp_path, data + TRAILER).warnings == ()


@pytest.mark.parametrize("data", [BASELINE, PROGRESSIVE], ids=["baseline", "progressive"])
def test_a_jpeg_that_lacks_more_is_refused(tmp_path, data):
    for missing in (4, 5, 6, 8, 20, 200, 1000):
        with pytest.raises(InputError, match="damaged or cut short"):
            read(tmp_path, data[:-missing])


def test_a_progressive_jpeg_cut_between_two_scans_is_refused(tmp_path):
    starts = [i for i in range(len(PROGRESSIVE)) if PROGRESSIVE[i : i + 2] in (b"\xff\xc4", b"\xff\xda")]
    for start in starts:
        with pytest.raises(InputError, match=r"damaged or cut short|not a picture"):  # the second with Pillow 12
            read(tmp_path, PROGRESSIVE[:start])


# WebP, JPEG 2000 and AVIF


@pytest.mark.parametrize("lossless", [True, False])
def test_metadata_of_a_webp_that_are_cut_are_a_warning(tmp_path, lossless):
    exif = Image.Exif()
    exif[0x010E] = "a description" * 100
    data = pictures.encoded(Image.fromarray(PHOTOGRAPH), "WEBP", lossless=lossless, exif=exif, icc_profile=SRGB)
    whole = read(tmp_path, data)
    for missing in (2, 1000):
        picture = read(tmp_path, data[:-missing])
        assert np.array_equal(picture.rgb, whole.rgb)
        assert picture.icc == SRGB
        assert picture.warnings == ("its chunk 'EXIF' is cut short and ignored",)
    with pytest.raises(InputError, match="damaged"):  # into the pixels
        read(tmp_path, data[: data.index(b"EXIF") - 100])


def test_a_profile_within_jpeg_2000_is_carried(tmp_path):
    data = pictures.encoded(Image.fromarray(PHOTOGRAPH), "JPEG2000")
    assert read(tmp_path, data).icc is None
    at = data.index(b"colr") - 4
    length = int.from_bytes(data[at : at + 4], "big")
    colors = pictures.box(b"colr", b"\2\0\0", SRGB)
    header = data.index(b"jp2h") - 4
    grown = int.from_bytes(data[header : header + 4], "big") + len(colors) - length
    data = data[:header] + grown.to_bytes(4, "big") + data[header + 4 : at] + colors + data[at + length :]
    picture = read(tmp_path, data)
    assert picture.icc == SRGB
    assert picture.warnings == ()


def test_codes_of_an_avif_s_colours_are_carried(tmp_path):
    data = pictures.encoded(Image.fromarray(PHOTOGRAPH), "AVIF")
    assert read(tmp_path, data).warnings == ()
    at = data.index(b"nclx") + 4
    wide = data[:at] + b"\0\x0c\0\x0d" + data[at + 4 :]
    assert read(tmp_path, wide).metadata.codes == bytes([12, 13, 0, 1])
    with_profile = pictures.encoded(Image.fromarray(PHOTOGRAPH), "AVIF", icc_profile=SRGB)
    picture = read(tmp_path, with_profile)
    assert (picture.icc, picture.warnings) == (SRGB, ())


# Damage

SMALL = Image.fromarray(pictures.photograph(4, 4))
CONTAINERS = {
    "PNG": pictures.with_chunks(pictures.encoded(SMALL, "PNG", icc_profile=SRGB[:200]), GAMMA, WIDE),
    "JPEG": pictures.encoded(SMALL, "JPEG"),
    "WEBP": pictures.encoded(SMALL, "WEBP", icc_profile=SRGB[:200], exif=b"Exif\0\0MM\0*\0\0\0\x08\0\0"),
    "JPEG2000": pictures.encoded(SMALL, "JPEG2000"),
    "AVIF": pictures.encoded(SMALL, "AVIF"),
}


@pytest.mark.parametrize("container", CONTAINERS)
def test_a_file_cut_anywhere_has_sides(container):
    whole = CONTAINERS[container]
    assert sides(whole).data
    for length in range(len(whole)):
        assert len(sides(whole[:length]).data) <= length


@settings(deadline=None, max_examples=300)
@given(data=st.data(), container=st.sampled_from(sorted(CONTAINERS)))
def test_damage_to_a_container_never_stops_the_reading_of_its_sides(data, container):
    """Bytes after the signature change, sizes of boxes among them, and the end is cut."""
    damaged = bytearray(CONTAINERS[container])
    for _ in range(data.draw(st.integers(0, 4))):
        damaged[data.draw(st.integers(12, len(damaged) - 1))] = data.draw(st.sampled_from([0, 1, 2, 8, 127, 255]))
    length = data.draw(st.integers(0, len(damaged)))
    assert len(sides(bytes(damaged[:length])).data) <= length


BOXES = st.recursive(
    st.binary(max_size=6),
    lambda inside: st.builds(
        lambda name, size, parts: (size or pictures.box(name, *parts)[:4]) + name + b"".join(parts),
        st.sampled_from([b"jp2h", b"colr", b"meta", b"iprp", b"ipco"]),
        st.none() | st.sampled_from([0, 1, 8, 9, 2**32 - 1]).map(lambda size: size.to_bytes(4, "big")),
        st.lists(inside, max_size=3),
    ),
    max_leaves=8,
)


@settings(deadline=None, max_examples=300)
@given(
    signature=st.sampled_from([b"\0\0\0\x0cjP  \r\n\x87\n", b"\0\0\0\x0cftypavif"]), boxes=st.lists(BOXES, max_size=4)
)
@example(signature=b"\0\0\0\x0cjP  \r\n\x87\n", boxes=[pictures.box(b"jp2h", pictures.box(b"colr"))])
def test_boxes_of_any_kind_and_size_have_sides(signature, boxes):
    data = signature + b"".join(boxes)
    assert sides(data).data == data
