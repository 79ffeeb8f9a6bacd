"""The benchmark for GPUs at narrow widths: what its parts measure, and how it keeps, resumes and bounds them."""

import json
import runpy
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from itertools import groupby
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from benchmarks.on_gpu import timing as clock
from benchmarks.on_gpu import training, unet
from benchmarks.on_gpu.parts import parts
from benchmarks.on_gpu.running import Part, Results, measured, run
from benchmarks.on_gpu.table import table
from cassr_jax.errors import InputError
from cassr_jax.files import Json
from tests import parts_of_a_run
from tests.random_cascade import TILE

ROOT = Path(__file__).parents[1]
PROGRAM = ROOT / "benchmarks" / "gpu.py"
FOUND = runpy.run_path(str(PROGRAM), run_name="gpu")
MAIN, KINDS = FOUND["main"], FOUND["KINDS"]
NARROW = {part.name: part for part in parts(narrow=True)}
DEVICE = {"kind": "a device", "jax": "1.0"}
PLENTY = 600.0


def found_by(name: str) -> Json:
    """The values that a part measures, once they have been through JSON."""
    return json.loads(json.dumps(measured(NARROW[name].measure)))


# What the parts measure


@pytest.mark.parametrize(
    ("name", "label"),
    [
        (f"unet {TILE} px, batch 2", "step"),
        pytest.param(f"cascade {TILE} px, batch 2", "pictures", marks=pytest.mark.slow),
        pytest.param("train remat blocks, batch 2", "step", marks=pytest.mark.slow),
    ],
)
def test_a_part_is_timed(name, label):
    found = found_by(name)
    assert "error" not in found
    timing = found["times"][label]
    assert timing["runs"] == 2
    assert 0 < timing["seconds"] < found["took"]
    assert timing["error"] >= 0
    assert found["examples_per_second"] == pytest.approx(2 / timing["seconds"])


def test_the_step_that_is_timed_trains_what_its_configuration_says(monkeypatch):
    """With a step in its place that compiles at once; the state of one call is the next one's."""
    seen = []

    def make_step(objective, optimizer, config, placement, state, frozen):
        def step(state, frozen, batch):
            seen.append((config, state, frozen, batch))
            return replace(state, step=state.step + 1), {"loss": state.step}

        return jax.jit(step, donate_argnums=0)

    monkeypatch.setattr(training, "make_step", make_step)
    found = found_by("train remat all, batch 2")
    ((config, state, frozen, batch),) = seen
    assert (config.stage, config.batch_size, config.remat) == ("cassr", 2, "all")
    assert {name.partition(".")[0] for name in state.params} == {"controlnet", "multiple_attention"}
    assert {name.partition(".")[0] for name in frozen} == {"vae", "unet", "text_encoder"}
    assert {x.dtype for x in state.params.values()} == {jnp.dtype("float32")}
    assert {name: x.shape for name, x in batch.items()} == dict.fromkeys(("hr", "lq", "reference"), (2, TILE, TILE, 3))
    timing = found["times"]["step"]
    assert timing["compiled_bytes"] > 4 * sum(x.size for x in state.params.values())
    assert found["loss"] == 2 + timing["runs"] * timing["calls_a_run"] - (timing["calls_a_run"] == 1)


@pytest.mark.slow
def test_a_later_start_has_passed_every_point():
    found = found_by("start to the first step")
    assert [*found["times"]] == ["first start", "later start"]
    for label, timing in found["times"].items():
        points = found["seconds_to"][label]
        assert [*points] == ["imports", "device", "weights", "compiled", "in all"]
        assert [*points.values()] == sorted(points.values())
        assert timing["seconds"] == points["in all"]


@pytest.mark.reference
def test_torch_runs_the_same_step_and_leaves_jax_s_devices_alone(monkeypatch):
    pytest.importorskip("torch")
    pytest.importorskip("diffusers")
    ours = found_by(f"unet {TILE} px, batch 2")
    monkeypatch.setattr(jax, "devices", lambda: pytest.fail("JAX would take the device's memory"))
    monkeypatch.setattr(jax, "default_backend", lambda: pytest.fail("JAX would take the device's memory"))
    found = found_by(f"torch {TILE} px, batch 2")
    assert found["flops"] == ours["flops"]
    assert found["times"]["step"]["seconds"] > 0


def test_without_torch_its_parts_are_left_out(monkeypatch):
    unet._torch_unet.cache_clear()
    monkeypatch.setattr(unet, "find_spec", lambda package: None if package == "torch" else find_spec(package))
    assert found_by(f"torch {TILE} px, batch 1") == {"left_out": "torch is not installed"}


def test_a_known_peak_gives_a_utilisation():
    known = {"examples_per_second": 8, "flops": 98.9e12}
    assert clock.rates({"seconds": 0.5}, 4, 98.9e12, "another device") == known
    known["flop_utilisation"] = pytest.approx(0.2)
    assert clock.rates({"seconds": 0.5}, 4, 98.9e12, "NVIDIA H200") == known


def test_the_first_call_does_not_count_and_quick_calls_are_waited_for_together(monkeypatch):
    now, waited = [0.0], []
    lasting = iter([20.0, 0.05, *[0.04] * 2, *[0.06] * 2, *[0.05] * 2])  # s; a run of 0.1 s takes two calls of 0.05 s

    def call() -> float:
        now[0] += next(lasting)
        return now[0]

    monkeypatch.setattr(clock.time, "perf_counter", lambda: now[0])
    found = clock.timed(call, 3, waited.append)
    assert found["first_seconds"] == 20
    assert found["seconds"] == pytest.approx(0.05)
    assert found["error"] == pytest.approx(0.01 / 3**0.5)
    assert (found["runs"], found["calls_a_run"]) == (3, 2)
    assert waited == pytest.approx([20, 20.05, 20.13, 20.25, 20.35])


def test_long_calls_have_two_runs(monkeypatch):
    now = [0.0]

    def call() -> None:
        now[0] += 100

    monkeypatch.setattr(clock.time, "perf_counter", lambda: now[0])
    assert clock.timed(call, 10, lambda _: None)["runs"] == 2


# How they are run


def part(measure: Callable[[], Json], process: str = "", name: str = "") -> Part:
    name = name or measure.__name__
    return Part(name, process or name, measure)


@pytest.fixture
def results(tmp_path) -> Results:
    return Results(tmp_path / "results.json", DEVICE)


def run_all(given: list[Part], results: Results, *, again: bool = False, seconds: float = PLENTY) -> list[str]:
    """Runs parts and gives the lines that were printed."""
    said: list[str] = []
    run(given, results, again=again, seconds=seconds, say=said.append)
    return said


def test_a_part_that_fails_or_ends_its_process_does_not_hold_up_the_rest(tmp_path, results):
    given = [
        part(parts_of_a_run.figures, "one", "a"),
        part(parts_of_a_run.failing, "one"),
        part(parts_of_a_run.not_possible, "one"),
        part(parts_of_a_run.figures, "one", "b"),
        part(parts_of_a_run.ending_its_process, "one"),
        part(parts_of_a_run.figures, "one", "c"),
    ]
    said = run_all(given, results)
    content = json.loads((tmp_path / "results.json").read_text())
    assert content == results.content
    found = content["parts"]
    assert found["failing"]["error"] == "ValueError: a fault"
    assert found["ending_its_process"]["error"] == "its process ended with code 3"
    assert content["left_out"] == {"not_possible": "there is no torch"}
    assert found["a"]["process"] == found["b"]["process"] != found["c"]["process"]
    assert said[1:3] == ["failing: ValueError: a fault", "not_possible: left out, there is no torch"]


def test_after_one_that_does_not_fit_its_process_measures_no_larger_ones(results):
    given = [part(parts_of_a_run.too_large, "one", "batch 4"), part(parts_of_a_run.figures, "one", "batch 8")]
    run_all(given, results)
    assert results.parts["batch 4"]["out_of_memory"]
    assert results.content["left_out"] == {"batch 8": "batch 4 did not fit into the memory"}
    before = results.parts["batch 4"]
    run_all(given, results)  # also when it goes on, without a new attempt
    assert results.parts["batch 4"] is before
    assert "batch 8" not in results.parts


def test_what_is_there_is_measured_again_only_on_demand(tmp_path, results):
    given = [part(parts_of_a_run.figures)]
    run_all(given, results)
    first = results.parts["figures"]
    later = Results(tmp_path / "results.json", DEVICE)
    assert run_all(given, later) == []
    assert later.parts["figures"] == first
    run_all(given, later, again=True)
    assert later.parts["figures"]["process"] != first["process"]


def test_a_part_that_does_not_end_in_time_is_ended_and_named_with_those_after_it(results):
    begun = time.monotonic()
    run_all([part(parts_of_a_run.endless), part(parts_of_a_run.figures)], results, seconds=0.5)
    assert time.monotonic() - begun < 30
    assert results.parts == {}
    assert results.content["left_out"] == {"endless": "it had not ended after 0 s", "figures": "0 s were left"}


def test_a_part_is_not_begun_if_the_one_before_it_took_longer_than_is_left(results):
    results.record("batch 4", {"took": 100.0})
    given = [part(parts_of_a_run.figures, "one", "batch 4"), part(parts_of_a_run.figures, "one", "batch 8")]
    run_all(given, results, seconds=99)
    assert [*results.content["left_out"]] == ["batch 8"]
    run_all(given, results, seconds=PLENTY)
    assert "batch 8" in results.parts
    assert results.content["left_out"] == {}


def test_results_of_other_versions_are_refused(tmp_path, results):
    results.record("a", {"took": 1.0})
    with pytest.raises(InputError, match=r"was measured with jax 1\.0, expected 2\.0"):
        Results(tmp_path / "results.json", DEVICE | {"jax": "2.0"})


# The list of parts, the table and the program


@pytest.mark.parametrize("narrow", [False, True], ids=["full", "narrow"])
def test_parts_have_names_of_their_own_and_known_kinds(narrow):
    given = parts(narrow)
    assert len({part.name for part in given}) == len(given)
    assert {part.kind for part in given} == {*KINDS}
    processes = [process for process, _ in groupby(part.process for part in given)]
    assert len(processes) == len({*processes})  # none is begun twice


def test_the_table_has_a_line_for_each_time():
    step = {"seconds": 0.25, "error": 0.001, "trace_seconds": 1.0, "compile_seconds": 30.0, "first_seconds": 2.0}
    once = {"seconds": 2.0, "error": None, "first_seconds": 0.5, "read_from_cache": True}
    content = {
        "device": DEVICE,
        "parts": {
            "unet": {
                "times": {"step": step},
                "examples_per_second": 16.0,
                "flop_utilisation": 0.416,
                "peak_bytes": 5 * 10**9,
            },
            "attention": {"times": {"plain, forward": once}, "errors": {"plain": {"result": 1e-3, "of key": 4e-3}}},
            "train": {"error": "ValueError: a fault"},
        },
        "left_out": {"cascade": "2 s were left"},
    }
    lines = table(content).splitlines()
    assert lines[0] == "a device, jax 1.0"
    assert lines[4:7] == [
        "| unet | step | 250.000 | 1.000 | 16.00 | 41.6% | 5.00 | 33.0 |  |",
        "| attention | plain, forward | 2000.000 |  |  |  |  |  | 4.0e-03 |",
        "| train | ValueError: a fault |  |  |  |  |  |  |  |",
    ]
    assert lines[-1] == "Left out: cascade (2 s were left)."


@pytest.mark.slow
def test_the_program_measures_attention_and_prints_its_table_again(tmp_path, capsys):
    command = [sys.executable, str(PROGRAM), "--output", str(tmp_path), "--narrow", "--parts", "attention"]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    (file,) = tmp_path.iterdir()
    assert file.name == "cpu_narrow.json"
    found = json.loads(file.read_text())["parts"]
    assert [*found] == [name for name in NARROW if name.startswith("attention")]
    for figures in found.values():
        assert [*figures["times"]] == ["plain, forward", "plain, forward and backward"]
        assert [*figures["errors"]["plain"]] == ["result", "of query", "of key", "of value"]
        # As much as bfloat16 rounds, against float32: 8 bits, in several products.
        assert all(2**-10 < error < 2**-6 for error in figures["errors"]["plain"].values())
    assert MAIN(["--table", "--output", str(tmp_path)]) == 0
    assert said.endswith(capsys.readouterr().out)
    assert MAIN(["--table", "--output", str(tmp_path / "empty")]) == 2
    assert "holds no results" in capsys.readouterr().err
