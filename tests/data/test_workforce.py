"""How many threads and processes make records."""

import pytest

from cassr_jax.data import workforce as module
from cassr_jax.data.config import DataConfig
from cassr_jax.data.workforce import usable_cores, workforce


@pytest.mark.parametrize(
    ("workers", "threads", "cores", "expected"),
    [
        (None, None, 1, (0, 2)),
        (None, None, 3, (0, 3)),
        (None, None, 4, (3, 1)),
        (None, None, 16, (15, 1)),
        (None, None, 224, (32, 6)),
        (None, 4, 17, (4, 4)),
        (None, 0, 8, (7, 0)),
        (None, 64, 8, (0, 64)),
        (0, None, 16, (0, 16)),
        (4, None, 17, (4, 4)),
        (20, None, 8, (20, 1)),
        (3, 2, 64, (3, 2)),
    ],
)
def test_the_hosts_cores_are_shared_out_unless_set(workers, threads, cores, expected, monkeypatch):
    monkeypatch.setattr(module, "FEWEST_CORES", 4)
    assert workforce(DataConfig("anywhere", num_workers=workers, num_threads=threads), cores) == expected


def test_there_is_a_core_to_use():
    assert usable_cores()
