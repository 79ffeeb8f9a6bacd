"""HEIC and JPEG XL, which Pillow reads with plug-ins that need not be installed."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cassr_jax.imaging import io
from cassr_jax.imaging.decoding import PLUGINS
from cassr_jax.imaging.inputs import count_suffixes
from tests.imaging import pictures

WITHOUT = """
import sys
sys.modules["pillow_heif"] = sys.modules["pillow_jxl"] = None
from pathlib import Path
from cassr_jax.errors import InputError
from cassr_jax.imaging import inputs, io
print(inputs.count_suffixes([Path("a.HEIC"), Path("b.jxl"), Path("c.psd")]))
print({".heic", ".heif", ".hif", ".jxl"} <= inputs.OTHER_SUFFIXES)
try:
    io.decoded(b"nothing", Path("a.heic"))
except InputError as error:
    print(error)
"""


@pytest.mark.parametrize(("name", "package"), [("HEIF", "pillow_heif"), ("JXL", "pillow_jxl")])
def test_with_its_plug_in_a_photograph_is_read_upright_with_its_metadata(tmp_path, name, package):
    pytest.importorskip(package)
    exif = Image.Exif()
    exif[0x010F], exif[io.EXIF_ORIENTATION] = "Maker", 6
    options = {"lossless": True} if name == "JXL" else {"quality": -1, "chroma": 444}
    image = Image.fromarray(pictures.photograph(24, 32))
    data = pictures.encoded(image, name, exif=exif.tobytes(), **options)
    file = tmp_path / f"a{PLUGINS[name][0]}"
    file.write_bytes(data)
    picture = io.read(file)
    expected = np.asarray(image) if name == "JXL" else np.asarray(image.transpose(io.TURNS[6]))
    assert picture.rgb.shape == expected.shape
    assert np.abs(picture.rgb.astype(int) - expected).mean() < 2
    io.write(tmp_path / "out.jpg", picture)
    with Image.open(tmp_path / "out.jpg") as written:
        assert written.getexif()[0x010F] == "Maker"
        assert written.getexif().get(io.EXIF_ORIENTATION, 1) == 1
    cut = file.with_name(f"cut{file.suffix}")
    cut.write_bytes(data[: len(data) // 2])
    with pytest.raises(io.InputError, match=r"cut\.\w+: "):
        io.read(cut)


def test_without_its_plug_in_it_is_named_with_what_it_takes():
    ran = subprocess.run([sys.executable, "-c", WITHOUT], capture_output=True, text=True, check=True)
    told, known, error = ran.stdout.splitlines()
    assert told == "1 .heic, 1 .jxl, 1 .psd (HEIC and JPEG XL need the extra `heif`)"
    assert known == "True"
    assert error.startswith("a.heic: not a picture that can be read, expected one of PNG, JPEG")
    assert error.endswith("JPEG2000, or with the extra `heif` HEIF, JXL")


def test_other_kinds_are_only_counted():
    assert count_suffixes([Path("a.psd"), Path("b.psd")]) == "2 .psd"
