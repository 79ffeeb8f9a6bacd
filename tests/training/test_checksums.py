"""Checksums depend on an array's bits, and not on where its parts lie."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from cassr_jax.training import checksums
from cassr_jax.training.checksums import array_checksums, json_checksum

ARRAY = np.random.default_rng(0).normal(size=(8, 24)).astype(np.float32)


def placed(*spec: str | tuple[str, ...] | None) -> jax.Array:
    mesh = jax.make_mesh((4, 2), ("data", "tensor"), axis_types=(AxisType.Auto,) * 2)
    return jax.device_put(ARRAY, NamedSharding(mesh, P(*spec)))


@pytest.mark.parametrize("spec", [(), ("data",), (None, "data"), ("tensor", "data"), (("data", "tensor"),)])
def test_a_divided_or_copied_array_has_the_sum_of_its_words(spec):
    expected = int(ARRAY.view(np.uint32).sum(dtype=np.uint64))
    assert array_checksums({"a": {"b": placed(*spec)}}) == {"a/b": expected}


def test_the_parts_of_all_processes_are_added(monkeypatch):
    monkeypatch.setattr(checksums, "gather_texts", lambda text: [text, text, '{"a": 0, "b": 18446744073709551615}'])
    assert array_checksums({"a": jnp.int32([2, 3]), "b": jnp.uint8([1])}) == {"a": 10, "b": 1}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int32", "bool"])
def test_every_bit_counts_even_of_a_zero(dtype):
    zero = jnp.zeros((3, 2), dtype)
    other = np.asarray(zero).copy()
    other.view(np.uint8)[1, 1] = 1
    assert array_checksums([zero]) == {"0": 0}
    assert array_checksums([jnp.asarray(other)]) != {"0": 0}


def test_the_order_of_keys_does_not_count():
    assert json_checksum({"a": [1, 2], "b": {}}) == json_checksum({"b": {}, "a": [1, 2]})
    assert json_checksum({"a": [1, 2], "b": {}}) != json_checksum({"a": [2, 1], "b": {}})
