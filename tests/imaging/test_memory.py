"""What a picture needs is known and compared with what the machine has."""

import numpy as np
import pytest

from cassr_jax.errors import InputError
from cassr_jax.imaging import memory


def test_a_picture_that_needs_more_than_there_is_is_refused(monkeypatch):
    monkeypatch.setattr(memory, "installed", lambda: 2_000_000_000)
    memory.check(2000, 3000)
    message = r"^4000x3000 px of output need about 2\.9 GB of memory, expected at most 2\.0 GB, which this machine has;"
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
    picture = np.zeros((30, 40, 3), np.float32)
    assert memory.need(30, 40) == memory.COPIES * picture.nbytes
    assert [memory.in_words(size) for size in (10, 10**8, 11_520_000_000)] == ["1 MB", "0.1 GB", "11.5 GB"]
