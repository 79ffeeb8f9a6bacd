"""Attention, whole and in blocks, and the transformer that holds it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cassr_jax.models import attention
from cassr_jax.models.attention import GEGLU, Attention, BasicTransformerBlock, Transformer2D, dot_product_attention
from cassr_jax.models.parameters import merge
from tests import narrow

LONG = 5 * 256  # five blocks of queries


def random_qkv(length: int, keys: int, channels: int = 8) -> list[np.ndarray]:
    rng = np.random.default_rng(length)
    return [2 * rng.normal(size=(2, n, channels)).astype(np.float32) for n in (length, keys, keys)]


def by_hand(query: np.ndarray, key: np.ndarray, value: np.ndarray, num_heads: int) -> np.ndarray:
    """softmax(Q K^T / sqrt(d)) V in float64."""
    q, k, v = (x.astype(np.float64).reshape(*x.shape[:2], num_heads, -1) for x in (query, key, value))
    scores = np.einsum("bnhd,bmhd->bhnm", q, k) / np.sqrt(q.shape[-1])
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return np.einsum("bhnm,bmhd->bnhd", weights / weights.sum(-1, keepdims=True), v).reshape(query.shape)


@pytest.mark.parametrize(("length", "keys"), [(1, 1), (5, 7), (1025, 9), (LONG, 33), (LONG, LONG), (9, LONG)])
@pytest.mark.parametrize("num_heads", [1, 2])
def test_equals_its_definition(length, keys, num_heads):
    qkv = random_qkv(length, keys)
    assert (
        narrow.relative_l2(dot_product_attention(*map(jnp.asarray, qkv), num_heads), by_hand(*qkv, num_heads)) <= 1e-6
    )


@pytest.fixture
def plain(monkeypatch):
    """The same function with blocks never used."""

    def run(function, *args):
        with monkeypatch.context() as patch:
            patch.setattr(attention, "_LONGEST_WHOLE", LONG)
            return function(*args)

    return run


def test_blocks_are_used_for_long_queries_and_equal_the_plain_form(plain):
    qkv = [jnp.asarray(x) for x in random_qkv(LONG, 40)]

    def call(*qkv):
        return dot_product_attention(*qkv, num_heads=2)

    assert "256,40" in str(jax.make_jaxpr(call)(*qkv))
    assert f"{LONG},40" not in str(jax.make_jaxpr(call)(*qkv))
    assert f"{LONG},40" in str(plain(jax.make_jaxpr(lambda *qkv: call(*qkv)), *qkv))
    np.testing.assert_allclose(call(*qkv), plain(call, *qkv), rtol=1e-5, atol=1e-6)


def test_gradient_through_blocks_equals_the_plain_one(plain):
    qkv = random_qkv(LONG, 40)
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


def test_keys_and_values_may_be_computed_once():
    graphdef, params = narrow.random_network(lambda rngs: Attention(8, 6, num_heads=2, dtype=jnp.float32, rngs=rngs))
    layer = merge(graphdef, params)
    x, context = (np.random.default_rng(0).normal(size=(2, n, c)).astype(np.float32) for n, c in ((5, 8), (3, 6)))
    expected = by_hand(
        x @ params["to_q.kernel"], context @ params["to_k.kernel"], context @ params["to_v.kernel"], num_heads=2
    )
    expected = expected @ params["to_out.0.kernel"] + params["to_out.0.bias"]
    assert narrow.relative_l2(layer(jnp.asarray(x), layer.key_value(jnp.asarray(context))), expected) <= 1e-6


def test_geglu_is_exact():
    """At 0 + the tanh approximation is as good; where it is worst, near 2.2, it is off by 5e-4."""
    graphdef, _ = narrow.random_network(lambda rngs: GEGLU(1, 1, dtype=jnp.float32, rngs=rngs))
    layer = merge(graphdef, {"proj.kernel": jnp.asarray([[0.0, 1.0]]), "proj.bias": jnp.asarray([1.0, 0.0])})
    x = np.linspace(-4, 4, 81, dtype=np.float32)[:, None]
    expected = [0.5 * v * (1 + jax.lax.erf(v / np.sqrt(2.0))) for v in x[:, 0]]
    np.testing.assert_allclose(layer(jnp.asarray(x))[:, 0], expected, atol=1e-6)
    assert np.abs(layer(jnp.asarray(x)) - jax.nn.gelu(x, approximate=True)).max() > 2e-4


def test_guide_attends_around_the_self_attention():
    """The order of CasSR: reference attention, self-attention, LR attention, text, feed-forward."""

    class Guide:
        def __init__(self) -> None:
            self.seen: list[tuple[str, np.ndarray]] = []

        def attend_reference(self, x):
            self.seen.append(("reference", x))
            return x + 1

        def attend_lq(self, x):
            self.seen.append(("lq", x))
            return x * 2

    graphdef, params = narrow.random_network(
        lambda rngs: BasicTransformerBlock(8, 6, num_heads=2, dtype=jnp.float32, rngs=rngs)
    )
    block, guide = merge(graphdef, params), Guide()
    rng = np.random.default_rng(0)
    x, text = (jnp.asarray(rng.normal(size=size), jnp.float32) for size in ((2, 5, 8), (2, 3, 6)))
    text = block.attn2.key_value(text)
    out = block(x, text, guide)
    after_self = x + 1 + block.attn1(block.norm1(x + 1))
    after_lq = after_self * 2
    after_text = after_lq + block.attn2(block.norm2(after_lq), text)
    np.testing.assert_allclose(out, after_text + block.ff(block.norm3(after_text)), rtol=1e-5, atol=1e-5)
    assert [name for name, _ in guide.seen] == ["reference", "lq"]
    np.testing.assert_array_equal(guide.seen[0][1], x)
    np.testing.assert_allclose(guide.seen[1][1], after_self, rtol=1e-5, atol=1e-5)


@pytest.mark.reference
def test_transformer_equals_diffusers():
    torch = pytest.importorskip("torch")
    from diffusers import Transformer2DModel

    from tests import references

    theirs = references.randomise(
        Transformer2DModel(
            num_attention_heads=2, attention_head_dim=8, in_channels=16, cross_attention_dim=6, norm_num_groups=4
        )
    )
    graphdef, params = narrow.random_network(
        lambda rngs: Transformer2D(16, 6, num_heads=2, groups=4, dtype=jnp.float32, rngs=rngs)
    )
    ours = merge(graphdef, params)
    rng = np.random.default_rng(0)
    x, text = rng.normal(size=(2, 4, 5, 16)).astype(np.float32), rng.normal(size=(2, 3, 6)).astype(np.float32)
    expected = theirs(references.nchw(x), encoder_hidden_states=torch.from_numpy(text), return_dict=False)[0]
    made = ours(jnp.asarray(x), ours.text_key_value(jnp.asarray(text)))
    assert narrow.relative_l2(made, references.nhwc(expected)) <= 2e-6
