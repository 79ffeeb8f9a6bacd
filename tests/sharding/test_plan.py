"""The command that plans: what it compiles and keeps, prints and refuses."""

import json
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from cassr_jax.config_files import read_config
from cassr_jax.errors import InputError
from cassr_jax.networks import write_network
from cassr_jax.sharding import compiler as in_its_process
from cassr_jax.sharding import plan as command
from cassr_jax.sharding.chips import CHIPS
from cassr_jax.sharding.planned import Plan
from cassr_jax.sharding.sampled import Part, SamplePlan
from cassr_jax.training.search import Site, choices
from tests.random_cascade import NETWORKS, random_params
from tests.sharding.plans import example
from tests.training.test_search import outline

ROOT = Path(__file__).parents[2]


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
