"""The seconds of collectives and of work, beside formulas worked out by hand."""

from dataclasses import dataclass, replace
from types import SimpleNamespace

import numpy as np
import pytest

from cassr_jax.sharding.chips import CHIPS
from cassr_jax.sharding.costs import Collective, Work
from cassr_jax.sharding.times import Links, Reach, Times, collective_seconds, reach, work_seconds

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
    return Collective(kind, ("fsdp",), tuple(range(group)), group, nbytes, 1, True, "", "a", "a")


def ring(side: int, links: float = 1.0, hosts: int = 1) -> Reach:
    return Reach(((side, links),), hosts, side)


def along(devices: np.ndarray, axes: tuple[str, ...]) -> list[Core]:
    """The first of the groups along some axes."""
    return list(np.atleast_1d(devices[tuple(slice(None) if name in axes else 0 for name in NAMES)]).flat)


@pytest.mark.parametrize(
    ("devices", "axes", "chip", "expected"),
    [
        (torus(2, 4), ("fsdp",), V5E, ring(4)),  # a row of four
        (torus(16, 16), ("fsdp",), V5E, ring(16, 2.0)),
        (torus(16, 16), NAMES, V5E, Reach(((16, 2.0), (16, 2.0)), 1, 256)),
        (torus(8, 16), NAMES, V5E, Reach(((8, 1.0), (16, 2.0)), 1, 128)),  # only the longer side closes
        (torus(4, 4, 4), NAMES, V5P, Reach(((4, 2.0), (4, 2.0), (4, 2.0)), 1, 64)),
        (torus(4, 4, 4), ("data",), V5P, ring(4, 2.0)),
        (torus(2, 2, 4), NAMES, V5P, Reach(((2, 1.0), (2, 1.0), (4, 1.0)), 1, 16)),  # no cube of four, so none closes
        (servers(4, 8), ("fsdp",), H200, ring(8)),
        (servers(4, 8), ("data",), H200, ring(1, hosts=4)),
        (servers(4, 8), NAMES, H200, ring(8, hosts=4)),
    ],
)
def test_which_links_join_a_group(devices: np.ndarray, axes: tuple[str, ...], chip, expected: Reach):
    assert reach(along(devices, axes), list(devices.flat), chip) == expected


def test_groups_that_lie_in_turns_share_the_links_between_them():
    """Two chips of a row of eight, four apart: the groups of the chips in between send over the same links."""
    row = torus(8, 1)
    assert reach([row[0, 0], row[4, 0]], list(row.flat), V5E) == Reach(((2, 0.25),), 1, 2)


@pytest.mark.parametrize(
    ("found", "joined", "chip", "expected"),
    [
        (call("all-gather", 8), ring(8), H200, 8e6 * 7 / 8 / 450e9),
        (call("reduce-scatter", 8), ring(8), H200, 8e6 * 7 / 8 / 450e9),
        (call("all-reduce", 8), ring(8), H200, 2 * 8e6 * 7 / 8 / 450e9),
        (call("all-to-all", 8), ring(8), H200, 8e6 * 7 / 8 / 450e9),
        (call("all-to-all", 32), ring(8, hosts=4), H200, 8e6 * 24 / 32 / 50e9),  # each card sends its own array
        (call("all-gather", 32), ring(8, hosts=4), H200, 8e6 * 7 / 8 / 450e9),  # its 8 cards send faster
        (call("all-gather", 32), ring(1, hosts=32), H200, 8e6 * 31 / 32 / 50e9),
        (call("all-gather", 4), ring(1, hosts=4), H200, 8e6 * 3 / 4 / 50e9),
        (call("collective-permute", 8), ring(8), H200, 8e6 / 450e9),
        (call("collective-permute", 8), ring(4, hosts=2), H200, 8e6 / 50e9),
        (call("all-gather", 16), ring(16, 2.0), V5E, 8e6 * 15 / 16 / 100e9),
        (call("all-to-all", 16), ring(16, 2.0), V5E, 16 * 8e6 / 4 / 100e9),
        # Half of the chips have a quarter of all for the other half, over the 32 links of the cut through two rings.
        (call("all-to-all", 256), Reach(((16, 2.0), (16, 2.0)), 1, 256), V5E, 256 * 8e6 / 4 / (32 * 50e9)),
        (call("collective-permute", 16), ring(16, 2.0), V5E, 8e6 / 50e9),
        (call("all-reduce", 1), ring(1), V5E, 0.0),
    ],
)
def test_seconds_of_a_collective(found: Collective, joined: Reach, chip, expected: float):
    assert collective_seconds(found, joined, chip) == pytest.approx(expected)


def test_devices_that_follow_no_axis_are_timed_as_they_lie():
    """A pair within a host of GPUs does not go over the network, though the mesh extends over four hosts."""
    links = Links(SimpleNamespace(devices=servers(4, 8), axis_names=NAMES), H200)
    pair = replace(call("all-reduce", 2), axes=None, members=(3, 5))
    assert links.seconds(pair) == pytest.approx(2 * 8e6 / 2 / 450e9)
    assert links.seconds(replace(pair, members=(3, 11))) == pytest.approx(2 * 8e6 / 2 / 50e9)


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
