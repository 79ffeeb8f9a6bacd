"""Waves: pictures that go through the networks together, and the device of each of their tiles.

Cutting and blending happen on the host.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float32, Shaped

from cassr_jax.engine.layout import Layout, Tile, TileSize
from cassr_jax.engine.programs import Order
from cassr_jax.imaging import tiling

Pictures = Sequence[Shaped[np.ndarray, "_ _ channels"]]  # of any sizes

# Places of a wave on each device, which hold the embeddings of the images, up to 13 MB a tile at SD-1.5's size. A
# picture with more tiles has a wave of its own with GROWTH times as many places, or GROWTH times those, which hold the
# images.
PLACES = 16
GROWTH = 4


@dataclass(frozen=True)
class Seats:
    """The places of a wave's tiles: each device has `capacity` places and takes a share of consecutive tiles.

    Attributes:
        count: number of tiles in the wave.
        devices: number of devices that share them.
        at_once: tiles on each device in one call of a network.
    """

    count: int
    devices: int
    at_once: int

    @property
    def width(self) -> int:
        """Tiles in one call of a network on all devices."""
        return self.devices * self.at_once

    @property
    def share(self) -> int:
        return -(-self.count // self.devices)

    @property
    def calls(self) -> int:
        return -(-self.share // self.at_once)

    @property
    def capacity(self) -> int:
        """Places on each device; a wave has one of a few sizes."""
        places = usual_places(self.at_once)
        while places < self.share:
            places *= GROWTH
        return -(-places // self.at_once) * self.at_once

    @property
    def keeps_hints(self) -> bool:
        """Whether the devices have room for what the denoiser computes from the images, and need not repeat it."""
        return self.share <= usual_places(self.at_once)

    @property
    def order(self) -> Order:
        return Order(np.int32(self.share), np.int32(self.calls))

    def of_call(self, call: int) -> list[int | None]:
        """The numbers of the tiles in a call, device by device; None for an empty place."""
        slots = range(call * self.at_once, (call + 1) * self.at_once)
        numbers = (
            device * self.share + slot if slot < self.share else None
            for device in range(self.devices)
            for slot in slots
        )
        return [number if number is not None and number < self.count else None for number in numbers]

    def placed(self, values: Shaped[np.ndarray, " count *value"]) -> Shaped[np.ndarray, " places *value"]:
        """Values in the order of tiles -> in the order of places, of which there are devices x capacity."""
        device, slot = np.divmod(np.arange(self.count), self.share)
        places = np.zeros((self.devices * self.capacity, *values.shape[1:]), values.dtype)
        places[device * self.capacity + slot] = values
        return places


@dataclass(frozen=True)
class Wave:
    """Pictures whose tiles have the same size.

    Attributes:
        numbers: the pictures' numbers in the caller's list; everywhere else, pictures are counted within the wave.
        layouts: the layout of each picture.
        seats: the places of the tiles, picture by picture.
    """

    numbers: tuple[int, ...]
    layouts: tuple[Layout, ...]
    seats: Seats

    @property
    def size(self) -> TileSize:
        return self.layouts[0].size

    @cached_property
    def tiles(self) -> list[tuple[int, int]]:
        """(picture, tile within the picture) for each tile number."""
        return [(picture, tile) for picture, each in enumerate(self.layouts) for tile in range(each.count)]

    @property
    def of_several_tiles(self) -> list[int]:
        """The pictures that have several tiles."""
        return [picture for picture, each in enumerate(self.layouts) if each.count > 1]

    @cached_property
    def calls_of_decoder(self) -> list[list[int | None]]:
        """The tile numbers in each of the decoder's calls: first the pictures of one tile, then the others."""
        several = set(self.of_several_tiles)
        single = [number for number, (picture, _) in enumerate(self.tiles) if picture not in several]
        others = [number for number, (picture, _) in enumerate(self.tiles) if picture in several]
        return [*in_calls(single, self.seats.width), *in_calls(others, self.seats.width)]

    @property
    def calls_of_views(self) -> list[list[int | None]]:
        """The pictures in each of the decoder's calls on views of pictures that have several tiles."""
        return in_calls(self.of_several_tiles, self.seats.width)

    def first_tile(self, picture: int) -> int:
        """The number of a picture's first tile."""
        return sum(each.count for each in self.layouts[:picture])

    def pictures_of(self, numbers: Sequence[int | None]) -> list[int]:
        """The picture of each tile; empty places have none."""
        return [self.tiles[number][0] for number in numbers if number is not None]

    def cut(self, pictures: Pictures, number: int) -> Tile:
        """A tile of the pictures."""
        picture, tile = self.tiles[number]
        return self.layouts[picture].cut(pictures[picture], tile)

    def cut_source(self, pictures: Pictures, number: int) -> Tile:
        """The same tile of the pictures before a network enlarges them by the layouts' factor."""
        picture, tile = self.tiles[number]
        return self.layouts[picture].cut_source(pictures[picture], tile)

    def cut_latents(
        self, values: Callable[[int], Float32[np.ndarray, " values"]], channels: int
    ) -> Float32[np.ndarray, "places side side {channels}"]:
        """Cuts planes of latents into tiles in the order of places.

        Args:
            values: gives the first n values of a plane, row by row.
        """
        cuts = []
        for each in self.layouts:
            height, width, side = each.grid.height, each.grid.width, each.size.side
            plane = values(height * width * channels).reshape(height, width, channels)
            cuts += [plane[top : top + side, left : left + side] for top, left in each.grid.corners]
        return self.seats.placed(np.stack(cuts))


def usual_places(at_once: int) -> int:
    """Places on each device in the usual wave: enough for one call at least."""
    return max(PLACES, at_once)


def in_calls(numbers: Sequence[int], width: int) -> list[list[int | None]]:
    """Divides numbers into calls of `width`; empty places fill up the last one."""
    calls: list[list[int | None]] = [[*numbers[begin : begin + width]] for begin in range(0, len(numbers), width)]
    return [call + [None] * (width - len(call)) for call in calls]


def waves(layouts: Sequence[Layout], devices: int, at_once: int) -> list[Wave]:
    """Groups pictures by the size of their tiles, as many in a wave as fit."""
    found: list[list[int]] = []
    for size in sorted({each.size for each in layouts}, key=lambda size: size.side):
        room = 0
        for number in (number for number, each in enumerate(layouts) if each.size == size):
            if layouts[number].count > room:
                found.append([])
                room = usual_places(at_once) * devices
            found[-1].append(number)
            room -= layouts[number].count
    return [
        Wave(tuple(numbers), own, Seats(sum(each.count for each in own), devices, at_once))
        for numbers in found
        for own in [tuple(layouts[number] for number in numbers)]
    ]


class Blend:
    """A picture assembled from its tiles, which are averaged by Gaussian weights where they overlap."""

    def __init__(self, each: Layout):
        self._layout = each
        self.picture = np.zeros((each.height, each.width, 3), np.float32)
        window = tiling.gaussian_weights(each.pixels.tile)
        self._rows = tiling.axis_weights(each.pixels.tops, each.pixels.height, window)
        self._columns = tiling.axis_weights(each.pixels.lefts, each.pixels.width, window)

    def add(self, number: int, tile: Float32[np.ndarray, "side side 3"]) -> None:
        """Add one tile; tiles must always be added in the same order."""
        top, left = self._layout.pixels.corners[number]
        part = self.picture[top : top + len(tile), left : left + len(tile)]
        cut = tile[: part.shape[0], : part.shape[1]]
        if self._layout.count == 1:
            part[...] = cut
            return
        row, column = divmod(number, len(self._layout.pixels.lefts))
        part += self._rows[row, : part.shape[0], None, None] * self._columns[column, : part.shape[1], None] * cut
