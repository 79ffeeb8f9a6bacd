"""What is read from a trace of JAX's profiler."""

from types import SimpleNamespace

import pytest
from jax.sharding import Mesh

from cassr_jax.sharding import measured
from cassr_jax.sharding.chips import CHIPS
from cassr_jax.sharding.hlo import parse
from cassr_jax.sharding.measured import operations
from tests.sharding.test_times import servers

PROGRAM = """\
ENTRY %main (p: f32[1024,1024]) -> f32[1024,1024] {
  %p = f32[1024,1024]{1,0} parameter(0)
  %s = f32[1024,1024]{1,0} all-reduce(%p), replica_groups=[1,2]<=[2], metadata={source_file="a.py" source_line=3}
  %d = f32[1024,1024]{1,0} dot(%p, %s), lhs_contracting_dims={1}, rhs_contracting_dims={0}
  ROOT %r = (f32[1024,1024]{1,0}) tuple(%d)
}
"""


def event(name: str, start: float, duration: float, **stats: object) -> SimpleNamespace:
    return SimpleNamespace(name=name, start_ns=start, duration_ns=duration, stats=list(stats.items()))


def plane(name: str, **lines: list[SimpleNamespace]) -> SimpleNamespace:
    named = {"ops": "XLA Ops"}
    return SimpleNamespace(
        name=name, lines=[SimpleNamespace(name=named.get(key, key), events=events) for key, events in lines.items()]
    )


@pytest.fixture
def seconds(monkeypatch, tmp_path):
    """(kind, line) -> (count, seconds, predicted seconds) of the operations in a trace of two calls on two devices."""

    class Fake:
        devices, axis_names, shape, size = servers(1, 2), ("one", "data"), {"one": 1, "data": 2}, 2

    def found(*planes: SimpleNamespace) -> dict[tuple[str, str], tuple[float, float, float | None]]:
        (tmp_path / "t.xplane.pb").touch()
        monkeypatch.setattr(
            measured, "ProfileData", SimpleNamespace(from_file=lambda file: SimpleNamespace(planes=planes))
        )
        mesh: Mesh = Fake()  # pyright: ignore[reportAssignmentType]
        module = parse(PROGRAM)
        rows = operations(tmp_path, module, mesh, 2, CHIPS["h200"])
        return {(row.kind, row.source): (row.count, row.seconds, row.predicted) for row in rows}

    return found


def test_kernels_of_a_gpu_belong_to_their_instructions(seconds):
    stream = [event("kernel", 0, 3000, hlo_op="d"), event("copy", 3000, 10), event("kernel", 4000, 1000, hlo_op="d")]
    rows = seconds(plane("/device:GPU:0", stream=stream), plane("/host:CPU", python=[event("f", 0, 9000)]))
    dot = 2 * 1024**3 / CHIPS["h200"].flops_float32
    assert rows == {("dot", ""): (0.5, pytest.approx(1e-6), pytest.approx(dot / 2))}


def test_a_tpu_tells_its_operations_on_one_line(seconds):
    ops = [event("%s = f32[1024,1024]{1,0} all-reduce(%p)", 0, 8000), event("%other = f32[] add()", 8000, 10)]
    rows = seconds(plane("/device:TPU:0", ops=ops, steps=[event("1", 0, 9000, hlo_op="s")]))
    (row,) = rows.items()
    assert row[0] == ("all-reduce", "a.py:3")
    assert row[1][:2] == (0.25, pytest.approx(2e-6))
    assert row[1][2] == pytest.approx(2 * 4 * 1024**2 / 2 / CHIPS["h200"].link / 4)


def test_what_runs_within_an_operation_is_not_its_own_time(seconds):
    stream = [
        event("loop", 0, 8000, hlo_op="d"),
        event("all-reduce", 1000, 2000, hlo_op="s"),
        event("all-reduce", 3000, 2000, hlo_op="s"),
        event("dot", 8000, 4000, hlo_op="d"),
    ]
    rows = seconds(plane("/host:CPU", stream=stream))
    assert rows["dot", ""][:2] == (0.5, pytest.approx((4000 + 4000) / 4 * 1e-9))
    assert rows["all-reduce", "a.py:3"][:2] == (0.5, pytest.approx(4000 / 4 * 1e-9))
