"""Attention in plain products, whole and in blocks, and the flash kernels that take its place on accelerators."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas import tpu as pltpu
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from cassr_jax.errors import InputError
from cassr_jax.models import dot_product
from cassr_jax.models.division import Division, divided
from cassr_jax.models.dot_product import dot_product_attention, in_blocks, pallas_flash
from cassr_jax.sharding.topologies import topology_devices
from tests import narrow

LONG = 5 * 256  # five blocks of queries


def random_qkv(length: int, keys: int, channels: int = 8) -> list[np.ndarray]:
    rng = np.random.default_rng(length)
    return [2 * rng.normal(size=(2, n, channels)).astype(np.float32) for n in (length, keys, keys)]


@pytest.mark.parametrize(
    ("length", "keys"), [(1, 1), (5, 7), (1025, 9), (LONG, 33), (LONG + 7, LONG + 7), (LONG, LONG), (9, LONG)]
)
@pytest.mark.parametrize("num_heads", [1, 2])
def test_equals_its_definition(length, keys, num_heads):
    qkv = random_qkv(length, keys)
    assert (
        narrow.relative_l2(
            dot_product_attention(*map(jnp.asarray, qkv), num_heads), narrow.attention_by_hand(*qkv, num_heads)
        )
        <= 1e-6
    )


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_on_a_cpu_one_head_after_the_other_equals_all_at_once(dtype):
    """The values and the gradients, at the fewest tokens for which a CPU takes the heads one by one."""
    arrays = [jnp.asarray(x, dtype).reshape(2, 2, 1024, 4) for x in (*random_qkv(1024, 1024), random_qkv(1024, 1)[0])]
    assert dot_product._goes_by_head(*arrays[:2])
    found = jax.jit(lambda *arrays: with_gradients(dot_product.by_head, *arrays))(*arrays)
    exact = with_gradients(in_blocks, *(x.astype(jnp.float32) for x in arrays))
    for one, other in zip(found, exact, strict=True):
        assert narrow.relative_l2(one, other) <= (1e-5 if dtype == jnp.float32 else 2e-2)


@pytest.fixture
def plain(monkeypatch):
    """The same function with blocks never used."""

    def run(function, *args):
        with monkeypatch.context() as patch:
            patch.setattr(dot_product, "_LONGEST_WHOLE", LONG)
            return function(*args)

    return run


@pytest.mark.parametrize("length", [LONG, LONG - 100])
def test_blocks_are_used_for_long_queries_and_equal_the_plain_form(plain, length):
    qkv = [jnp.asarray(x) for x in random_qkv(length, 40)]

    def call(*qkv):
        return dot_product_attention(*qkv, num_heads=2)

    assert "256,40" in str(jax.make_jaxpr(call)(*qkv))
    assert f"{length},40" not in str(jax.make_jaxpr(call)(*qkv))
    assert f"{length},40" in str(plain(jax.make_jaxpr(lambda *qkv: call(*qkv)), *qkv))
    np.testing.assert_allclose(call(*qkv), plain(call, *qkv), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("length", [1500, 2305])
def test_scores_are_never_held_whole_whatever_the_length(length):
    """Neither number is a multiple of a block; a tile of 960 px has 14,400 tokens, whose scores would take 13 GB."""
    qkv = [jnp.asarray(x) for x in random_qkv(length, length)]

    def total(*qkv):
        return dot_product_attention(*qkv, num_heads=2).sum()

    for traced in (total, jax.grad(total)):
        assert f"{length},{length}" not in str(jax.make_jaxpr(traced)(*qkv))


@pytest.mark.parametrize("length", [LONG, LONG - 100])
def test_gradient_through_blocks_equals_the_plain_one(plain, length):
    qkv = random_qkv(length, 40)
    target = np.random.default_rng(1).normal(size=qkv[0].shape).astype(np.float32)

    def gradient(*qkv):
        return jax.grad(lambda qkv: jnp.sum(target * dot_product_attention(*qkv, num_heads=2)))(qkv)

    for blocked, whole in zip(gradient(*qkv), plain(gradient, *qkv), strict=True):
        assert narrow.relative_l2(blocked, whole) <= 1e-6
        assert np.linalg.norm(whole) > 1


def test_softmax_is_float32_and_the_result_bfloat16():
    """Scores far from zero: bfloat16 scores would round 100.2 and 100.4 alike."""
    query = jnp.full((1, 1, 2), 1.0, jnp.bfloat16)
    key = jnp.asarray([[[71, 71], [71, 71.5]]], jnp.bfloat16)
    value = jnp.asarray([[[0, 0], [1, 1]]], jnp.bfloat16)
    out = dot_product_attention(query, key, value, num_heads=1)
    assert out.dtype == jnp.bfloat16
    assert 0.55 < float(out[0, 0, 0]) < 0.62  # 1 / (1 + exp(-0.35))


@pytest.mark.reference
@pytest.mark.parametrize(("length", "keys"), [(7, 77), (LONG, LONG)])
def test_equals_torch(length, keys):
    torch = pytest.importorskip("torch")
    qkv = random_qkv(length, keys)
    q, k, v = (torch.from_numpy(x).unflatten(-1, (2, -1)).movedim(2, 1) for x in qkv)
    expected = torch.nn.functional.scaled_dot_product_attention(q, k, v).movedim(1, 2).flatten(2)
    assert narrow.relative_l2(dot_product_attention(*map(jnp.asarray, qkv), 2), expected.numpy()) <= 1e-6


FLASH = (2, 2, 256, 40)  # the shortest that flash attention is used for, and heads as SD-1.5's


def random_heads(count: int, dtype: str = "float32", shape: tuple[int, ...] = FLASH) -> list[jax.Array]:
    rng = np.random.default_rng(3)
    return [jnp.asarray(2 * rng.normal(size=shape), dtype) for _ in range(count)]


def with_gradients(attend, q, k, v, cotangent):
    """The output and the gradients by query, key and value."""
    out, backward = jax.vjp(attend, q, k, v)
    return out, *backward(cotangent)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("bfloat16", 6e-3)])
def test_the_pallas_kernel_equals_plain_products_forward_and_backward(dtype, tolerance):
    arrays = random_heads(4, dtype)
    with pltpu.force_tpu_interpret_mode():
        found = jax.jit(lambda *arrays: with_gradients(pallas_flash, *arrays))(*arrays)
    exact = with_gradients(in_blocks, *(x.astype(jnp.float32) for x in arrays))
    for flash, plain in zip(found, exact, strict=True):
        assert narrow.relative_l2(flash.astype(jnp.float32), plain) <= tolerance


def test_the_pallas_kernel_goes_on_over_several_blocks(monkeypatch):
    """More queries and keys than any of its blocks holds, as those beyond 4,096 tokens; here the blocks are small."""
    monkeypatch.setattr(dot_product, "_block", lambda length, limit: limit // 16 if limit > 2048 else 128)
    arrays = random_heads(4, shape=(1, 1, 512, 8))
    with pltpu.force_tpu_interpret_mode():
        found = jax.jit(lambda *arrays: with_gradients(pallas_flash, *arrays))(*arrays)
    for flash, plain in zip(found, with_gradients(in_blocks, *arrays), strict=True):
        assert narrow.relative_l2(flash, plain) <= 1e-5


@pytest.mark.parametrize(("kernel", "rows"), [("pallas_flash", 1), ("in_blocks", 2)])
def test_each_device_attends_for_its_own_examples_heads_and_rows(kernel, rows, monkeypatch):
    mesh = Mesh(np.asarray(jax.devices()[: 4 * rows]).reshape(2, rows, 2), ("data", "spatial", "tensor"))
    arrays = random_heads(4)
    lie = NamedSharding(mesh, P("data", "tensor", "spatial"))
    placed = [jax.device_put(x, lie) for x in arrays]
    seen = []

    def attend(q, k, v):
        seen.append((q.shape, k.shape))
        return getattr(dot_product, kernel)(q, k, v)

    def on_each_device(q, k, v):
        with divided(Division(mesh, ("data",), ("tensor",), ("spatial",))):
            return dot_product._on_each_device(q, k, v)

    monkeypatch.setattr(dot_product, "attend", attend)
    with pltpu.force_tpu_interpret_mode():
        found = jax.jit(lambda *arrays: with_gradients(on_each_device, *arrays))(*placed)
    assert found[0].sharding.is_equivalent_to(lie, 4)
    (batch, heads, length, channels) = FLASH
    own = (batch // 2, heads // 2)
    assert set(seen) == {((*own, length // rows, channels), (*own, length, channels))}
    for mine, whole in zip(found, with_gradients(in_blocks, *arrays), strict=True):
        assert narrow.relative_l2(mine, whole) <= 1e-5


def test_the_compiler_divides_attention_whose_sizes_do_not():
    mesh = Mesh(np.asarray(jax.devices()), ("tensor",))
    arrays = random_heads(3)  # fewer heads than devices
    with divided(Division(mesh, (), ("tensor",))):
        np.testing.assert_allclose(dot_product._on_each_device(*arrays), in_blocks(*arrays), rtol=1e-5)


@pytest.mark.parametrize(
    ("tokens", "head_dim", "kernel"),
    [(4096, 40, "flash"), (1024, 80, "flash"), (256, 160, "plain"), (4096, 512, "plain")],  # SD-1.5, then its VAE
)
def test_on_a_tpu_the_heads_of_sd15_take_the_kernel(tokens, head_dim, kernel):
    pytest.importorskip("libtpu", reason="the extra `tpu` is not installed")
    program = compiled_gradient("v5e:2x4", tokens, head_dim)
    assert ("tpu_custom_call" in program) == (kernel == "flash")


@pytest.mark.parametrize(
    ("tokens", "head_dim", "kernel"), [(4096, 40, "flash"), (1024, 80, "flash"), (256, 160, "plain")]
)
def test_on_an_h200_the_heads_of_sd15_take_cudnn_and_hold_no_scores(tokens, head_dim, kernel):
    try:
        program = compiled_gradient("h200:8", tokens, head_dim)
    except InputError as error:
        pytest.skip(str(error))
    assert ("__cudnn$fmha" in program) == (kernel == "flash")
    assert (f"{tokens},{tokens}]" in program) == (kernel == "plain")


def compiled_gradient(topology: str, tokens: int, head_dim: int) -> str:
    """The compiled gradient of self-attention in bfloat16 with two heads and one example on each device."""
    mesh = Mesh(np.asarray(topology_devices(topology)), ("data",))
    channels = 2 * head_dim
    x = jax.ShapeDtypeStruct((mesh.size, tokens, channels), jnp.bfloat16, sharding=NamedSharding(mesh, P("data")))

    def total(q, k, v):
        with divided(Division(mesh, ("data",), ())):
            return dot_product_attention(q, k, v, 2).astype(jnp.float32).sum()

    return jax.jit(jax.grad(total, argnums=(0, 1, 2))).lower(x, x, x).compile().as_text()


def test_short_or_uneven_sequences_take_no_kernel(monkeypatch):
    monkeypatch.setattr(dot_product, "find_spec", lambda name: name == "libtpu")

    def kernels(length, keys, head_dim=40):
        q, k = (jnp.zeros((1, 1, n, head_dim), jnp.bfloat16) for n in (length, keys))
        return dot_product.flash_kernels(q, k).keys()

    assert kernels(4096, 4096) >= {"tpu"}
    for length, keys, head_dim in [(4096, 77, 40), (128, 4096, 40), (4096, 4100, 40), (256, 256, 160)]:
        assert "tpu" not in kernels(length, keys, head_dim)
