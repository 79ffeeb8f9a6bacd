"""The text encoder against transformers: recorded outputs always, the live program where it is installed."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from cassr_jax.models.clip_text import CLIPTextConfig, CLIPTextModel, LearnedContext, LearnedContextConfig
from cassr_jax.models.parameters import abstract, initialise, merge
from cassr_jax.weights.convert import from_torch
from tests.random_weights import random_state_dict

GOLDEN = Path(__file__).parents[1] / "golden" / "clip_text.npz"


def relative_l2(actual: jax.Array, expected: np.ndarray) -> float:
    difference = np.asarray(actual, np.float64) - expected
    return float(np.linalg.norm(difference) / np.linalg.norm(expected))


def encode(config: CLIPTextConfig, state: dict, ids: np.ndarray, dtype=jnp.float32) -> jax.Array:
    graphdef, shapes = abstract(lambda rngs: CLIPTextModel(config, dtype=dtype, rngs=rngs))
    return jax.jit(lambda params, ids: merge(graphdef, params)(ids))(from_torch(state, shapes), ids)


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    with np.load(GOLDEN) as file:
        return dict(file)


@pytest.fixture(scope="module")
def state(golden) -> dict[str, np.ndarray]:
    return random_state_dict(json.loads(str(golden["shapes"])), int(golden["seed"]))


def golden_config(golden, hidden_act: str = "quick_gelu") -> CLIPTextConfig:
    return CLIPTextConfig(**json.loads(str(golden["config"])), hidden_act=hidden_act)


@pytest.mark.parametrize("hidden_act", ["quick_gelu", "gelu"])
def test_equals_recorded_transformers(golden, state, hidden_act):
    hidden = encode(golden_config(golden, hidden_act), state, golden["ids"])
    assert hidden.dtype == jnp.float32
    assert relative_l2(hidden, golden[hidden_act]) <= 1e-5


def test_bfloat16_stays_near_float32(golden, state):
    hidden = encode(golden_config(golden), state, golden["ids"], jnp.bfloat16)
    assert hidden.dtype == jnp.bfloat16
    assert relative_l2(hidden, golden["quick_gelu"]) <= 2e-2


def test_no_token_sees_a_later_one(golden, state):
    config = golden_config(golden)
    changed = golden["ids"].copy()
    changed[:, 40:] = (changed[:, 40:] + 1) % config.vocab_size
    before, after = encode(config, state, golden["ids"]), encode(config, state, changed)
    np.testing.assert_array_equal(before[:, :40], after[:, :40])
    assert np.abs(before[:, 40:] - after[:, 40:]).max(axis=-1).min() > 0


def test_fewer_tokens_give_the_same_beginning(golden, state):
    hidden = encode(golden_config(golden), state, golden["ids"][:, :9])
    assert relative_l2(hidden, golden["quick_gelu"][:, :9]) <= 1e-5


def test_rejects_what_it_cannot_encode(golden, state):
    config = golden_config(golden)
    with pytest.raises(ValueError, match="found 78 tokens, expected at most 77"):
        encode(config, state, np.zeros((1, 78), np.int32))
    with pytest.raises(ValueError, match="hidden_act is 'relu'"):
        abstract(lambda rngs: CLIPTextModel(golden_config(golden, "relu"), rngs=rngs))
    with pytest.raises(ValueError, match="num_attention_heads is 4, expected a divisor of 30"):
        CLIPTextConfig(hidden_size=30, num_attention_heads=4)


def test_default_config_is_stable_diffusion_15():
    _, shapes = abstract(lambda rngs: CLIPTextModel(CLIPTextConfig(), rngs=rngs))
    assert sum(np.prod(shape.shape, dtype=int) for shape in shapes.values()) == 123_060_480
    assert shapes["text_model.encoder.layers.11.mlp.fc1.kernel"].shape == (768, 3072)


@pytest.mark.reference
@pytest.mark.parametrize(
    "changes",
    [
        {"num_hidden_layers": 4, "hidden_size": 48, "num_attention_heads": 6},
        {"hidden_act": "gelu", "layer_norm_eps": 1e-3, "num_attention_heads": 1},
        pytest.param(None, marks=pytest.mark.slow, id="full size"),
    ],
)
def test_equals_transformers(changes):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    narrow = {"vocab_size": 500, "hidden_size": 32, "intermediate_size": 96, "num_hidden_layers": 2}
    config = CLIPTextConfig() if changes is None else CLIPTextConfig(**(narrow | changes))
    model = transformers.CLIPTextModel(transformers.CLIPTextConfig(**vars(config))).eval()
    state = random_state_dict({name: tuple(value.shape) for name, value in model.state_dict().items()}, seed=1)
    model.load_state_dict({name: torch.from_numpy(value) for name, value in state.items()})
    ids = np.random.default_rng(1).integers(0, config.vocab_size, (2, 77)).astype(np.int32)
    with torch.no_grad():
        expected = model(torch.from_numpy(ids).long()).last_hidden_state.numpy()
    assert relative_l2(encode(config, state, ids), expected) <= 1e-5
    assert relative_l2(encode(config, state, ids, jnp.bfloat16), expected) <= 2e-2


class TestLearnedContext:
    config = LearnedContextConfig(num_contexts=2, num_tokens=3, hidden_size=5)

    @pytest.mark.parametrize("ids", [[1, 0, 1], [[1], [0], [1]]])
    def test_looks_up_each_id(self, ids):
        graphdef, params = initialise(lambda rngs: LearnedContext(self.config, rngs=rngs), jax.random.key(0))
        assert {name: value.shape for name, value in params.items()} == {"contexts": (2, 3, 5)}
        context = merge(graphdef, params)(jnp.asarray(ids, jnp.int32))
        np.testing.assert_array_equal(context, np.asarray(params["contexts"])[[1, 0, 1]])

    def test_computes_in_its_dtype(self):
        module = LearnedContext(self.config, dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
        assert module(jnp.zeros(2, jnp.int32)).dtype == jnp.bfloat16

    def test_unknown_id_is_nan(self):
        module = LearnedContext(self.config, rngs=nnx.Rngs(0))
        assert np.isnan(module(jnp.asarray([2]))).all()

    def test_rejects_token_sequences(self):
        module = LearnedContext(self.config, rngs=nnx.Rngs(0))
        with pytest.raises(ValueError, match=r"shape \(1, 77\), expected \(B,\) or \(B, 1\)"):
            module(jnp.zeros((1, 77), jnp.int32))
