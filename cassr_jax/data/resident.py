"""Prepared records that are kept whole on the device, where batches are cut, so that the host has nothing to do.

A small model on a fast device is faster than any pipeline of pictures. A few gigabytes of records, from which every
step draws new windows and mirrorings, feed it without a copy.
"""

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from cassr_jax.data.prepared import PreparedSource
from cassr_jax.errors import InputError

Pool = Mapping[str, np.ndarray]  # name -> uint8 (N, s, s, 3); the sides of `lr` are 1 / scale of the others'
_IMAGES = ("hr", "lr", "reference")


class ResidentPool(Iterator[Pool]):
    """An iterator that yields the same pool for ever: all images of a folder of prepared records.

    What a step draws from the pool depends only on the step (`draw`), so the iterator has no state.

    Raises:
        InputError: the records hold no `hr`, have several sizes, or are smaller than `crop_size`.
    """

    def __init__(self, path: str | Path, crop_size: int):
        source = PreparedSource(path)
        names = [name for name in _IMAGES if name in source[0]]
        if "hr" not in names:
            raise InputError(f"{path}: the records hold {', '.join(source[0])}, expected hr among them")
        pool = {name: np.empty((len(source), *source[0][name].shape), np.uint8) for name in names}

        def place(index: int) -> None:
            record = source[index]
            for name, images in pool.items():
                shape = record[name].shape if name in record else "of no shape"
                if shape != images.shape[1:]:
                    raise InputError(
                        f"{path}: record {index} has {name} {shape}, expected {images.shape[1:]} like the first"
                    )
                images[index] = record[name]

        with ThreadPoolExecutor() as threads:
            list(threads.map(place, range(len(source))))
        side = min(source[0]["hr"].shape[:2])
        if side < crop_size:
            raise InputError(f"{path}: the records' shorter side is {side} px, expected at least crop_size {crop_size}")
        self.pool: Pool = pool
        self.skipped = 0  # a damaged record has raised an error above

    def __next__(self) -> Pool:
        return self.pool

    def get_state(self) -> dict:
        return {}

    def set_state(self, state: dict) -> None:
        del state  # there is none

    def close(self) -> None:
        """Nothing is left to end."""


def draw(
    pool: Mapping[str, np.ndarray | jax.Array], key: jax.Array, batch_size: int, crop_size: int
) -> dict[str, jax.Array]:
    """Draw a batch of windows, uint8 (B, S, S, 3), mirrored and turned at random; `lr` becomes `lq`, enlarged to S.

    Windows start at whole pixels of the low-resolution picture, so that pairs stay in register.
    """
    pool = {name: jnp.asarray(images) for name, images in pool.items()}
    index_key, corner_key, turn_key = jax.random.split(key, 3)
    count, height, width = pool["hr"].shape[:3]
    index = jax.random.randint(index_key, (batch_size,), 0, count)
    step = height // pool["lr"].shape[1] if "lr" in pool else 1
    limit = jnp.asarray([height - crop_size, width - crop_size]) // step
    corners = step * jax.random.randint(corner_key, (batch_size, 2), 0, limit + 1)
    turns = jax.random.bits(turn_key, (batch_size,), jnp.uint8)

    def cut(image: jax.Array, corner: jax.Array, turn: jax.Array) -> jax.Array:
        image = jax.lax.dynamic_slice(image, (corner[0], corner[1], 0), (crop_size, crop_size, 3))
        image = jnp.where(turn & 1, image[::-1], image)
        image = jnp.where(turn & 2, image[:, ::-1], image)
        return jnp.where(turn & 4, image.swapaxes(0, 1), image)

    batch = {}
    for name, images in pool.items():
        chosen = images[index]
        if name == "lr":
            name, chosen = "lq", _enlarge(chosen, height, width)
        batch[name] = jax.vmap(cut)(chosen, corners, turns)
    return batch


def _enlarge(images: jax.Array, height: int, width: int) -> jax.Array:
    """Enlarge as `imaging.resizing.bicubic` does (Keys, a = -1/2): rows, then columns, each rounded to 8 bit."""
    for size in ((*images.shape[:2], width, 3), (len(images), height, width, 3)):
        resized = jax.image.resize(images.astype(jnp.float32), size, "cubic", antialias=False)
        images = jnp.clip(jnp.round(resized), 0, 255).astype(jnp.uint8)
    return images
