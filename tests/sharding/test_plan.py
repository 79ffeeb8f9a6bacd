"""Plans: what is said of them, in a terminal and on a page, and the command that makes them."""

import json
from contextlib import suppress
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from cassr_jax.config_files import read_config
from cassr_jax.errors import InputError
from cassr_jax.networks import write_network
from cassr_jax.sharding import compiler as in_its_process
from cassr_jax.sharding import plan as command
from cassr_jax.sharding.account import Account, Traffic, make_account
from cassr_jax.sharding.chips import CHIPS
from cassr_jax.sharding.page import page
from cassr_jax.sharding.placement import Placement
from cassr_jax.sharding.planned import Plan
from cassr_jax.sharding.report import flops, place, seconds, size, table
from cassr_jax.sharding.sampled import Part, SamplePlan
from cassr_jax.sharding.strategies import MeshConfig, Strategy
from cassr_jax.sharding.times import Times
from cassr_jax.sharding.topologies import slice_of
from cassr_jax.training.search import Site, choices
from tests.golden.make_hlo import AXES, CHANNELS, SIDE, STEPS
from tests.random_cascade import NETWORKS, random_params
from tests.sharding.test_times import servers
from tests.training.test_search import outline

ROOT = Path(__file__).parents[2]

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


def example(**changes) -> Plan:
    rows = (
        Traffic("all-gather", ("fsdp",), "/x/cassr_jax/training/step.py:77", 12, 3 * 2**30, 0.3, 0.1, True),
        Traffic("all-to-all", None, "", 2, 2**20, 0.001, 0.0, False),
    )
    held = {"trained parameters": 2**30, "optimizer": 2 * 2**30}
    account = Account(
        {"data": 1, "fsdp": 8, "spatial": 1, "tensor": 1}, held, 4 * 2**30, 8 * 2**30, 16e9, 3e12, 5e11, rows,
        Times(0.5, 0.6, 0.7, 0.301, 0.1),
    )  # fmt: skip
    return Plan("v5e:2x4", "fsdp", "cassr", 32, 1000, 2e12, 2**20, replace(account, **changes))


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


@pytest.fixture
def compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[tuple]:
    """A compiler that takes no time; what it was asked for."""
    asked = []

    def compile_for(config, on, strategy, effort, measured_steps):
        asked.append((on, strategy, config.batch_size, effort))
        if on.startswith("v4"):
            raise InputError("v4:2x2x2: no compiler")
        return replace(example(), on=on, strategy=strategy)

    monkeypatch.setattr("cassr_jax.training.compile_ahead.compile_for", compile_for)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return asked


CONFIG = ("--config", "configs/smoke.py")
CONFIGURED = read_config(Path("configs/smoke.py"))


def test_the_command_compares_and_keeps_what_it_has_compiled(compiler, tmp_path: Path, capsys):
    given = [*CONFIG, "--on", "v5e:2x4", "h200:8", "--strategy", "dp", "fsdp"]
    files = ["--json", str(tmp_path / "plans.json"), "--page", str(tmp_path / "plans.html")]
    assert command.main([*given, *files]) == 0
    assert [row[:2] for row in compiler] == [(on, name) for on in ("v5e:2x4", "h200:8") for name in ("dp", "fsdp")]
    first = capsys.readouterr().out
    assert len(json.loads((tmp_path / "plans.json").read_text())["plans"]) == 4
    assert "<svg" in (tmp_path / "plans.html").read_text()
    assert command.main(given) == 0
    assert len(compiler) == 4
    assert capsys.readouterr().out == first
    assert command.main([*given, "--effort", "full"]) == 0
    assert len(compiler) == 8


@pytest.mark.parametrize("change", ["a network", "a variable"])
def test_a_kept_plan_is_of_the_same_networks_and_settings(
    change: str, compiler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    vae = NETWORKS["vae"]
    write_network(tmp_path / "vae", "vae", vae, random_params("vae"))
    config = tmp_path / "config.py"
    config.write_text(
        "from cassr_jax.config import TrainConfig\nfrom cassr_jax.data.config import DataConfig\n"
        "config = TrainConfig('vae', DataConfig('unused'), components={'vae': 'vae'})\n"
    )
    given = ["--config", str(config), "--on", "v5e:2x4"]
    assert command.main(given) == 0
    assert command.main(given) == 0
    assert len(compiler) == 1
    if change == "a network":
        described = json.loads((tmp_path / "vae" / "config.json").read_text())
        (tmp_path / "vae" / "config.json").write_text(json.dumps(described | {"block_out_channels": [8, 16, 16]}))
    else:
        monkeypatch.setenv("LIBTPU_INIT_ARGS", "--xla_tpu_enable_async_collective_fusion=false")
    assert command.main(given) == 0
    assert len(compiler) == 2


def test_a_damaged_kept_plan_is_made_anew(compiler, tmp_path: Path, capsys):
    for content in (None, "{", "{}", "[]", '{"account": 1}'):
        for file in (tmp_path / "cache" / "cassr_jax" / "plans").glob("*.json") if content is not None else ():
            file.write_text(content)
        assert command.main([*CONFIG, "--on", "v5e:2x4"]) == 0
    assert len(compiler) == 5


def test_a_plan_that_fails_does_not_cost_the_others(compiler, capsys):
    assert command.main([*CONFIG, "--on", "v4:2x2x2", "v5e:2x4"]) == 2
    printed = capsys.readouterr()
    assert "v4:2x2x2: no compiler" in printed.err
    assert "v5e:2x4 as configured" in printed.out


def test_files_that_cannot_be_written_are_refused_before_anything_is_compiled(compiler, tmp_path: Path, capsys):
    (tmp_path / "file").touch()
    for more, message in (
        (["--json", str(tmp_path)], "is a folder, expected a file"),
        (["--page", str(tmp_path / "file" / "page.html")], "is a file; expected a folder"),
        (["--json", str(tmp_path / "x"), "--page", str(tmp_path / "x")], "expected two files"),
    ):
        with suppress(SystemExit):
            assert command.main([*CONFIG, "--on", "v5e:2x4", *more]) == 2
        assert message in capsys.readouterr().err
    assert compiler == []


def test_a_scan_that_gives_no_whole_batch_is_refused(compiler, capsys):
    assert command.main([*CONFIG, "--on", "h200", "--scan", "64,8", "--set", "batch_size=4"]) == 2
    assert "batch_size is 4 for 64 devices, expected one that gives a whole batch for 8" in capsys.readouterr().err


def test_a_scan_lets_the_batch_grow(compiler):
    assert command.main([*CONFIG, "--on", "v5e", "--scan", "8,32", "--set", "batch_size=16"]) == 0
    assert [row[0:3:2] for row in compiler] == [("v5e:2x4", 16), ("v5e:4x8", 64)]


def test_a_cascade_is_planned_with_its_changes(compiler, monkeypatch, capsys):
    part = Part("result", "decode", 4, example().account)

    def plan_sampling(config, source, base, on, effort):
        compiler.append((on, config.sampling.num_steps, config.schedule, effort))
        return SamplePlan(on, source, 2, 64, config.tile, (part,), example().account)

    monkeypatch.setattr("cassr_jax.sampling_ahead.plan_sampling", plan_sampling)
    given = ["--config", "configs/sd15.py", "--on", "v5e:2x4", "h200:8", "--sample", "--set", "sampling.num_steps=7"]
    assert command.main(given) == 0
    assert command.main(given) == 0
    assert [row[:2] for row in compiler] == [("v5e:2x4", 7), ("h200:8", 7)]
    printed = capsys.readouterr().out
    assert "64 of 512 px" in printed
    assert "2 x 8" in printed
    assert f"{2 * 64 / example().account.times.guess:,.2f}" in printed


def hosts_of(count: int, hosts: int) -> list[SimpleNamespace]:
    """As many devices, with what a search asks of them."""
    return [SimpleNamespace(process_index=i * hosts // count) for i in range(count)]


def test_auto_ranks_all_ways_and_compiles_the_best(compiler, monkeypatch, capsys):
    present = {"v5e:2x4": hosts_of(8, 1), "h100:2x8": hosts_of(16, 2)}
    ask = in_its_process.compiling

    def compiling(on, effort, work, *args):
        return work(present[on], *args) if on in present else ask(on, effort, work, *args)

    monkeypatch.setattr(in_its_process, "compiling", compiling)
    monkeypatch.setattr("cassr_jax.training.outline.outline_of", lambda config: outline())
    given = [*CONFIG, "--on", "v5e:2x4", "h100:2x8", "--strategy", "auto", "--set", "batch_size=64"]
    assert command.main([*given, "--compile", "1"]) == 0
    printed = capsys.readouterr().out
    for (on, name, batch_size, _), site in zip(compiler, (Site(8, (2, 4)), Site(16, (8,), 2)), strict=True):
        chosen = choices(replace(CONFIGURED, batch_size=64), outline(), site, CHIPS[on.partition(":")[0]])[0]
        assert (name, batch_size) == (chosen.says, 64)
        assert f"{on}, 64 examples: " in printed
        assert f"fastest of the ways of auto that fit: {on} {name}\n  {chosen.options}\n" in printed
    assert command.main([*CONFIG, "--on", "h200:8@2", "--strategy", "auto"]) == 2
    assert "h200:8@2: found the size '8@2', expected GPUs or hosts x GPUs" in capsys.readouterr().err
    assert command.main([*CONFIG, "--on", "cpu:8", "--strategy", "auto"]) == 2
    assert "cpu:8: its rates are not known, expected devices of v4, v5e" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("on", "devices", "site"),
    [
        ("v5e:8x8", hosts_of(64, 16), Site(64, [8, 8], 16)),
        ("v5e:4x4@2", hosts_of(32, 8), Site(32, [4, 4], 8, 2)),
        ("tpu7x:2x2x1", hosts_of(8, 1), Site(8, [2, 2, 1, 2])),
        ("h200:4x8", hosts_of(32, 4), Site(32, [8], 4)),
    ],
)
def test_what_a_search_asks_of_devices(on: str, devices: list, site: Site):
    assert command.site_of(devices, on) == site


def test_of_the_ways_that_fit_the_fastest_is_named():
    def plan(name: str, guess: float, capacity: float) -> Plan:
        account = replace(example().account, times=SimpleNamespace(guess=guess), capacity=capacity)
        return replace(example(), strategy=name, account=account)

    ways = [(plan("slow", 9.0, 1e15), "a"), (plan("fast", 5.0, 1e15), "b"), (plan("too large", 0.1, 1.0), "c")]
    assert command.fastest(ways) == f"fastest of the ways of auto that fit: {example().on} fast\n  b"
    assert command.fastest(ways[2:]) == ""


def test_a_user_without_a_home_plans_too(compiler, monkeypatch, capsys):
    def home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", home)
    assert command.main([*CONFIG, "--on", "h200:8", "--strategy", "fsdp"]) == 0
    assert len(compiler) == 1


def test_a_named_strategy_is_changed_by_what_is_set(compiler, monkeypatch):
    seen = []

    def planned(case, *_, **__):
        seen.append(case.known["config"]["strategy"])
        return example()

    monkeypatch.setattr(command, "planned", planned)
    assert command.main([*CONFIG, "--on", "v5e:4x4", "--strategy", "fsdp_tp", "--set", "strategy.mesh.tensor=4"]) == 0
    assert seen[0]["mesh"] == {"data": 1, "fsdp": -1, "spatial": 1, "tensor": 4}
    assert seen[0]["rules"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--on", "v5e:2x4", "--sample", "--strategy", "fsdp"], "--sample beside --strategy: expected only --on"),
        (["--on", "v5e", "--sample", "--scan", "8"], "--sample beside --scan: expected only --on"),
        (["--on", "v5e"], "--on v5e: expected a size too"),
        (["--on", "v5e:2x4", "--scan", "8"], "--on v5e:2x4: expected only the kind"),
        (["--on", "v5e", "--scan", "8,x"], "expected numbers of devices"),
        (["--on", "v5e:2x4", "--layout", "--json", "a"], "--json beside --layout: expected one of them"),
        (["--on", "v5e:2x4", "--compile", "3"], "--compile needs --strategy auto"),
        (["--on", "v5e:2x4", "--strategy", "auto", "--set", "remat=all"], "--set remat=all beside --strategy auto"),
        (
            ["--on", "v5e:2x4", "--strategy", "auto", "--set", "seed=1", "strategy.mesh.fsdp=2"],
            "--set strategy.mesh.fsdp=2 beside --strategy auto: expected one of them",
        ),
    ],
)
def test_what_makes_no_sense_is_refused(compiler, given: list[str], message: str, capsys):
    with pytest.raises(SystemExit) as ended:
        command.main([*CONFIG, *given])
    assert ended.value.code == 2
    assert message in capsys.readouterr().err
    assert compiler == []


@pytest.mark.parametrize("path", sorted((ROOT / "docs" / "plans").glob("*.json")), ids=lambda path: path.name)
def test_the_plans_in_the_docs_can_be_read_and_name_lines_that_are_there(path: Path):
    plans = json.loads(path.read_text())["plans"]
    assert plans
    for found in plans:
        plan = (SamplePlan if "parts" in found else Plan).from_json(found)
        accounts = [plan.account, *(part.account for part in getattr(plan, "parts", ()))]
        sources = {row.source for account in accounts for row in account.traffic}
        assert not [source for source in sources if source.startswith("/")]
        for source in (source for source in sources if source.startswith("cassr_jax/")):
            file, _, line = source.rpartition(":")
            assert int(line) <= len((ROOT / file).read_text().splitlines())
        assert plan.title.startswith(plan.on)
