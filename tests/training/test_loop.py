"""Whole runs of narrow networks: interrupted or not, the result is the same to the bit."""

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cassr_jax
from cassr_jax.config import OptimizerConfig, TrainConfig
from cassr_jax.config_files import from_json, to_json
from cassr_jax.data.pipeline import Batches, batches
from cassr_jax.data.prepared import write_records
from cassr_jax.errors import InputError
from cassr_jax.imaging.pixels import to_float
from cassr_jax.locks import claimed
from cassr_jax.models.parameters import merge, select
from cassr_jax.networks import Networks
from cassr_jax.training import loop, monitor, setup
from cassr_jax.training.checkpoint import Checkpoints
from cassr_jax.training.export import export, kept_pictures
from cassr_jax.training.state import TrainState, make_optimizer
from tests.data.measures import picture
from tests.random_cascade import NETWORKS, write_random_cascade
from tests.training.runs import SIDE, assert_same, configure, restore, steps_of, write_pictures, zeros


class Interrupted(Exception):
    pass


class Watched:
    """A data iterator that notes the records it gives, and fails where a run is to be interrupted."""

    def __init__(self, stream: Any, keys: list, stop: int | None):
        self.stream, self.keys, self.stop = stream, keys, stop

    def __next__(self):
        if len(self.keys) == self.stop:
            raise Interrupted
        batch = next(self.stream)
        self.keys.append(tuple(batch["record"].tolist()))
        return batch

    def __getattr__(self, name: str):
        return getattr(self.stream, name)


@pytest.fixture
def watch(monkeypatch) -> Callable[..., list]:
    """Watch the training batches of the next run; those of the export are of another size."""

    def start(config: TrainConfig, stop: int | None = None) -> list:
        keys: list = []

        def watched(data, *, batch_size, **stream_of):
            stream = batches(data, batch_size=batch_size, **stream_of)
            return Watched(stream, keys, stop) if batch_size == config.batch_size else stream

        monkeypatch.setattr(setup, "batches", watched)
        return keys

    return start


def test_a_finished_run_leaves_its_checkpoints_its_metrics_and_its_configuration(config, finished):
    assert steps_of(finished, config) == [6, 7]
    expected = {"checkpoints", "config.json", "export", "metrics.jsonl", "tensorboard"}
    assert {path.name for path in finished.iterdir()} == expected
    lines = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 4, 6, 7]
    measured = {"loss", "gradient_norm", "learning_rate", "skipped", "l1", "lpips", "kl"}
    timed = {"seconds_per_step", "images_per_second", "data_wait"}
    assert all(set(line) == {"step"} | measured | timed for line in lines)
    assert from_json(TrainConfig, json.loads((finished / "config.json").read_text()), "config.json") == config


@pytest.mark.slow
def test_damaged_records_are_counted_in_the_metrics(config, networks, tmp_path, monkeypatch):
    pictures = write_pictures(tmp_path / "pictures", 3)

    def open_then_break(*args, **kwargs):
        stream = batches(*args, **kwargs)
        (pictures / "1.png").write_bytes(b"nothing")
        return stream

    monkeypatch.setattr(setup, "batches", open_then_break)
    data = replace(config.data, path=str(pictures), cache_bytes=0)
    loop.train(replace(config, data=data, num_steps=4), tmp_path / "run")
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["damaged_records"] >= 2  # of eight records at least two are the broken one's


def test_the_export_is_the_average(config, finished):
    state, _ = restore(config, finished)
    assert int(state.step) == 7
    vae = Networks().with_read("vae", str(finished / "export" / "vae"), "float32")
    assert_same(vae.params, state.ema)
    assert any(not np.array_equal(state.ema[name], state.params[name]) for name in state.ema)
    assert vae.configs["vae"] == NETWORKS["vae"]


def test_a_new_autoencoder_is_exported_with_a_scaling_factor_for_unit_latents(config, tmp_path):
    networks = setup.build(config)
    state = TrainState.create(networks.params, make_optimizer(config.optimizer, config.num_steps))
    export(
        replace(config, new={"vae": NETWORKS["vae"]}),
        networks,
        state,
        {},
        tmp_path / "export",
        lambda: setup.sample_batch(config, 64, setup.open_sets(config)),
    )
    vae = Networks().with_read("vae", str(tmp_path / "export" / "vae"), "float32")
    factor = vae.configs["vae"].scaling_factor
    assert vae.configs["vae"] == replace(NETWORKS["vae"], scaling_factor=factor)
    assert abs(factor / NETWORKS["vae"].scaling_factor - 1) > 0.01
    images = to_float(jnp.asarray(next(batches(config.data, batch_size=64, seed=config.seed))["hr"]))

    @jax.jit
    def read(params, images):
        return merge(vae.graphdefs["vae"], select(params, "vae")).moments(images)

    mean, logvar = (np.asarray(x, np.float64) for x in read(vae.params, images))
    latents = factor * (mean + np.exp(0.5 * logvar) * np.random.default_rng(0).normal(size=mean.shape))
    assert abs(latents.std() - 1) < 0.01
    np.testing.assert_allclose(factor, 1 / np.sqrt(mean.var() + np.exp(logvar).mean()), rtol=1e-4)


def test_a_new_controlnet_starts_as_the_unets_encoder(networks, monkeypatch):
    monkeypatch.setattr("cassr_jax.kinds.initialise", zeros)
    config = configure("controlnet", networks)
    del config.components["activation_controlnet"]
    params = setup.build(replace(config, new={"activation_controlnet": NETWORKS["activation_controlnet"]})).params
    unet, controlnet = select(params, "unet"), select(params, "activation_controlnet")
    parts = {name.split(".")[0] for name in controlnet.keys() & unet.keys()}
    assert parts == {"conv_in", "time_embedding", "down_blocks", "mid_block"}
    for name, value in controlnet.items():
        np.testing.assert_array_equal(value, unet.get(name, 0))
        assert value is not unet.get(name)  # trained apart: its buffers are donated


def test_a_new_controlnet_copies_a_new_unet_in_whatever_order_they_are_named(networks, monkeypatch):
    monkeypatch.setattr("cassr_jax.kinds.initialise", zeros)
    config = configure("controlnet", networks)
    components = {kind: config.components[kind] for kind in ("vae", "text_encoder")}
    new = {kind: NETWORKS[kind] for kind in ("activation_controlnet", "unet")}
    made = setup.build(replace(config, components=components, new=new))  # raises where there is nothing to copy
    assert [*made.configs][-2:] == ["unet", "activation_controlnet"]


def test_the_export_can_stand_in_a_cascade(finished, tmp_path):
    write_random_cascade(tmp_path, components={kind: kind for kind in NETWORKS} | {"vae": str(finished / "export/vae")})
    cascade = cassr_jax.load(tmp_path)
    vae = Networks().with_read("vae", str(finished / "export" / "vae"), "float32")
    assert_same(select(cascade.networks.params, "vae"), select(vae.params, "vae"))


def test_a_finished_run_is_exported_again_and_says_so(config, finished, tmp_path, watch, capsys):
    workdir = shutil.copytree(finished, tmp_path / "run")
    shutil.rmtree(workdir / "export")
    keys = watch(config)
    for again in (config, replace(config, num_steps=3)):
        loop.train(again, workdir)
        expected = f"done already, at step 7; num_steps is {again.num_steps}; exporting again"
        assert expected in capsys.readouterr().out
        assert keys == []
        assert steps_of(workdir, config) == [6, 7]
        for name in ("config.json", "diffusion_pytorch_model.safetensors"):
            written = (workdir / "export" / "vae" / name).read_bytes()
            assert written == (finished / "export" / "vae" / name).read_bytes()


@pytest.mark.parametrize("stop", [1, pytest.param(5, marks=pytest.mark.slow)])
def test_an_interrupted_run_goes_on_as_if_it_had_not_been(config, finished, tmp_path, watch, stop, capsys, monkeypatch):
    """Stopped before the first save, and one step past the second; the data stream is the same as well."""
    keys = watch(config, stop)
    waits = stop == 1  # somebody at a terminal is told what comes before the first step; a log is not
    monkeypatch.setattr(sys.stderr, "isatty", lambda: waits)
    with pytest.raises(Interrupted):
        loop.train(config, tmp_path)
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith(("loading", "compiling"))]
    assert told == waits * [
        f"loading the networks of stage {config.stage}",
        "compiling a step: the first one takes longer",
    ]
    saved = 2 * (stop // 2)
    assert steps_of(tmp_path, config) == [step for step in (2, 4) if step <= stop]
    resumed = watch(config)
    loop.train(config, tmp_path)
    assert ("taken up at step 4" in capsys.readouterr().out) == (saved == 4)
    stream = batches(config.data, batch_size=config.batch_size, seed=config.seed)
    assert keys[:saved] + resumed == [tuple(next(stream)["record"].tolist()) for _ in range(7)]
    for found, expected in zip(restore(config, tmp_path), restore(config, finished), strict=True):
        assert_same(found, expected)
    vae = "export/vae/diffusion_pytorch_model.safetensors"
    assert (tmp_path / vae).read_bytes() == (finished / vae).read_bytes()


def test_an_export_needs_the_checkpoint_alone(config, finished, tmp_path):
    workdir = shutil.copytree(finished, tmp_path / "run")
    shutil.rmtree(workdir / "export")
    gone = replace(config, data=replace(config.data, path=str(tmp_path / "gone")))
    with claimed(tmp_path / "other", "another program"), pytest.raises(InputError, match="other: in use by another"):
        loop.train(gone, workdir, export_to=tmp_path / "other")
    for folder, asked in ((workdir / "export", None), (tmp_path / "other", tmp_path / "other")):
        assert loop.train(gone, workdir, export_to=asked) == folder
        file = "vae/diffusion_pytorch_model.safetensors"
        assert (folder / file).read_bytes() == (finished / "export" / file).read_bytes()


def test_the_pictures_of_a_scaling_factor_are_kept_with_the_run(config, tmp_path):
    new = replace(config, new={"vae": NETWORKS["vae"]})
    drawn = kept_pictures(new, tmp_path)["hr"]
    np.testing.assert_array_equal(drawn, next(batches(config.data, batch_size=64, seed=config.seed))["hr"])
    gone = replace(new, data=replace(config.data, path=str(tmp_path / "gone")))
    np.testing.assert_array_equal(kept_pictures(gone, tmp_path)["hr"], drawn)
    assert kept_pictures(config, tmp_path) == {}
    (file,) = tmp_path.iterdir()
    file.write_bytes(b"damaged")
    with pytest.raises(InputError, match=f"{file.name}: is damaged"):
        kept_pictures(gone, tmp_path)


def test_whatever_happens_the_data_are_closed(config, tmp_path, watch, monkeypatch):
    closed = []
    monkeypatch.setattr(Batches, "close", lambda stream, close=Batches.close: closed.append(close(stream)))
    watch(config, stop=1)
    with pytest.raises(Interrupted):
        loop.train(config, tmp_path)
    assert closed


@pytest.mark.parametrize(
    ("asked", "left", "traced", "said"),
    [
        (None, range(7), range(0), ""),
        ((2, 5), range(7), range(2, 5), ""),
        ((2, 5), range(3, 7), range(3, 5), "profile: 3:5 is traced, asked for 2:5, the run goes from 3 to 7\n"),
        ((4, 20), range(6), range(4, 6), "profile: 4:6 is traced, asked for 4:20, the run goes from 0 to 6\n"),
        ((2, 5), range(5, 7), range(0), "profile: nothing is traced, asked for 2:5, the run goes from 5 to 7\n"),
        ((8, 9), range(7), range(0), "profile: nothing is traced, asked for 8:9, the run goes from 0 to 7\n"),
    ],
)
def test_what_is_left_of_the_steps_to_trace_is_traced(asked, left, traced, said, capsys):
    assert list(monitor.traced_steps(asked, left)) == list(traced)
    assert capsys.readouterr().out == said


@pytest.mark.slow
def test_a_run_taken_up_within_the_steps_to_trace_traces_the_rest(config, tmp_path, watch, monkeypatch):
    watch(config, stop=3)
    with pytest.raises(Interrupted):
        loop.train(config, tmp_path)
    watch(config)
    steps, traces = [], []
    monkeypatch.setattr(monitor.Guard, "check", lambda guard, step, *_: steps.append(step))
    monkeypatch.setattr(jax.profiler, "start_trace", lambda folder: traces.append([folder, *steps]))
    monkeypatch.setattr(jax.profiler, "stop_trace", lambda: traces.append([*steps]))
    loop.train(config, tmp_path, profile=(1, 6))
    assert traces == [[str(tmp_path / "profile")], [2, 3, 4, 5]]


@pytest.mark.slow
def test_a_run_on_prepared_records_can_be_prolonged(networks, tmp_path, watch):
    """N steps, then N + M asked for, against N + M in one run, through several epochs of three records."""
    rng = np.random.default_rng(0)
    hr = [picture(SIDE, seed) for seed in range(3)]
    write_records(
        tmp_path / "pairs" / "00000.array_record",
        [{"record": np.int32(i), "lr": hr[i][::4, ::4], "latents": rng.normal(size=(8, 8, 4))} for i in range(3)],
    )
    whole = configure("base", networks, tmp_path / "pairs", num_steps=5, save_every=100)
    del whole.components["text_encoder"]
    whole = replace(whole, new={"text_encoder": NETWORKS["text_encoder"]})
    expected = watch(whole)
    loop.train(whole, tmp_path / "whole")
    first = watch(whole)
    loop.train(replace(whole, num_steps=3), tmp_path / "parts")
    second = watch(whole)
    loop.train(whole, tmp_path / "parts")
    assert first + second == expected
    for found, one in zip(restore(whole, tmp_path / "parts"), restore(whole, tmp_path / "whole"), strict=True):
        assert_same(found, one)
    for kind in ("unet", "text_encoder"):
        read = [
            Networks().with_read(kind, str(tmp_path / run / "export" / kind), "float32") for run in ("whole", "parts")
        ]
        assert_same(read[0].params, read[1].params)


def test_a_folder_with_later_steps_is_never_trained_in_without_saving(config, finished, tmp_path, watch, capsys):
    """Checkpoints of steps 90, 100 and 110, and a new run that would save 2 and 4."""
    workdir = tmp_path / "run"
    checkpoints = Checkpoints(workdir, 2, run={"config": to_json(config), "frozen": {}})
    state, data = restore(config, finished)
    for step in (90, 100, 110):
        checkpoints.save(replace(state, step=jnp.asarray(step, jnp.int32)), data)
    checkpoints.close()
    assert steps_of(workdir, config) == [100, 110]  # by number, not by name
    keys = watch(config)
    loop.train(config, workdir)
    assert "done already, at step 110; num_steps is 7;" in capsys.readouterr().out
    assert keys == []
    assert steps_of(workdir, config) == [100, 110]
    checkpoints = Checkpoints(workdir, 2)
    with pytest.raises(InputError, match="holds step 110, a save at 7 was refused"):
        checkpoints.save(state, data)
    checkpoints.close()


@pytest.mark.parametrize(
    ("save_every", "max_lost_steps", "most"),
    [(2, None, 2), *(pytest.param(*values, marks=pytest.mark.slow) for values in ((1, 2, 2), (2, 3, 3))), (2, 4, 4)],
)
def test_a_kill_costs_no_more_than_it_may(config, tmp_path, monkeypatch, save_every, max_lost_steps, most):
    """As if every save took until it is waited for."""
    complete, lost = [0], []

    def wait(checkpoints, wait=Checkpoints.wait):
        wait(checkpoints)
        complete.append(checkpoints.latest_step or 0)

    monkeypatch.setattr(Checkpoints, "wait", wait)
    monkeypatch.setattr(monitor.Logs, "write", lambda logs, done, means: lost.append(done - complete[-1]))
    loop.train(replace(config, save_every=save_every, max_lost_steps=max_lost_steps, log_every=1), tmp_path)
    assert len(lost) == config.num_steps
    assert max(lost) == most


@pytest.mark.parametrize(("skip_limit", "log_every"), [pytest.param(3, 50, marks=pytest.mark.slow), (3, 1), (1, 50)])
def test_updates_that_stay_non_finite_end_the_run_with_what_made_them(
    config, tmp_path, monkeypatch, skip_limit, log_every
):
    """Whether metrics are read after every step or one step late, with the next one under way."""
    started, after_step = [], monitor.Monitor.after_step

    def watched(self, step, *arguments):
        started.append(step)
        after_step(self, step, *arguments)

    monkeypatch.setattr(monitor.Monitor, "after_step", watched)
    wild = replace(config, optimizer=OptimizerConfig(learning_rate=1e38, warmup_steps=1), num_steps=50, save_every=100)
    with pytest.raises(InputError, match=r"step \d+: .* was not finite \d times in a row; records \[\d, \d\]") as error:
        loop.train(replace(wild, skip_limit=skip_limit, log_every=log_every), tmp_path)
    assert f"step {started[-1]}: " in str(error.value)  # the next step, which might change the parameters, did not run
    (file,) = (tmp_path / "nonfinite").iterdir()
    assert str(file) in str(error.value)
    with np.load(file) as dump:
        assert json.loads(str(dump["metrics"]))["skipped"] == 1
        params = {name.removeprefix("params/"): dump[name] for name in dump if name.startswith("params/")}
        assert params.keys() == setup.build(wild).params.keys()
        assert all(np.isfinite(value).all() for value in params.values())
        assert dump["batch/hr"].shape == (2, SIDE, SIDE, 3)
