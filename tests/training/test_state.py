"""The optimizer's schedule and what a state holds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cassr_jax.config import OptimizerConfig
from cassr_jax.training.state import TrainState, learning_rate, make_optimizer


def test_the_learning_rate_warms_up_and_stays():
    rate = learning_rate(OptimizerConfig(learning_rate=0.2, warmup_steps=10), 100)
    np.testing.assert_allclose([rate(0), rate(5), rate(10), rate(99)], [0, 0.1, 0.2, 0.2], rtol=1e-6)


def test_the_learning_rate_falls_by_half_a_cosine_to_a_hundredth():
    rate = learning_rate(OptimizerConfig(learning_rate=0.2, warmup_steps=10, decay="cosine"), 110)
    np.testing.assert_allclose([rate(10), rate(60), rate(110)], [0.2, 0.2 * (1 + 0.01) / 2, 0.002], rtol=1e-5)


@pytest.mark.parametrize("decay", ["constant", "cosine"])
def test_without_warm_up_the_first_update_is_at_the_peak(decay):
    rate = learning_rate(OptimizerConfig(learning_rate=0.2, warmup_steps=0, decay=decay), 100)
    np.testing.assert_allclose([rate(0), rate(1)], [0.2, 0.2], rtol=1e-6)


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_an_update_is_adams(weight_decay):
    """Against the formulas of Kingma & Ba 2015 and Loshchilov & Hutter 2019, after clipping."""
    config = OptimizerConfig(
        learning_rate=0.1, warmup_steps=1, b1=0.8, b2=0.9, weight_decay=weight_decay, max_grad_norm=1.0
    )
    optimizer = make_optimizer(config, 10)
    params = {"a": jnp.asarray([1.0, -2.0])}
    state = optimizer.init(params)
    expected, m, v = np.array([1.0, -2.0]), np.zeros(2), np.zeros(2)
    for t, gradient in enumerate(([3.0, 4.0], [0.3, -0.4], [0.0, 0.1]), start=1):
        updates, state = optimizer.update({"a": jnp.asarray(gradient)}, state, params)
        params = jax.tree.map(jnp.add, params, updates)
        g = np.array(gradient) / max(1.0, np.linalg.norm(gradient))
        m, v = 0.8 * m + 0.2 * g, 0.9 * v + 0.1 * g**2
        rate = 0.0 if t == 1 else 0.1
        expected -= rate * (m / (1 - 0.8**t) / (np.sqrt(v / (1 - 0.9**t)) + 1e-8) + weight_decay * expected)
        np.testing.assert_allclose(params["a"], expected, rtol=1e-5)


def test_a_state_holds_four_numbers_for_each_trained_one():
    """Weight, average and Adam's two moments; nothing else grows with the network."""
    params = {"a": jnp.ones((50, 40)), "b": jnp.ones(70)}
    state = TrainState.create(params, make_optimizer(OptimizerConfig(), 10))
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    trained = sum(p.nbytes for p in params.values())
    assert 4 * trained <= size <= 4 * trained + 16
    # The step donates the state: no buffer may stand in it twice.
    buffers = [leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(state)]
    assert len(set(buffers)) == len(buffers)
