"""What is read from XLA's account of a program."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from cassr_jax.sharding.placement import Placement
from cassr_jax.sharding.report import Collective, bytes_per_device, collectives, describe
from cassr_jax.sharding.strategies import MeshConfig, Strategy

MODULE = """
  %all-reduce.1 = f32[16,8]{1,0} all-reduce(f32[16,8]{1,0} %dot), replica_groups=[1,8]<=[8], to_apply=%add
  %all-reduce.2 = (f32[4]{0}, bf16[2,3]{1,0:T(8,128)(2,1)}) all-reduce(%a, %b), to_apply=%add
  %all-gather-start = (f32[2,8]{1,0:T(8,128)}, f32[16,8]{1,0:T(8,128)}) all-gather-start(%p), dimensions={0}
  %all-gather-done = f32[16,8]{1,0} all-gather-done(%all-gather-start)
  %permute = pred[7]{0} collective-permute(%q), source_target_pairs={{0,1}}
  %fusion = f32[16,8]{1,0} fusion(%all-gather-done), kind=kLoop, calls=%all-reduce-scatter-fusion
"""


def test_collectives_are_counted_by_kind_with_the_bytes_of_their_results():
    assert collectives(MODULE) == [
        Collective("all-reduce", 2, 16 * 8 * 4 + 4 * 4 + 6 * 2),
        Collective("all-gather", 1, 16 * 8 * 4),
        Collective("collective-permute", 1, 7),
    ]


@pytest.fixture(scope="module")
def compiled():
    placement = Placement.of(Strategy(MeshConfig(data=8)))

    def gradient(w, x):
        return jax.grad(lambda w: jnp.mean((x @ w) ** 2))(w)

    w = jax.ShapeDtypeStruct((32, 16), "float32", sharding=placement.whole)
    x = jax.ShapeDtypeStruct((64, 32), "float32", sharding=NamedSharding(placement.mesh, P("data")))
    return jax.jit(gradient, out_shardings=placement.whole).lower(w, x).compile(), w, x


def test_the_gradient_of_a_divided_batch_is_one_sum_over_the_devices(compiled):
    found = collectives(compiled[0].as_text())
    assert found == [Collective("all-reduce", 1, 32 * 16 * 4)]


def test_a_report_says_what_each_device_holds_and_does(compiled):
    program, w, x = compiled
    assert bytes_per_device([w, x]) == 32 * 16 * 4 + 8 * 32 * 4
    lines = dict(line.split("  ", 1) for line in describe(program, {"weights": w}).splitlines())
    assert lines["weights"].strip() == "0.0 MiB"
    assert lines["all-reduce"].strip() == "1 calls, 0.0 MiB"
    assert {"activations and gradients", "together", "FLOPs of a step"} <= lines.keys()
