"""What a picture needs is known and compared with what the machine has."""

from pathlib import Path

import numpy as np
import pytest

from cassr_jax.errors import InputError
from cassr_jax.imaging import memory


def test_a_picture_that_needs_more_than_there_is_is_refused(monkeypatch):
    monkeypatch.setattr(memory, "installed", lambda: 1_500_000_000)
    memory.check(2000, 3000)
    message = r"^4000x3000 px of output need about 2\.2 GB of memory, expected at most 1\.5 GB, which this machine has;"
    with pytest.raises(InputError, match=message):
        memory.check(3000, 4000)
    monkeypatch.setattr(memory, "installed", lambda: None)  # the system does not say
    memory.check(3000, 4000)


def test_a_container_may_use_less_than_the_machine_has(monkeypatch, tmp_path):
    monkeypatch.setattr(memory, "LIMITS", (tmp_path / "none",))
    whole = memory.installed()
    assert whole is not None
    assert whole > 2**28
    (tmp_path / "limit").write_text("1000000\n")
    (tmp_path / "unlimited").write_text("max\n")
    monkeypatch.setattr(memory, "LIMITS", (tmp_path / "limit", tmp_path / "unlimited"))
    assert memory.installed() == 1_000_000


def test_need_is_that_of_float_pictures():
    picture = np.zeros((300, 400, 3), np.float32)
    assert memory.need(300, 400) == memory.ROOM + memory.COPIES * picture.nbytes
    assert [memory.in_words(size) for size in (10, 10**8, 11_520_000_000)] == ["1 MB", "0.1 GB", "11.5 GB"]


def test_a_narrow_picture_needs_what_its_tiles_need(monkeypatch):
    """4 x 4,000,000 px are 16,000 tiles, which no machine of 64 GB holds."""
    monkeypatch.setattr(memory, "installed", lambda: 64_000_000_000)
    for size in ((4, 4_000_000), (4_000_000, 4)):
        with pytest.raises(InputError, match=r"need about 148\.0 GB of memory"):
            memory.check(*size)


def test_readme_states_the_need():
    readme = (Path(__file__).parents[2] / "README.md").read_text("utf-8")
    each = memory.need(257, 256) - memory.need(256, 256)
    stated = f"{memory.in_words(memory.ROOM)} and {each // 256} bytes for each pixel of the result"
    assert stated in readme.replace("\n", " ")
    assert [round(memory.need(3000 * scale, 4000 * scale) / 1e9) for scale in (4, 2)] == [28, 7]
