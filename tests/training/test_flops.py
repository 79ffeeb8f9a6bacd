"""The hand count of a step's work: exactly what the program multiplies, as it is traced and as it is compiled."""

import jax
import numpy as np
import pytest
from flax import nnx

from cassr_jax.config import LossConfig
from cassr_jax.errors import InputError
from cassr_jax.models.dot_product import _LONGEST_WHOLE, _QUERY_BLOCK, dot_product_attention
from cassr_jax.sharding import costs
from cassr_jax.sharding.hlo import parse
from cassr_jax.training.flops import Work, step_work, traced_flops
from cassr_jax.training.setup import build
from tests.training.runs import SIDE, configure, example_keys, make_batch, objective_and_params


def gradient_and_arguments(config, batch):
    objective, trainable, frozen = objective_and_params(config)

    def gradient(trainable, frozen, batch, keys):
        return jax.grad(lambda params: objective(frozen | params, batch, keys), has_aux=True)(trainable)

    return gradient, (trainable, frozen, batch, example_keys(jax.random.key(0)))


@pytest.mark.parametrize("latents", [False, True], ids=["encoded in the step", "prepared latents"])
@pytest.mark.parametrize("stage", ["scedit", "cassr"])
def test_the_hand_count_is_what_the_program_multiplies(stage, latents, networks):
    """To the last product: a backward pass of the frozen encoder, or of anything else in vain, would show."""
    config = configure(stage, networks)
    batch = make_batch(stage)
    if latents:
        del batch["hr"]
        batch["latents"] = np.zeros((2, SIDE // 4, SIDE // 4, 4), np.float32)
    gradient, arguments = gradient_and_arguments(config, batch)
    parts = step_work(config, build(config).configs, latents=latents)
    assert 2 * sum(work.total for work in parts.values()) == traced_flops(jax.make_jaxpr(gradient)(*arguments).jaxpr)
    assert parts["U-Net, encoder and middle"].total == parts["U-Net, encoder and middle"].forward > 0


@pytest.mark.parametrize("stage", ["scedit", "cassr"])
def test_the_hand_count_is_what_the_compiled_program_multiplies(stage, networks):
    config = configure(stage, networks)
    gradient, arguments = gradient_and_arguments(config, make_batch(stage))
    text = jax.jit(gradient).lower(*arguments).compile().as_text()
    assert text is not None
    module = parse(text)
    parts = step_work(config, build(config).configs, latents=False)
    found = sum(run.times * costs.work(module, run).flops for run in module.runs())
    assert found == 2 * sum(work.total for work in parts.values())


def test_a_loop_counts_as_often_as_it_runs():
    length = 2 * _LONGEST_WHOLE
    assert length % _QUERY_BLOCK == 0  # it attends in blocks
    q, kv = jax.ShapeDtypeStruct((1, length, 8), np.float32), jax.ShapeDtypeStruct((1, 16, 8), np.float32)
    jaxpr = jax.make_jaxpr(lambda q, kv: dot_product_attention(q, kv, kv, 2))(q, kv)
    assert traced_flops(jaxpr.jaxpr) == 2 * 2 * length * 16 * 8


def test_zeros_around_the_inputs_and_between_those_of_a_gradient_are_not_counted():
    conv = nnx.Conv(3, 5, (3, 3), strides=2, padding=1, rngs=nnx.Rngs(0))  # rows -1, 1, 3 ... 15: one is padding
    forward, backward = (
        traced_flops(jax.make_jaxpr(function)(np.zeros((1, 16, 16, 3), np.float32)).jaxpr)
        for function in (conv, jax.grad(lambda x: conv(x).sum()))
    )
    assert forward == 2 * (3 * 8 - 1) ** 2 * 3 * 5
    assert backward == 2 * forward


def test_work_adds_up():
    assert (Work(1, 2, 3) + Work(10, 20, 30) * 2) == Work(21, 42, 63)
    assert Work(1, 2, 3).total == 6


def test_other_stages_are_refused(networks):
    config = configure("base", networks, loss=LossConfig())
    with pytest.raises(InputError, match="stage is base, expected scedit or cassr"):
        step_work(config, build(config).configs, latents=True)


def test_attention_counts_once_whatever_kernels_devices_have():
    """A CPU goes by head through 1,024 tokens, and computes scores again for the gradient; that form is not counted."""
    query = jax.ShapeDtypeStruct((1, 1024, 8), np.float32)
    traced = jax.make_jaxpr(jax.grad(lambda q: dot_product_attention(q, q, q, 2).sum()))(query)
    assert "platform_index" in str(traced)
    assert traced_flops(traced.jaxpr) == 6 * 2 * 1024 * 1024 * 8
