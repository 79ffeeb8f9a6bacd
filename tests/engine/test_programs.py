"""What tiles that share positions agree on, beside the merging of a whole plane."""

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from cassr_jax.cascade import mesh_of_tiles
from cassr_jax.engine.layout import layout, sharing, tile_sizes
from cassr_jax.engine.programs import TILES, _shared
from cassr_jax.engine.waves import Seats
from tests.planes import cut, merged


@pytest.mark.parametrize("devices", [1, 8])
def test_tiles_that_disagree_take_the_mean_of_the_merged_plane(devices: int):
    sizes = tile_sizes(64, 8, 4, 0.25)
    layouts = [layout(*size, sizes, 8, 0.25) for size in ((96, 160), (64, 200), (150, 70))]
    seats = Seats(sum(each.count for each in layouts), devices, 2)
    tiles = np.random.default_rng(0).normal(size=(seats.count, 16, 16, 4)).astype(np.float32)
    divided, everywhere = PartitionSpec(TILES), PartitionSpec()
    shared = jax.jit(
        jax.shard_map(
            _shared,
            mesh=mesh_of_tiles(devices),
            in_specs=(divided, divided, everywhere),
            out_specs=divided,
            check_vma=False,
        )
    )
    placed = jax.tree.map(seats.placed, sharing(layouts))
    found = np.asarray(shared(seats.placed(tiles), placed, seats.order))
    device, slot = np.divmod(np.arange(seats.count), seats.share)
    found, first = found[device * seats.capacity + slot], 0
    for each in layouts:
        own = slice(first, first + each.count)
        plane = merged(tiles[own], each.grid)
        np.testing.assert_allclose(found[own], cut(plane, each.grid), atol=1e-5)
        first += each.count
