"""What is read from the text of compiled programs: for this machine, and recorded for TPUs and GPUs."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cassr_jax.sharding.costs import work
from cassr_jax.sharding.groups import axes_of, groups_of
from cassr_jax.sharding.hlo import Array, Instruction, Module, Run, Unstated, parse

GOLDEN = Path(__file__).parents[1] / "golden"
MESH = {"data": 2, "tensor": 4}


def compiled(function, *shapes: tuple[int, ...]) -> str:
    text = jax.jit(function).lower(*(jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes)).compile().as_text()
    assert text is not None
    return text


def products(module: Module) -> list[Run]:
    """What is scheduled of matrix products, each by itself or within a fusion."""
    return [run for run in module.runs() if work(module, run).flops]


def test_the_bodies_of_nested_loops_run_as_often_as_they_do():
    def function(x):
        def inner(_, x):
            return jnp.tanh(x @ x)

        return jax.lax.fori_loop(0, 3, lambda _, x: jax.lax.fori_loop(2, 7, inner, x) + 1, x)

    runs = products(parse(compiled(function, (32, 32))))
    assert sum(run.times for run in runs) == 15
    assert all(run.known for run in runs)


def test_a_loop_that_ends_by_its_values_counts_once_and_says_so():
    def function(x):
        return jax.lax.while_loop(lambda x: jnp.sum(x) < 10, lambda x: jnp.tanh(x @ x) + 1, x)

    (run,) = products(parse(compiled(function, (32, 32))))
    assert (run.times, run.known) == (1, False)


def test_an_instruction_names_the_line_it_came_from():
    module = parse(compiled(lambda x: x @ x, (32, 32)))
    (run,) = products(module)
    file, _, line = module.source(run.instruction).rpartition(":")
    assert file == "tests/sharding/test_hlo.py"  # on every machine
    assert "x @ x, (32, 32)" in Path(__file__).read_text().splitlines()[int(line) - 1]


def test_a_line_of_an_installed_package_begins_with_its_name():
    text = """HloModule m

FileNames
1 "/home/someone/.venv/lib/python3.11/site-packages/flax/nnx/nn/linear.py"

FunctionNames
1 "__call__"

FileLocations
1 {file_name_id=1 function_name_id=1 line=904 end_line=904 column=9 end_column=20}

StackFrames
1 {file_location_id=1 parent_frame_id=1}

ENTRY %main (p: f32[2]) -> f32[2] {
  %p = f32[2]{0} parameter(0)
  ROOT %sum = f32[2]{0} add(%p, %p), metadata={op_name="add" stack_frame_id=1}
}
"""
    module = parse(text)
    assert [module.source(run.instruction) for run in module.runs()] == ["", "flax/nnx/nn/linear.py:904"]


def test_what_another_kind_of_core_computes_is_read_too():
    text = """HloModule m

%sent (p: f32[8]) -> f32[8] {
  %p = f32[8]{0} parameter(0)
  ROOT %sum = f32[8]{0} all-reduce(%p), replica_groups={{0,1}}, to_apply=%add
}, execution_thread="sparsecore"

ENTRY %main (x: f32[8]) -> f32[8] {
  %x = f32[8]{0} parameter(0)
  ROOT %call = f32[8]{0} call(%x), to_apply=%sent
}
"""
    module = parse(text)
    assert {*module.computations} == {"sent", "main"}
    assert [run.instruction.opcode for run in module.runs()].count("all-reduce") == 1


def test_a_text_that_is_no_program_is_refused():
    with pytest.raises(ValueError, match="no entry computation"):
        parse("HloModule nothing\n")


@pytest.mark.parametrize(("array", "nbytes"), [("f32", 24), ("bf16", 12), ("pred", 6), ("s4", 3), ("token", 0)])
def test_bytes_of_an_array(array: str, nbytes: int):
    assert Array(array, (2, 3)).nbytes == nbytes


@pytest.mark.parametrize(
    ("text", "groups"),
    [
        ("{{0,1},{2,3}}", [(0, 1), (2, 3)]),
        ("[2,2]<=[4]", [(0, 1), (2, 3)]),
        ("[2,2]<=[2,2]T(1,0)", [(0, 2), (1, 3)]),
        ("mesh['a'=2,'b'=2] {'b'}", [(0, 1), (2, 3)]),
        ("mesh['a'=2,'b'=2] {'a'}", [(0, 2), (1, 3)]),
        ("mesh['a'=2,'b'=2], device_ids=([2,2]T(1,0)) {'b'}", [(0, 2), (1, 3)]),
        ("mesh['a'=2,'b'=2], device_ids=(0,3,1,2) {'b'}", [(0, 3), (1, 2)]),
        ("mesh['a'=4] {'a':(1)2}", [(0, 2), (1, 3)]),
        ("mesh['a'=4] {'a':(2)2}", [(0, 1), (2, 3)]),
        ("{}", [(0, 1, 2, 3)]),
        ("", [(0, 1, 2, 3)]),
    ],
)
def test_groups_are_read_in_every_form(text: str, groups: list[tuple[int, ...]]):
    assert sorted(groups_of(text, 4)) == groups


def test_groups_of_an_unknown_form_are_refused():
    for text in ("mesh['a'=4]", "<=[4]", "{'a'}"):
        with pytest.raises(ValueError, match="a form that is not known"):
            groups_of(text, 4)


def test_an_attribute_with_a_mesh_ends_with_its_axes():
    text = "channel_id=1, replica_groups=mesh['a'=2,'b'=2], device_ids=([2,2]T(1,0)) {'b'}, dimensions={0}"
    found = Instruction("x", "all-gather", (), (), text).attribute("replica_groups")
    assert found == "mesh['a'=2,'b'=2], device_ids=([2,2]T(1,0)) {'b'}"


@given(st.lists(st.integers(1, 4), min_size=1, max_size=4), st.data())
def test_the_axes_of_groups_are_found(sizes: list[int], data: st.DataObject):
    mesh = {f"axis{number}": size for number, size in enumerate(sizes)}
    chosen = data.draw(st.sets(st.sampled_from(list(mesh))))
    devices = np.arange(np.prod(sizes)).reshape(sizes)
    order = sorted(range(len(sizes)), key=lambda axis: f"axis{axis}" in chosen)
    each = int(np.prod([mesh[name] for name in chosen]))
    groups = devices.transpose(order).reshape(-1, each).tolist()
    found = axes_of(groups, mesh)
    assert found is not None
    assert set(found) == {name for name in chosen if mesh[name] > 1}


def test_groups_that_follow_no_axes_have_none():
    assert axes_of([(0, 5), (1, 4), (2, 7), (3, 6)], MESH) is None
    assert axes_of([(0, 1), (2, 3), (4, 5), (6, 7)], MESH) is None


@pytest.mark.parametrize("name", ["v5e", "h200"])
def test_programs_of_tpus_and_gpus_are_read(name: str):
    module = parse((GOLDEN / f"hlo_{name}.txt").read_text("utf-8"))
    assert {run.times for run in module.runs()} == {1, 3}
    assert all(run.known for run in module.runs())


LOOP = """\
%body (b: (s32[], f32[8,8])) -> (s32[], f32[8,8]) {
  %b = (s32[], f32[8,8]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%b), index=0
  %x = f32[8,8]{1,0} get-tuple-element(%b), index=1
  %d = f32[8,8]{1,0} dot(%x, %x), lhs_contracting_dims={1}, rhs_contracting_dims={0}
  %one = s32[] constant(1)
  %next = s32[] add(%i, %one)
  ROOT %t = (s32[], f32[8,8]{1,0}) tuple(%next, %d)
}

%condition (c: (s32[], f32[8,8])) -> pred[] {
  %c = (s32[], f32[8,8]{1,0}) parameter(0)
  %j = s32[]{:T(128)} get-tuple-element(%c), index=0
  %end = s32[]{:T(128)} constant(7)
  ROOT %less = pred[]{:T(512)} compare(%j, %end), direction=LT
}

ENTRY %main (p: f32[8,8]) -> (s32[], f32[8,8]) {
  %p = f32[8,8]{1,0} parameter(0)
  %two = s32[] constant(2)
  %copy = s32[] copy(%two)
  %start = (s32[], /*index=1*/f32[8,8]{1,0}) tuple(%copy, %p)
  ROOT %w = (s32[], f32[8,8]{1,0}) while(%start), condition=%condition, body=%body
}
"""


@pytest.mark.parametrize(
    ("old", "new", "times", "known"),
    [
        ("", "", 5, True),
        ("direction=LT", "direction=LE", 1, False),
        ("constant(7)", "constant(1)", 0, True),
        ("%two = s32[] constant(2)", "%two = s32[] partition-id()", 1, False),
    ],
)
def test_trips_follow_from_the_constants_of_a_loop(old: str, new: str, times: int, known: bool):
    """As libtpu writes its loops, which state no number of trips."""
    (run,) = products(parse(LOOP.replace(old, new) if old else LOOP))
    assert (run.times, run.known) == (times, known)


def test_what_is_data_is_told():
    """A loop to an argument, with a condition on an argument in it."""

    def function(x, y, last, flag):
        def body(_, x):
            with jax.named_scope("chosen"):
                return jax.lax.cond(flag, lambda: x @ y @ y @ y, lambda: x @ y)

        return jax.lax.fori_loop(0, last, body, x)

    shapes = [jax.ShapeDtypeStruct((8, 8), "float32")] * 2
    numbers = jax.ShapeDtypeStruct((), "int32"), jax.ShapeDtypeStruct((), "bool")
    module = parse(jax.jit(function).lower(*shapes, *numbers).compile().as_text() or "")

    def often(unstated: Unstated | None) -> list[tuple[float, bool]]:
        return sorted((run.times, run.known) for run in module.runs(unstated) if work(module, run).flops)

    assert often(None) == [(1, False)] * 4
    assert often(Unstated(10)) == [(10, True)] * 4
    assert often(Unstated(10, {"chosen": 0.2})) == [(2, True)] * 3 + [(8, True)]
    assert often(Unstated(10, {"another": 0.2})) == [(10, True)] * 4
