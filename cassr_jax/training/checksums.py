"""Checksums by which a checkpoint tells whether it reads back what was saved."""

import hashlib
import json
from collections import Counter

import jax
import numpy as np
from jaxtyping import PyTree

from cassr_jax.files import Json
from cassr_jax.training.processes import gather_texts


def array_checksums(tree: PyTree[jax.Array]) -> dict[str, int]:
    """The checksum of every array, by its path in the tree; every process must call this.

    It is the sum of the array's words, read as whole numbers, modulo 2**64. That sum does not depend on how the array
    is divided among devices and processes.
    """
    leaves = jax.tree.leaves_with_path(tree)
    own = {jax.tree_util.keystr(path, simple=True, separator="/"): _sum_of_own(leaf) for path, leaf in leaves}
    total = sum(map(Counter, map(json.loads, gather_texts(json.dumps(own)))), Counter())
    return {name: total[name] % 2**64 for name in own}


def json_checksum(value: Json) -> str:
    """The checksum of a JSON object, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _sum_of_own(array: jax.Array) -> int:
    """The sum over this process's part of the array; copies on several devices count once."""
    return sum(_sum(shard) for shard in array.addressable_shards if shard.replica_id == 0)


def _sum(shard: jax.Shard) -> int:
    # An array keeps the host's copy of itself, so a passing one is read, or this memory would hold the whole state.
    return array_checksum(np.asarray(jax.device_put(shard.data, shard.device)))


def array_checksum(words: np.ndarray) -> int:
    """The checksum of an array that is whole here."""
    return int(words.view(f"uint{8 * words.dtype.itemsize}").sum(dtype=np.uint64))
