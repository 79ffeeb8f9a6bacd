"""What is said of a program: its account, and the plan in a terminal and on a page."""

import json
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from cassr_jax.errors import InputError
from cassr_jax.sharding.account import Account, make_account
from cassr_jax.sharding.chips import CHIPS
from cassr_jax.sharding.page import page
from cassr_jax.sharding.placement import Placement
from cassr_jax.sharding.planned import Plan
from cassr_jax.sharding.report import flops, place, seconds, size, table
from cassr_jax.sharding.strategies import MeshConfig, Strategy
from cassr_jax.sharding.times import Times
from cassr_jax.sharding.topologies import slice_of
from tests.golden.make_hlo import AXES, CHANNELS, SIDE, STEPS
from tests.sharding.plans import example
from tests.sharding.test_times import servers

GOLDEN = Path(__file__).parents[1] / "golden"


def test_the_gradient_of_a_divided_batch_is_one_sum_over_the_devices():
    """On eight simulated devices: a product forward, two backward, and the sum of the gradient."""
    placement = Placement.of(Strategy(MeshConfig(data=8)))

    def gradient(w, v, x):
        return jax.grad(lambda w: jnp.mean((jnp.tanh(x @ w) @ v) ** 2))(w)

    w, v = (jax.ShapeDtypeStruct(shape, "float32", sharding=placement.whole) for shape in ((64, 48), (48, 32)))
    x = jax.ShapeDtypeStruct((256, 64), "float32", sharding=NamedSharding(placement.mesh, P("data")))
    compiled = jax.jit(gradient, out_shardings=placement.whole).lower(w, v, x).compile()
    text = compiled.as_text()
    assert text is not None
    found = make_account(text, compiled.memory_analysis(), {"weights": [w, v], "batch": [x]}, placement.mesh, None)
    assert [(row.kind, row.axes, row.count, row.nbytes) for row in found.traffic] == [
        ("all-reduce", ("data",), 1, 64 * 48 * 4)
    ]
    assert found.flops == 2 * 32 * (2 * 64 * 48 + 2 * 48 * 32)
    assert found.held == {"weights": 4 * (64 * 48 + 48 * 32), "batch": 4 * 32 * 64}
    assert found.total >= sum(found.held.values())
    assert found.times is None


class Memory:
    argument_size_in_bytes, output_size_in_bytes, alias_size_in_bytes, temp_size_in_bytes = 700, 600, 500, 40


@pytest.fixture(scope="module")
def gpu_mesh() -> Mesh:
    class Fake:
        """A mesh of devices that are not here."""

        devices, axis_names, shape = servers(1, 8).reshape(2, 4), AXES, {"data": 2, "tensor": 4}

    return Fake()  # pyright: ignore[reportReturnType]


@pytest.fixture(scope="module")
def account(gpu_mesh: Mesh) -> Account:
    return make_account((GOLDEN / "hlo_h200.txt").read_text("utf-8"), Memory(), {}, gpu_mesh, CHIPS["h200"])


def test_the_account_of_a_recorded_program(account: Account):
    sums = {(row.kind, row.axes): row for row in account.traffic}
    link = CHIPS["h200"].link
    reduced = sums["all-reduce", ("tensor",)]
    assert (reduced.count, reduced.nbytes) == (STEPS, STEPS * 2 * 256 * CHANNELS)
    assert reduced.seconds == pytest.approx(2 * reduced.nbytes * 3 / 4 / link)
    assert sums["all-reduce", AXES].nbytes == 4 * (SIDE // 2) ** 2 * CHANNELS
    assert sums["all-gather", ("data",)].seconds == pytest.approx(sums["all-gather", ("data",)].nbytes / 2 / link)
    assert account.total == 700 + 40 + 100
    assert account.times is not None
    assert account.times.collectives == pytest.approx(sum(row.seconds for row in account.traffic))
    assert 0 <= account.times.hidden <= account.times.collectives
    assert account.times.products == pytest.approx(account.flops / CHIPS["h200"].flops)


def test_work_in_the_window_of_a_collective_hides_it():
    lines = """\
ENTRY %main (p: f32[1024,1024]) -> f32[1024,1024] {
  %p = f32[1024,1024]{1,0} parameter(0)
  %s = f32[1024,1024]{1,0} all-reduce-start(%p), replica_groups=[1,8]<=[8], to_apply=%add
  %d = f32[1024,1024]{1,0} dot(%p, %p), lhs_contracting_dims={1}, rhs_contracting_dims={0}
  %e = f32[1024,1024]{1,0} all-reduce-done(%s)
  ROOT %r = f32[1024,1024]{1,0} dot(%d, %e), lhs_contracting_dims={1}, rhs_contracting_dims={0}
}
"""

    class Fake:
        devices, axis_names, shape = servers(1, 8), ("one", "fsdp"), {"one": 1, "fsdp": 8}

    found = make_account(lines, Memory(), {}, Fake(), CHIPS["h200"])  # pyright: ignore[reportArgumentType]
    (row,) = found.traffic
    dot = 2 * 1024**3 / CHIPS["h200"].flops_float32
    assert row.hidden == pytest.approx(min(row.seconds, dot))
    assert found.times is not None
    assert found.times.work == pytest.approx(2 * dot)


def test_a_loop_in_the_window_hides_as_much_as_it_works():
    """And of what starts together, none is given more than it needs."""
    text = """\
%body (q: (s32[], f32[1024,1024])) -> (s32[], f32[1024,1024]) {
  %q = (s32[], f32[1024,1024]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%q), index=0
  %x = f32[1024,1024]{1,0} get-tuple-element(%q), index=1
  %y = f32[1024,1024]{1,0} dot(%x, %x), lhs_contracting_dims={1}, rhs_contracting_dims={0}
  ROOT %t = (s32[], f32[1024,1024]{1,0}) tuple(%i, %y)
}

%condition (q.1: (s32[], f32[1024,1024])) -> pred[] {
  %q.1 = (s32[], f32[1024,1024]{1,0}) parameter(0)
  ROOT %yes = pred[] constant(true)
}

ENTRY %main (p: f32[1024,1024], z: (s32[], f32[1024,1024])) -> f32[1024,1024] {
  %p = f32[1024,1024]{1,0} parameter(0)
  %small = f32[64,64]{1,0} parameter(1)
  %z = (s32[], f32[1024,1024]{1,0}) parameter(2)
  %a = f32[1024,1024]{1,0} all-reduce-start(%p), replica_groups=[1,8]<=[8], to_apply=%add
  %b = f32[64,64]{1,0} all-reduce-start(%small), replica_groups=[1,8]<=[8], to_apply=%add
  %w = (s32[], f32[1024,1024]{1,0}) while(%z), condition=%condition, body=%body, \
backend_config={"known_trip_count":{"n":"3"}}
  %c = f32[64,64]{1,0} all-reduce-done(%b)
  ROOT %d = f32[1024,1024]{1,0} all-reduce-done(%a)
}
"""

    class Fake:
        devices, axis_names, shape = servers(1, 8), ("one", "fsdp"), {"one": 1, "fsdp": 8}

    found = make_account(text, Memory(), {}, Fake(), CHIPS["h200"])  # pyright: ignore[reportArgumentType]
    (row,) = found.traffic
    assert found.times is not None
    assert found.times.work == pytest.approx(3 * 2 * 1024**3 / CHIPS["h200"].flops_float32)
    assert row.seconds > found.times.work  # so that all of the work hides something, and no more than it
    assert row.hidden == pytest.approx(found.times.work)


def test_a_plan_says_what_follows_from_it():
    plan = example()
    assert plan.account.fits
    assert plan.images_per_second == pytest.approx(32 / 0.901)
    assert plan.utilisation == pytest.approx(2e12 / 0.901 / 197e12)
    assert plan.activations == 4 * 2**30 - 2**20
    assert plan.hours == pytest.approx(0.901 * 1000 / 3600)
    assert Plan.from_json(json.loads(json.dumps(plan.as_json()))) == plan


def test_the_table_has_a_column_for_each_plan():
    lines = table([example(), example(total=20 * 2**30)]).splitlines()
    rows = {line[:30].strip(): line[30:].split("  ") for line in lines}
    assert [cell.strip() for cell in rows["fits"] if cell.strip()] == ["yes", "no, 5.10 GiB too much"]
    assert any("training/step.py:77" in line and "fsdp" in line for line in lines)
    assert any("the compiler" in line and "2 or more" in line for line in lines)


def test_advice_names_what_to_change():
    assert any("wait for each other in 22%" in line and "step.py:77" in line for line in example().advice())
    too_large = example(total=20 * 2**30).advice()
    assert any("remat" in line for line in too_large)
    whole = example(total=20 * 2**30, temporary=2**20, mesh={"data": 8, "fsdp": 1})
    assert any("--strategy fsdp" in line for line in whole.advice())
    assert example(traffic=(), times=Times(0.5, 0.6, 0.7, 0.0, 0.0)).advice() == []


class Tags(HTMLParser):
    def __init__(self):
        super().__init__()
        self.open, self.seen, self.addresses = [], [], []

    def handle_starttag(self, tag, attrs):
        self.seen.append(tag)
        self.addresses += [value for name, value in attrs if name in ("src", "href")]
        if tag not in ("meta", "rect", "line", "circle"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in ("rect", "line", "circle"):
            assert self.open.pop() == tag


def test_the_page_is_whole_and_needs_no_network():
    text = page([example(), example(total=20 * 2**30)], "plan --set a='<b>'")
    tags = Tags()
    tags.feed(text)
    assert tags.open == []
    assert tags.seen.count("svg") == 3  # memory, time, speed
    assert tags.addresses == []
    assert "&lt;b&gt;" in text


def test_the_page_of_a_scan_has_lines_over_the_devices():
    def plan(on: str, count: int) -> Plan:
        return replace(example(mesh={"data": count}), on=on, examples=4 * count)

    text = page([plan("v5e:2x4", 8), plan("v5e:4x8", 32), plan("h200:8", 8)], "plan")
    assert text.count("<svg") == 4
    assert "v5e fsdp</span>" in text
    assert "h200 fsdp</span>" not in text  # a single point
    assert text.count("<circle") == 2


@pytest.mark.parametrize(
    ("value", "words"),
    [(0.0, "0.00 s"), (2.5, "2.50 s"), (0.123456, "123 ms"), (0.00123, "1.23 ms"), (1e-6, "0.0010 ms")],
)
def test_seconds_in_words(value: float, words: str):
    assert seconds(value) == words


def test_figures_in_words():
    assert (size(3.5 * 2**30), size(2**20)) == ("3.50 GiB", "1.0 MiB")
    assert (flops(2.5e12), flops(3e9)) == ("2.50 T", "3.00 G")
    assert (place("/a/b/c.py:7"), place("")) == ("b/c.py:7", "the compiler")


@pytest.mark.parametrize(
    ("kind", "count", "name"),
    [
        ("v5e", 32, "v5e:4x8"),
        ("v5p", 64, "v5p:4x4x4"),
        ("h200", 8, "h200:8"),
        ("h100", 64, "h100:8x8"),
        ("cpu", 8, "cpu:8"),
    ],
)
def test_a_number_of_devices_has_a_usual_form(kind: str, count: int, name: str):
    assert slice_of(kind, count) == name


@pytest.mark.parametrize(
    ("kind", "count", "message"),
    [
        ("h200", 12, "multiple of the 8"),
        ("v5e", 24, "expected 4, 8, 16"),
        ("b200", 8, "b200: nothing can be compiled for it here, expected a100, h100, h200, v4"),
    ],
)
def test_a_number_without_a_usual_form_is_refused(kind: str, count: int, message: str):
    with pytest.raises(InputError, match=message):
        slice_of(kind, count)
