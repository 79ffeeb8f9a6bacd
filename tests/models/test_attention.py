"""Attention layers and the transformer that holds them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cassr_jax.models.attention import GEGLU, Attention, BasicTransformerBlock, Transformer2D, Unguided
from cassr_jax.models.parameters import merge
from tests import narrow


def test_keys_and_values_may_be_computed_once():
    graphdef, params = narrow.random_network(lambda rngs: Attention(8, 6, num_heads=2, dtype=jnp.float32, rngs=rngs))
    layer = merge(graphdef, params)
    x, context = (np.random.default_rng(0).normal(size=(2, n, c)).astype(np.float32) for n, c in ((5, 8), (3, 6)))
    expected = narrow.attention_by_hand(
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


def test_a_guide_attends_in_its_places():
    """The order of CasSR is reference attention, self-attention, LR attention, text, feed-forward; PASD's light variant
    attends behind the text."""

    class Guide(Unguided):
        def __init__(self) -> None:
            self.seen: list[tuple[str, np.ndarray]] = []

        def before_self_attention(self, x):
            self.seen.append(("before self-attention", x))
            return x + 1

        def after_self_attention(self, x):
            self.seen.append(("after self-attention", x))
            return x * 2

        def after_cross_attention(self, x):
            self.seen.append(("after cross-attention", x))
            return x - 3

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
    attended = after_lq + block.attn2(block.norm2(after_lq), text)
    after_text = attended - 3
    np.testing.assert_allclose(out, after_text + block.ff(block.norm3(after_text)), rtol=1e-5, atol=1e-5)
    assert [name for name, _ in guide.seen] == [
        "before self-attention",
        "after self-attention",
        "after cross-attention",
    ]
    np.testing.assert_array_equal(guide.seen[0][1], x)
    np.testing.assert_allclose(guide.seen[1][1], after_self, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(guide.seen[2][1], attended, rtol=1e-5, atol=1e-5)


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
    made = ours(jnp.asarray(x), ours.key_value(jnp.asarray(text)))
    assert narrow.relative_l2(made, references.nhwc(expected)) <= 2e-6
