"""Validation: the same measures wherever they are computed, of the weights that are kept, and no change of training."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cassr_jax.config import TrainConfig, ValidationConfig
from cassr_jax.data.config import DataConfig
from cassr_jax.data.prepared import write_records
from cassr_jax.errors import Stopped
from cassr_jax.evaluation.measures import make_measure, read_weights
from cassr_jax.models.parameters import Params
from cassr_jax.prompts import prompt_ids
from cassr_jax.sharding.placement import Placement
from cassr_jax.sharding.strategies import FSDP, Strategy
from cassr_jax.training import loop, validation
from cassr_jax.training.masking import partition
from cassr_jax.training.setup import build, open_sets, validation_sets
from cassr_jax.training.validation import PREFIX, Validation, make_validation
from cassr_jax.typing import Examples, Metrics
from tests.data.measures import picture
from tests.training.runs import ONE_DEVICE, SIDE, assert_same, configure, restore, write_pictures

LPIPS_WEIGHTS, _ = read_weights(["lpips"])
MEASURES = {PREFIX + name for name in ("loss", "psnr_y", *LPIPS_WEIGHTS)}


def lines(workdir: Path) -> list[dict[str, float]]:
    found = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return [line for line in found if any(name.startswith(PREFIX) for name in line)]


def prepare(config: TrainConfig, strategy: Strategy = ONE_DEVICE) -> tuple[Validation, Params, Params]:
    """The validation of a run that has not begun, and the weights that it measures."""
    networks, placement = build(config), Placement.of(strategy)
    trained, frozen = map(placement.place, partition(networks.params, config.stage))
    text = networks.configs.get("text_encoder")
    ids = None if text is None else prompt_ids(text, None, ["", config.prompt])
    return (
        make_validation(config, networks, ids, placement, validation_sets(config, open_sets(config))),
        trained,
        frozen,
    )


@pytest.mark.slow
def test_a_stopped_run_with_validation_is_the_run_without(
    config: TrainConfig, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """To the bit; and what it measures last are the averaged weights that it saves."""

    @contextmanager
    def asked_after_three() -> Iterator:
        yield lambda done: done == 3

    held = ValidationConfig(every=2, path=str(write_pictures(tmp_path / "held", 4)), records=3)
    validated, workdir = replace(config, validation=held), tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(loop, "watch_signals", asked_after_three)
        with pytest.raises(Stopped):
            loop.train(validated, workdir)
    loop.train(validated, workdir)
    for found, expected in zip(restore(config, workdir), restore(config, finished), strict=True):
        assert_same(found, expected)
    assert [line["step"] for line in lines(workdir)] == [2, 4, 6, 7]
    validate, _, frozen = prepare(validated)
    state, _ = restore(config, workdir)
    assert lines(workdir)[-1] == {"step": 7} | validate(state.ema, frozen)
    assert validate(state.params, frozen) != validate(state.ema, frozen)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixteen prepared records, with latents."""
    folder, rng = tmp_path_factory.mktemp("pairs"), np.random.default_rng(0)
    hr = [picture(SIDE, seed).astype(np.uint8) for seed in range(16)]
    records = [{"hr": x, "lr": x[::4, ::4], "latents": rng.normal(size=(8, 8, 4)).astype(np.float16)} for x in hr]
    write_records(folder / "00000.array_record", records)
    return folder


def test_eight_devices_measure_what_one_does_with_one_program(
    networks: Path, pairs: Path, monkeypatch: pytest.MonkeyPatch
):
    data = DataConfig(str(pairs), crop_size=SIDE, held_out=0.5)
    config = configure("scedit", networks, data, batch_size=8, validation=ValidationConfig(every=1, records=8))
    traced, make = [], validation.make_objective

    def counted(*arguments):
        objective = make(*arguments)
        return lambda *args: (traced.append(len(args[1]["hr"])), objective(*args))[1]

    monkeypatch.setattr(validation, "make_objective", counted)
    found = []
    for strategy in (ONE_DEVICE, FSDP):
        validate, trained, frozen = prepare(config, strategy)
        found.append(validate(trained, frozen))
        assert validate(trained, frozen) == found[-1]
        other = validate(jax.tree.map(lambda x: x + 0.1, trained), frozen)
        assert other.keys() == MEASURES
        assert other[f"{PREFIX}psnr_y"] != found[-1][f"{PREFIX}psnr_y"]
    assert traced == [8, 8]  # one trace for each mesh
    for name, value in found[0].items():
        np.testing.assert_allclose(found[1][name], value, rtol=2e-5, err_msg=name)


def test_the_mean_is_over_all_batches():
    def measure(averaged: Params, frozen: Params, lpips: Params, batch: Examples) -> Metrics:
        return {"loss": averaged["w"] * jnp.mean(batch["x"]) + frozen["f"]}

    batches = [{"x": np.array([1, 3], np.float32)}, {"x": np.array([6, 8], np.float32)}]
    validate = Validation(measure, {}, batches, Placement.of(ONE_DEVICE), {})
    assert validate({"w": jnp.float32(2)}, {"f": jnp.float32(1)}) == {"validation/loss": 10.0}


def test_the_measures_are_those_of_the_evaluation():
    made, truth = (np.stack([picture(SIDE, seed + i) for i in range(2)]).astype(np.uint8) for seed in (0, 5))
    expected = [make_measure(LPIPS_WEIGHTS)(b, [a])[0][0] for a, b in zip(made, truth, strict=True)]
    weights = {name: jnp.asarray(value) for name, value in LPIPS_WEIGHTS.get("lpips", {}).items()}
    found = validation._distances(weights, jnp.asarray(made, jnp.float32), jnp.asarray(truth))
    for name, value in found.items():
        np.testing.assert_allclose(value, np.mean([values[name] for values in expected]), rtol=1e-5, err_msg=name)
    np.testing.assert_array_equal(validation._rounded(jnp.asarray(made, jnp.float32) / 127.5 - 1), made)
