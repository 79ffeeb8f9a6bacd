"""Products, bytes and collectives of compiled programs, beside counts by hand."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cassr_jax.sharding.costs import Collective, collective, work
from cassr_jax.sharding.hlo import parse
from tests.golden.make_hlo import CHANNELS, SIDE, STEPS
from tests.sharding.test_hlo import GOLDEN, MESH, compiled


def flops(text: str) -> float:
    module = parse(text)
    return sum(run.times * work(module, run).flops for run in module.runs())


def nbytes(text: str) -> float:
    module = parse(text)
    return sum(run.times * work(module, run).nbytes for run in module.runs())


def test_products_of_matrices_with_loops():
    def function(x, y):
        return jax.lax.fori_loop(0, 7, lambda _, z: jnp.tanh(z @ y), x @ y)

    assert flops(compiled(function, (64, 32), (32, 32))) == 8 * 2 * 64 * 32 * 32


def test_batched_products():
    text = compiled(lambda x, y: jnp.einsum("bij,bjk->bik", x, y), (3, 64, 32), (3, 32, 48))
    assert flops(text) == 2 * 3 * 64 * 32 * 48


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("padding", ["SAME", "VALID", ((2, 1), (0, 3))])
def test_convolutions_and_their_gradients_count_no_product_with_a_zero(stride: int, groups: int, padding):
    """A convolution of ones sums up how many products it has."""
    convolve = partial(
        jax.lax.conv_general_dilated,
        window_strides=(stride, stride),
        padding=padding,
        feature_group_count=groups,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    shapes = (2, 9, 12, 4), (3, 3, 4 // groups, 6)
    products = float(convolve(*map(jnp.ones, shapes)).sum())
    assert flops(compiled(convolve, *shapes)) == 2 * products

    def gradient(x, kernel):
        return jax.vjp(convolve, x, kernel)[1](jnp.ones_like(convolve(x, kernel)) * x.sum())

    assert flops(compiled(gradient, *shapes)) == pytest.approx(2 * 2 * products, rel=0.02 if groups > 1 else 1e-9)


def test_bytes_are_those_of_what_is_read_and_written():
    assert nbytes(compiled(lambda x, y: x + y, (256, 128), (256, 128))) == 3 * 4 * 256 * 128


def test_a_part_that_is_cut_out_or_changed_costs_only_itself():
    def function(x):
        def step(i, x):
            part = jax.lax.dynamic_slice_in_dim(x, 8 * i, 8)
            return jax.lax.dynamic_update_slice_in_dim(x, 2 * part, 8 * i, axis=0)

        return jax.lax.fori_loop(0, 64, step, x)

    whole = 4 * 512 * 128
    assert 2 * whole <= nbytes(compiled(function, (512, 128))) <= 5 * whole  # a copy at the start and the parts


@pytest.mark.parametrize("name", ["v5e", "h200"])
def test_collectives_have_their_axes_bytes_and_trips(name: str):
    """The program of tests/golden/make_hlo.py, as XLA compiled it for chips that were not there."""
    module = parse((GOLDEN / f"hlo_{name}.txt").read_text("utf-8"))
    found = [each for run in module.runs() if (each := collective(module, run, MESH)) is not None]
    assert [(each.kind, each.axes, each.group, each.nbytes, each.times, each.known) for each in found] == [
        ("all-reduce", ("tensor",), 4, 2 * 256 * CHANNELS, STEPS, True),
        ("all-gather", ("data",), 2, 2 * 512 * CHANNELS, STEPS, True),
        ("all-reduce", ("data", "tensor"), 8, 4 * (SIDE // 2) ** 2 * CHANNELS, 1, True),
    ]
    assert all("make_hlo.py:" in each.source for each in found)
    assert all((each.done != each.name) == (name == "h200") for each in found)


@pytest.mark.parametrize("name", ["v5e", "h200"])
def test_products_of_tpus_and_of_a_gpu_s_libraries(name: str):
    text = (GOLDEN / f"hlo_{name}.txt").read_text("utf-8")
    product = 2 * 256 * CHANNELS**2
    image, kernel = np.ones((1, SIDE, SIDE, CHANNELS), np.float32), np.ones((3, 3, CHANNELS, CHANNELS), np.float32)
    convolved = jax.lax.conv_general_dilated(
        image, kernel, (2, 2), ((1, 1), (1, 1)), dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    convolution = 2 * float(convolved.sum())
    extra = flops(text) - STEPS * product - convolution
    # libtpu cuts the picture into parts that overlap, and computes what they share twice.
    assert extra == 0 if name == "h200" else 0 <= extra <= 1.1 * convolution


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        # From memory into the chip: only what is read crosses, though the tuple names the source once more.
        (
            "%a = (f32[64,8]{1,0:T(8,128)S(1)}, f32[64,8]{1,0:T(8,128)}, u32[]{:S(2)}) copy-start(%p)",
            64 * 8 * 4,
        ),
        ("%a = (f32[64,8]{1,0:T(8,128)}, f32[64,8]{1,0:T(8,128)}, u32[]{:S(2)}) copy-start(%p)", 2 * 64 * 8 * 4),
        (
            "%a = (f32[4,8]{1,0:T(8,128)}, f32[64,8]{1,0:T(8,128)}, u32[]{:S(2)}) slice-start(%p), slice={[0:4]}",
            2 * 4 * 8 * 4,
        ),
        ("%a = f32[64,8]{1,0:T(8,128)S(1)} add(%p, %p)", 2 * 64 * 8 * 4),
        ("%a = f32[64,8]{1,0:S(1)} add(%p, %p)", 3 * 64 * 8 * 4),  # a GPU's, where it means ordinary memory
        ('%a = f32[64,8]{1,0:T(8,128)} custom-call(%p), custom_call_target="ConcatBitcast"', 0),
    ],
)
def test_only_what_crosses_the_memory_counts(line: str, expected: int):
    shape = "f32[64,8]{1,0:T(8,128)}" if "T(" in line else "f32[64,8]{1,0}"
    text = f"ENTRY %main (p: f32[64,8]) -> f32[64,8] {{\n  %p = {shape} parameter(0)\n  ROOT {line}\n}}\n"
    assert nbytes(text) == expected


FUSION = """%all-reduce-scatter (input: f32[2,8]) -> f32[1,8] {
  %input = f32[2,8]{1,0} parameter(0)
  %sum = f32[2,8]{1,0} all-reduce(%input), replica_groups=[2,4]<=[8], to_apply=%add
  %zero = u32[] constant(0)
  ROOT %own = f32[1,8]{1,0} dynamic-slice(%sum, %zero, %zero), dynamic_slice_sizes={1,8}
}

"""


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (
            "%a = (f32[2,8]{1,0}, f32[16,8]{1,0}) all-gather-start(%p), replica_groups=[1,8]<=[8], dimensions={0}",
            ("all-gather", ("data", "tensor"), 8, 16 * 8 * 4),
        ),
        (
            "%a = f32[1,8]{1,0} reduce-scatter(%p), replica_groups=[4,2]<=[2,4]T(1,0), dimensions={0}, to_apply=%add",
            ("reduce-scatter", ("data",), 2, 2 * 8 * 4),
        ),
        (
            "%a = f32[2,8]{1,0} collective-permute(%p), "
            "source_target_pairs={{0,1},{1,2},{2,3},{3,0},{4,5},{5,6},{6,7},{7,4}}",
            ("collective-permute", ("tensor",), 4, 2 * 8 * 4),
        ),
        (
            "%a = f32[2,8]{1,0} all-to-all(%p), replica_groups={{0,1,2,3},{4,5,6,7}}, dimensions={0}",
            ("all-to-all", ("tensor",), 4, 2 * 8 * 4),
        ),
        (  # as a TPU sums over devices and scatters the sum
            "%a = f32[1,8]{1,0} fusion(%p), kind=kCustom, calls=%all-reduce-scatter",
            ("reduce-scatter", ("tensor",), 4, 2 * 8 * 4),
        ),
    ],
)
def test_every_kind_of_collective(line: str, expected: tuple):
    text = f"{FUSION}ENTRY %main (p: f32[2,8]) -> f32[2,8] {{\n  %p = f32[2,8]{{1,0}} parameter(0)\n  ROOT {line}\n}}\n"
    module = parse(text)
    found = [each for run in module.runs() if (each := collective(module, run, MESH)) is not None]
    assert [(each.kind, each.axes, each.group, each.nbytes) for each in found] == [expected]
    assert isinstance(found[0], Collective)


def test_what_slices_send_each_other_is_a_collective_with_the_work_until_it_has_come():
    """As libtpu writes a sum over the slices 1 and 2, each of which has the eight chips of `MESH`."""
    marks = (
        'is_host_transfer=true, frontend_attributes={_xla_host_transfer_rendezvous="all-reduce_0",'
        '_xla_megascale_target="{1,2}x{0:7}",_xla_megascale_transfer_type="ALL_REDUCE"}'
    )
    text = f"""ENTRY %main (p: f32[64,8]) -> f32[64,8] {{
  %p = f32[64,8]{{1,0}} parameter(0)
  %token = token[] after-all()
  %send = (f32[64,8]{{1,0}}, u32[], token[]) send(%p, %token), channel_id=2, {marks}
  %recv = (f32[64,8]{{1,0}}, u32[], token[]) recv(%token), channel_id=1, {marks}
  %beside = f32[64,8]{{1,0}} add(%p, %p)
  %send-done = token[] send-done(%send), channel_id=2
  %recv-done = (f32[64,8]{{1,0}}, token[]) recv-done(%recv), channel_id=1
  ROOT %own = f32[64,8]{{1,0}} get-tuple-element(%recv-done), index=0
}}
"""
    module = parse(text)
    (found,) = [each for run in module.runs() if (each := collective(module, run, MESH)) is not None]
    assert (found.kind, found.axes, found.group) == ("all-reduce", ("slices",), 2)
    assert found.nbytes == 64 * 8 * 4
    assert (found.name, found.done) == ("send", "recv-done")
    assert nbytes(text) == 3 * 64 * 8 * 4  # the sum's alone, which takes two arrays and makes one


def test_a_tpu_s_chain_of_fusions_is_one_collective_with_work_in_between():
    """A chain names its all-gather thrice: where it starts, beside a product of matrices, and where it ends."""
    gather = "all-gather(%a), channel_id=7, replica_groups={{0,1,2,3},{4,5,6,7}}, dimensions={0}"
    text = f"""\
%start (a: f32[1,64]) -> (f32[1,64], f32[4,64]) {{
  %a = f32[1,64]{{1,0}} parameter(0)
  %g = f32[4,64]{{1,0}} {gather}
  ROOT %t = (f32[1,64]{{1,0}}, f32[4,64]{{1,0}}) tuple(%a, %g)
}}

%beside (a: f32[1,64], b: f32[4,64], x: f32[32,16], y: f32[16,8]) -> (f32[32,8], f32[1,64], f32[4,64]) {{
  %a = f32[1,64]{{1,0}} parameter(0)
  %b = f32[4,64]{{1,0}} parameter(1)
  %x = f32[32,16]{{1,0}} parameter(2)
  %y = f32[16,8]{{1,0}} parameter(3)
  %g = f32[4,64]{{1,0}} {gather}
  %d = f32[32,8]{{1,0}} dot(%x, %y), lhs_contracting_dims={{1}}, rhs_contracting_dims={{0}}
  ROOT %t = (f32[32,8]{{1,0}}, f32[1,64]{{1,0}}, f32[4,64]{{1,0}}) tuple(%d, %a, %b)
}}

%end (a: f32[1,64], b: f32[4,64]) -> f32[4,64] {{
  %a = f32[1,64]{{1,0}} parameter(0)
  %b = f32[4,64]{{1,0}} parameter(1)
  ROOT %g = f32[4,64]{{1,0}} {gather}
}}

ENTRY %main (p: f32[1,64], x: f32[32,16], y: f32[16,8]) -> f32[4,64] {{
  %p = f32[1,64]{{1,0}} parameter(0)
  %x = f32[32,16]{{1,0}} parameter(1)
  %y = f32[16,8]{{1,0}} parameter(2)
  %one = (f32[1,64]{{1,0}}, f32[4,64]{{1,0}}) fusion(%p), kind=kCustom, calls=%start
  %a = f32[1,64]{{1,0}} get-tuple-element(%one), index=0
  %b = f32[4,64]{{1,0}} get-tuple-element(%one), index=1
  %two = (f32[32,8]{{1,0}}, f32[1,64]{{1,0}}, f32[4,64]{{1,0}}) fusion(%a, %b, %x, %y), kind=kOutput, output_to_operand_aliasing={{{{1}}: (0, {{}}), {{2}}: (1, {{}})}}, calls=%beside
  %c = f32[1,64]{{1,0}} get-tuple-element(%two), index=1
  %d = f32[4,64]{{1,0}} get-tuple-element(%two), index=2
  ROOT %three = f32[4,64]{{1,0}} fusion(%c, %d), kind=kCustom, calls=%end
}}
"""  # noqa: E501
    module = parse(text)
    runs = {run.instruction.name: run for run in module.runs()}
    (found,) = [each for run in runs.values() if (each := collective(module, run, MESH)) is not None]
    assert (found.kind, found.axes, found.nbytes, found.name, found.done) == (
        ("all-gather", ("tensor",), 4 * 64 * 4, "one", "three")
    )
    beside = work(module, runs["two"])
    assert (beside.flops, beside.nbytes) == (2 * 32 * 16 * 8, 4 * (32 * 16 + 16 * 8 + 32 * 8))


@pytest.mark.parametrize(
    ("target", "made", "operands"),
    [
        ("Forward", "f32[2,9,12,6]", ("f32[2,9,12,4]", "f32[3,3,4,6]")),
        ("BiasActivationForward", "f32[2,9,12,6]", ("f32[2,9,12,4]", "f32[3,3,4,6]")),
        ("BackwardInput", "f32[2,9,12,4]", ("f32[2,9,12,6]", "f32[3,3,4,6]")),
        ("BackwardFilter", "f32[3,3,4,6]", ("f32[2,9,12,4]", "f32[2,9,12,6]")),
    ],
)
def test_cudnn_s_convolutions_cost_the_same_forward_and_backward(target: str, made: str, operands: tuple[str, str]):
    """The labels are those of the forward convolution in all four calls."""
    left, right = operands
    text = f"""\
ENTRY %main (a: {left}, b: {right}) -> {made} {{
  %a = {left} parameter(0)
  %b = {right} parameter(1)
  ROOT %c = ({made}, u8[0]) custom-call(%a, %b), window={{size=3x3 pad=1_1x1_1}}, dim_labels=b01f_01io->b01f, \
custom_call_target="__cudnn$conv{target}"
}}
"""
    ones = jax.lax.conv_general_dilated(
        jnp.ones((2, 9, 12, 4)), jnp.ones((3, 3, 4, 6)), (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    assert flops(text) == 2 * float(ones.sum())
