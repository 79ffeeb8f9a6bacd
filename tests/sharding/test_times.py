"""The seconds of collectives and of work, beside formulas worked out by hand."""

from dataclasses import dataclass

import numpy as np
import pytest

from cassr_jax.sharding.chips import CHIPS
from cassr_jax.sharding.costs import Collective, Work
from cassr_jax.sharding.times import Reach, Times, collective_seconds, reach, work_seconds

V5E, V5P, H200 = CHIPS["v5e"], CHIPS["v5p"], CHIPS["h200"]
NAMES = ("data", "fsdp")


@dataclass(frozen=True)
class Core:
    """A device as a topology describes it."""

    coords: tuple[int, ...] = (0, 0, 0)
    process_index: int = 0
    slice_index: int = 0
    platform: str = ""


def torus(*sides: int) -> np.ndarray:
    """The chips of a slice, (first side, the other sides together)."""
    places = [Core((*place, *[0] * (3 - len(sides)))) for place in np.ndindex(*sides)]
    return np.asarray(places, object).reshape(sides[0], -1)


def servers(hosts: int, each: int) -> np.ndarray:
    return np.asarray([Core(process_index=number // each) for number in range(hosts * each)], object).reshape(
        hosts, each
    )


def call(kind: str, group: int, nbytes: int = 8_000_000) -> Collective:
    return Collective(kind, ("fsdp",), group, nbytes, 1, True, "", "a", "a")


@pytest.mark.parametrize(
    ("devices", "axes", "chip", "expected"),
    [
        (torus(2, 4), ("fsdp",), V5E, Reach(1.0, 1, 4)),  # a row of four
        (torus(16, 16), ("fsdp",), V5E, Reach(2.0, 1, 16)),  # a ring
        (torus(16, 16), NAMES, V5E, Reach(4.0, 1, 256)),  # a ring in each dimension
        (torus(4, 4, 4), NAMES, V5P, Reach(6.0, 1, 64)),
        (torus(4, 4, 4), ("data",), V5P, Reach(2.0, 1, 4)),
        (torus(2, 2, 4), NAMES, V5P, Reach(4.0, 1, 16)),  # only the four close
        (servers(4, 8), ("fsdp",), H200, Reach(1.0, 1, 8)),
        (servers(4, 8), ("data",), H200, Reach(1.0, 4, 1)),
        (servers(4, 8), NAMES, H200, Reach(1.0, 4, 8)),
    ],
)
def test_which_links_join_a_group(devices: np.ndarray, axes: tuple[str, ...], chip, expected: Reach):
    assert reach(devices, NAMES, axes, chip) == expected


@pytest.mark.parametrize(
    ("found", "joined", "chip", "expected"),
    [
        (call("all-gather", 8), Reach(1.0, 1, 8), H200, 8e6 * 7 / 8 / 450e9),
        (call("reduce-scatter", 8), Reach(1.0, 1, 8), H200, 8e6 * 7 / 8 / 450e9),
        (call("all-reduce", 8), Reach(1.0, 1, 8), H200, 2 * 8e6 * 7 / 8 / 450e9),
        (call("all-to-all", 8), Reach(1.0, 1, 8), H200, 8e6 * 7 / 8 / 450e9),
        (call("all-gather", 32), Reach(1.0, 4, 8), H200, 8e6 * 7 / 8 / 450e9),  # its 8 cards send faster
        (call("all-gather", 32), Reach(1.0, 32, 1), H200, 8e6 * 31 / 32 / 50e9),
        (call("all-gather", 4), Reach(1.0, 4, 1), H200, 8e6 * 3 / 4 / 50e9),
        (call("collective-permute", 8), Reach(1.0, 1, 8), H200, 8e6 / 450e9),
        (call("collective-permute", 8), Reach(1.0, 2, 4), H200, 8e6 / 50e9),
        (call("all-gather", 16), Reach(2.0, 1, 16), V5E, 8e6 * 15 / 16 / 100e9),
        (call("all-to-all", 16), Reach(2.0, 1, 16), V5E, 16 * 8e6 / 4 / 100e9),
        (call("collective-permute", 16), Reach(2.0, 1, 16), V5E, 8e6 / 50e9),
        (call("all-reduce", 1), Reach(1.0, 1, 1), V5E, 0.0),
    ],
)
def test_seconds_of_a_collective(found: Collective, joined: Reach, chip, expected: float):
    assert collective_seconds(found, joined, chip) == pytest.approx(expected)


def test_work_is_limited_by_its_products_or_its_memory():
    assert work_seconds(Work(flops=989e12, nbytes=1), H200) == pytest.approx(1)
    assert work_seconds(Work(flops=989e12, float32=True), H200) == pytest.approx(2)
    assert work_seconds(Work(flops=1, nbytes=4.8e12), H200) == pytest.approx(1)


def test_bounds_and_guess():
    times = Times(products=3.0, memory=2.0, work=4.0, collectives=5.0, hidden=2.0)
    assert (times.least, times.most, times.guess) == (5.0, 9.0, 7.0)
    assert times.exposed == pytest.approx(3 / 7)


def test_the_table_of_chips_is_sound():
    """Google states 400 GB/s for all links of a v5e in both directions, and so on."""
    stated = {"v5e": 400e9, "v5p": 1200e9, "v6e": 800e9}
    for name, total in stated.items():
        chip = CHIPS[name]
        assert 2 * chip.dimensions * 2 * chip.link == pytest.approx(total)
    for chip in CHIPS.values():
        assert chip.flops_float32 in (chip.flops, chip.flops / 2)
        assert 1e10 < chip.memory < chip.bandwidth < chip.flops
