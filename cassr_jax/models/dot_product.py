"""softmax(Q K^T / sqrt(d)) V on every kind of device.

The compiler chooses by the device that it compiles for: cuDNN's flash attention on NVIDIA GPUs, Pallas's on TPUs, one
head after the other on a CPU, and queries in blocks everywhere else. Flash attention never writes the scores to memory,
forward or backward.
"""

import math
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float

from cassr_jax.models.division import current
from cassr_jax.typing import Tokens

Keys = Float[Array, "batch keys channels"]
HeadQueries = Float[Array, "batch heads length head_dim"]
HeadKeys = Float[Array, "batch heads keys head_dim"]

# Long sequences attend in blocks of this many queries: a block's scores stay near the processor's caches, and the whole
# (N, M) matrix, 2 GB for one 512 px image and its guidance, is never held.
_QUERY_BLOCK = 256
_LONGEST_WHOLE = 1024
_HEAD_BLOCK = 512  # a CPU's queries at a time; the scores of one head are then a few MB
_SHORTEST_BY_HEAD = 1024
_SHORTEST_FLASH = 256  # fewer queries or keys have so few scores that plain products are as good
_LANES = 128  # of a TPU's registers


def dot_product_attention(query: Tokens, key: Keys, value: Keys, num_heads: int) -> Tokens:
    """softmax(Q K^T / sqrt(d)) V with the softmax in float32; channels are num_heads * d."""
    batch, length, channels = query.shape
    # Heads before positions: batched products whose batch axes lead are three times as fast on a CPU.
    q, k, v = (x.reshape(batch, -1, num_heads, channels // num_heads).swapaxes(1, 2) for x in (query, key, value))
    return _on_each_device(q, k, v).swapaxes(1, 2).reshape(batch, length, channels)


def _on_each_device(query: HeadQueries, key: HeadKeys, value: HeadKeys) -> HeadQueries:
    """Attention of each device's own examples, heads and rows of queries, with all keys of these examples and heads.

    The compiler could not divide most kernels by itself. Where the sizes do not divide, it divides plain products.
    """
    division = current()
    if division is None:
        return attend(query, key, value)
    counts = (math.prod(division.mesh.shape[axis] for axis in axes) for axes in division[1:4])
    if any(size % count for size, count in zip(query.shape, counts, strict=False)):
        return in_blocks(query, key, value)
    # An axis of one device is named as well: over an axis without a name, gradients of keys are summed.
    alone = tuple(axis for axis in division.rows if division.mesh.shape[axis] == 1)
    rows = tuple(axis for axis in division.rows if axis not in alone)
    of_keys = PartitionSpec((*division.batch, *alone), division.heads)
    of_queries = PartitionSpec((*division.batch, *alone), division.heads, rows)
    specs = (of_queries, of_keys, of_keys)
    mapped = jax.shard_map(attend, mesh=division.mesh, in_specs=specs, out_specs=of_queries, check_vma=False)
    return mapped(query, key, value)


def attend(query: HeadQueries, key: HeadKeys, value: HeadKeys) -> HeadQueries:
    """Attention on one device, by the best kernel that takes these arrays there."""
    kernels = flash_kernels(query, key) | ({"cpu": by_head} if _goes_by_head(query, key) else {})
    if not kernels:
        return in_blocks(query, key, value)
    return jax.lax.platform_dependent(query, key, value, default=in_blocks, **kernels)


def in_blocks(query: HeadQueries, key: HeadKeys, value: HeadKeys) -> HeadQueries:
    """Plain products, by blocks of queries where there are many; scores are never held for more than a block."""
    batch, num_heads, length, head_dim = query.shape
    query = query * head_dim**-0.5

    def attend(q: HeadQueries) -> HeadQueries:
        scores = jnp.einsum("bhnd,bhmd->bhnm", q, key, preferred_element_type=jnp.float32)
        return jnp.einsum("bhnm,bhmd->bhnd", jax.nn.softmax(scores, axis=-1).astype(value.dtype), value)

    if length <= _LONGEST_WHOLE:
        return attend(query)
    whole = jnp.pad(query, ((0, 0), (0, 0), (0, -length % _QUERY_BLOCK), (0, 0)))  # zeros fill up the last block
    blocks = jnp.moveaxis(whole.reshape(batch, num_heads, -1, _QUERY_BLOCK, head_dim), 2, 0)
    out = jnp.moveaxis(jax.lax.map(jax.checkpoint(attend), blocks), 0, 2).reshape(whole.shape)
    return out[:, :, :length]


def by_head(query: HeadQueries, key: HeadKeys, value: HeadKeys) -> HeadQueries:
    """One head after the other, by blocks of queries: a CPU's caches hold the scores from one product to the next.

    At SD-1.5's 4,096 tokens this takes a third of the time of all heads at once.
    """
    _, _, length, head_dim = query.shape

    def attend_head(own: tuple[jax.Array, jax.Array, jax.Array]) -> jax.Array:
        q, k, v = own

        def attend(q: jax.Array) -> jax.Array:
            scores = jnp.einsum("nd,md->nm", q, k, preferred_element_type=jnp.float32)
            weights = jnp.exp(scores - jax.lax.stop_gradient(scores.max(axis=-1, keepdims=True)))
            found = jnp.einsum("nm,md->nd", weights.astype(v.dtype), v, preferred_element_type=jnp.float32)
            return (found / weights.sum(axis=-1, keepdims=True)).astype(v.dtype)

        blocks = q.reshape(-1, _HEAD_BLOCK, head_dim)
        return jax.lax.map(jax.checkpoint(attend), blocks).reshape(length, head_dim)

    heads = tuple(x.reshape(-1, *x.shape[2:]) for x in (query * head_dim**-0.5, key, value))
    return jax.lax.map(attend_head, heads).reshape(query.shape)


def cudnn_flash(query: HeadQueries, key: HeadKeys, value: HeadKeys) -> HeadQueries:
    """cuDNN's flash attention, for 16-bit numbers and heads of at most 128 channels."""
    out = jax.nn.dot_product_attention(*(x.swapaxes(1, 2) for x in (query, key, value)), implementation="cudnn")
    return out.swapaxes(1, 2)


def pallas_flash(query: HeadQueries, key: HeadKeys, value: HeadKeys) -> HeadQueries:
    """Pallas's flash attention, for lengths that are multiples of 128 and heads of at most 128 channels."""
    from jax.experimental.pallas.ops.tpu import flash_attention as pallas  # takes long to import

    def queries(limit: int) -> int:
        return _block(query.shape[2], limit)

    def keys(limit: int) -> int:
        return _block(key.shape[2], limit)

    # A major block is what lies in a core's fast memory (16 MB) at a time, and is computed in the smaller blocks. What
    # the grid's inner axis runs over is read anew for each block of the outer one, so the outer ones are long. But for
    # the gradient of the queries the kernel writes an array (queries, block_k_major_dq), which must stay narrow.
    sizes = pallas.BlockSizes(
        block_b=1, block_q=queries(512), block_k_major=keys(4096), block_k=keys(512),
        block_q_major_dkv=queries(512), block_q_dkv=queries(512), block_k_major_dkv=keys(2048), block_k_dkv=keys(512),
        block_q_dq=queries(1024), block_k_major_dq=keys(256), block_k_dq=keys(256),
    )  # fmt: skip
    return pallas.flash_attention(query, key, value, sm_scale=query.shape[-1] ** -0.5, block_sizes=sizes)


def flash_kernels(query: HeadQueries, key: HeadKeys) -> dict[str, Callable[..., HeadQueries]]:
    """The flash kernels that take these arrays, by the platform that each is for."""
    (_, _, length, head_dim), keys = query.shape, key.shape[2]
    if min(length, keys) < _SHORTEST_FLASH:
        return {}
    found: dict[str, Callable[..., HeadQueries]] = {}
    if _cudnn_takes(length, keys, head_dim, jnp.dtype(query.dtype).name):
        found["cuda"] = cudnn_flash
    if find_spec("libtpu") and head_dim <= _LANES and length % _LANES == keys % _LANES == 0:
        found["tpu"] = pallas_flash
    return found


def _goes_by_head(query: HeadQueries, key: HeadKeys) -> bool:
    length, keys = query.shape[2], key.shape[2]
    return min(length, keys) >= _SHORTEST_BY_HEAD and length % _HEAD_BLOCK == 0


@cache
def _cudnn_takes(length: int, keys: int, head_dim: int, dtype: str) -> bool:
    """Whether cuDNN is installed and takes these sizes, forward and backward; JAX itself is asked."""
    q, kv = (jax.ShapeDtypeStruct((1, n, 1, head_dim), dtype) for n in (length, keys))

    def total(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
        return jax.nn.dot_product_attention(q, k, v, implementation="cudnn").astype(jnp.float32).sum()

    try:
        jax.eval_shape(jax.grad(total, argnums=(0, 1, 2)), q, kv, kv)
    except (RuntimeError, ValueError, NotImplementedError):
        return False
    return True


def _block(length: int, limit: int) -> int:
    """The largest power of two, at most `limit`, that divides the length."""
    return math.gcd(length, limit)
