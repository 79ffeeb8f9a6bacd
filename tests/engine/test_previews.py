"""Previews during sampling, and TAESD as the decoder: in tiles, in company, and on shared rows."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import cassr_jax
from cassr_jax.cascade import CasSR
from cassr_jax.config import CascadeConfig, SamplingConfig
from cassr_jax.engine.engine import Counter
from cassr_jax.engine.programs import Programs, State
from cassr_jax.errors import InputError
from cassr_jax.imaging.pixels import to_uint8
from cassr_jax.networks import merge_all
from cassr_jax.progress import Preview
from cassr_jax.restoration import Restoration
from tests.random_cascade import NETWORKS, write_random_cascade
from tests.test_seams import decoded_in_tiles

PLAIN = {"color_fix": "none", "reference_weight": 0.0}  # the result is what was decoded
STEPS = 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    sampling = SamplingConfig(
        sampler="euler", num_steps=STEPS, guidance_scale=1.0
    )  # which ends at its last prediction of x_0
    components = {kind: kind for kind in NETWORKS if kind != "fusion"}
    settings = {"sampling": sampling, "activation_sampling": sampling, "components": components}
    return write_random_cascade(tmp_path_factory.mktemp("cascade"), **settings)


@pytest.fixture(scope="module")
def cassr(folder: Path) -> CasSR:
    return cassr_jax.load(folder, devices=2)


@pytest.fixture(scope="module")
def without(folder: Path) -> CasSR:
    return cassr_jax.load(folder, activation="identity", devices=2, change=without_taesd)


@pytest.fixture(scope="module")
def one(folder: Path) -> CasSR:
    return cassr_jax.load(folder, activation="identity", devices=1)


@pytest.fixture(scope="module")
def rows(folder: Path) -> CasSR:
    return cassr_jax.load(folder, activation="identity", devices=2, split="spatial")


def without_taesd(config: CascadeConfig) -> CascadeConfig:
    return replace(config, components={k: v for k, v in config.components.items() if k != "taesd"})


def picture(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(height).integers(0, 256, (height, width, 3)).astype(np.uint8)


def results(cassr: CasSR, given: list[Any], **options: Any) -> list[np.ndarray]:
    return [each.result for each in cassr.restore_many(given, **options) if isinstance(each, Restoration)]


SEVERAL, SMALL = picture(30, 40), picture(9, 12)


def test_previews_come_after_the_steps_asked_for(cassr: CasSR):
    """Both stages show every picture in the size of its result, with its number among all."""
    seen: list[Preview] = []
    missing = InputError("x.png: no such file")
    results(cassr, [SEVERAL, missing, SMALL], preview=seen.append, preview_every=2)
    found = [(each.stage, each.step, each.steps, each.picture, each.image.shape) for each in seen]
    sizes = {0: (120, 160, 3), 2: (36, 48, 3)}
    assert sorted(found) == sorted(
        (stage, step, STEPS, number, size)
        for stage in ("reference", "result")
        for step in (2, 4)
        for number, size in sizes.items()
    )
    for number in sizes:
        assert [each[:2] for each in found if each[3] == number] == sorted({each[:2] for each in found})
    assert {each.image.dtype for each in seen} == {np.dtype(np.uint8)}


@pytest.mark.parametrize("every", [3, 5])
def test_an_interval_need_not_divide_the_steps(cassr: CasSR, every: int):
    seen: list[Preview] = []
    cassr.restore(SMALL, preview=seen.append, preview_every=every)
    assert [each.step for each in seen] == [3, 3] * (every == 3)


def test_pictures_of_later_groups_go_on_counting(cassr: CasSR, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(cassr, "_fill", 1)
    seen: list[Preview] = []
    results(cassr, [SMALL, InputError("no file"), SMALL, SMALL], preview=seen.append, preview_every=STEPS)
    assert [each.picture for each in seen if each.stage == "result"] == [0, 2, 3]


def test_previews_change_no_pixel_and_compile_nothing_anew(cassr: CasSR):
    seen: list[Preview] = []
    given, options = [SEVERAL, SMALL], {"preview": seen.append, "preview_every": 1, "seed": 5}
    watched = results(cassr, given, **options)
    programs = cassr._engine.programs.count()
    reports: list[tuple[int, int]] = []
    reported = results(cassr, given, progress=lambda _, done, total: reports.append((done, total)), **options)
    plain = results(cassr, given, seed=5)
    assert len(seen) == 2 * 2 * 2 * STEPS
    assert cassr._engine.programs.count() == programs
    for one, other, expected in zip(watched, reported, plain, strict=True):
        np.testing.assert_array_equal(one, expected)
        np.testing.assert_array_equal(other, expected)
    assert reports[-1][0] == reports[-1][1]  # a preview is no call that a report counts


def test_a_preview_shows_the_latest_prediction_decoded_by_taesd(cassr: CasSR, monkeypatch: pytest.MonkeyPatch):
    denoise, predictions = Programs.denoise, []

    def noting(*arguments: Any) -> State:
        state = denoise(*arguments)
        predictions.append(np.array(state.carry.x0))  # a copy: the next call takes the state's arrays
        return state

    monkeypatch.setattr(Programs, "denoise", noting)
    seen: list[Preview] = []
    cassr.restore(SMALL, preview=seen.append, preview_every=1)
    decode = jax.jit(merge_all(cassr.networks.graphdefs, cassr.networks.params)["taesd"].decode)
    assert len(seen) == len(predictions) == 2 * STEPS
    for each, x0 in zip(seen, predictions, strict=True):
        expected = to_uint8(decode(x0[:1]))[0, :36, :48]
        assert np.abs(each.image.astype(int) - expected).max() <= 1
    assert np.any(seen[0].image != seen[1].image)


@pytest.mark.parametrize("given", [SEVERAL, SMALL], ids=["tiles", "tile"])
def test_the_last_preview_is_what_taesd_makes_of_the_result(cassr: CasSR, given: np.ndarray):
    seen: list[Preview] = []
    made = cassr.restore(given, decoder="taesd", preview=seen.append, preview_every=STEPS, **PLAIN)
    np.testing.assert_array_equal(seen[-1].image, made.result)
    assert np.any(cassr.restore(given, **PLAIN).result != made.result)


@pytest.mark.parametrize("given", [SEVERAL, SMALL], ids=["tiles", "tile"])
def test_without_taesd_the_autoencoder_decodes_previews(without: CasSR, given: np.ndarray):
    seen: list[Preview] = []
    made = without.restore(given, preview=seen.append, preview_every=STEPS, **PLAIN)
    np.testing.assert_array_equal(seen[-1].image, made.result)
    assert [each.stage for each in seen] == ["result"]


@pytest.mark.slow
def test_shared_rows_have_the_previews_of_one_tile(rows: CasSR, one: CasSR):
    given = [picture(16, 16), picture(15, 16)]  # extended to the same size with tiles and without
    seen: dict[CasSR, list[Preview]] = {rows: [], one: []}
    for cassr, previews in seen.items():
        watched = results(cassr, given, preview=previews.append, preview_every=2)
        for made, expected in zip(watched, results(cassr, given), strict=True):
            np.testing.assert_array_equal(made, expected)
    assert [(each.picture, each.step) for each in seen[rows]] == [(0, 2), (0, 4), (1, 2), (1, 4)]
    for found in seen[rows]:
        (expected,) = [each for each in seen[one] if (each.picture, each.step) == (found.picture, found.step)]
        assert np.abs(found.image.astype(int) - expected.image).max() <= 1


def test_taesd_decodes_tiles_as_the_whole(one: CasSR):
    """Beyond what it sees around a latent, tiles differ by nothing; where they meet, they are blended."""
    latents = np.random.default_rng(0).normal(size=(64, 112, 4)).astype(np.float32)
    made, layout = decoded_in_tiles(one, latents, 4 * 64, decoder="taesd")
    assert (layout.grid.tops, layout.grid.lefts) == ((0,), (0, 48))
    taesd = merge_all(one.networks.graphdefs, one.networks.params)["taesd"]
    whole = np.asarray(jax.jit(taesd.decode)(latents[None]))[0]
    alone = np.ones(whole.shape[1], bool)
    alone[4 * 48 : 4 * 64] = False  # the columns that both tiles have
    np.testing.assert_allclose(made[:, alone], whole[:, alone], atol=1e-5)
    assert 0 < np.abs(made - whole).max() < np.abs(whole).max()


def test_taesd_needs_no_view_of_the_whole(cassr: CasSR):
    """As many calls as tiles beside the others, where the autoencoder first decodes a view."""
    totals: dict[str, int] = {}
    for decoder in ("vae", "taesd"):
        reports: list[tuple[int, int]] = []
        options = {"decoder": decoder, "progress": lambda _, *numbers, reports=reports: reports.append(numbers)}
        cassr.restore(SEVERAL, **options)
        assert reports[-1][0] == reports[-1][1]
        totals[decoder] = reports[-1][1]
    assert totals["vae"] == totals["taesd"] + 1


def test_an_error_of_the_callers_preview_ends_the_work(cassr: CasSR):
    def stop(preview: Preview) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        next(cassr.restore_many([SMALL, SMALL], preview=stop))


def test_the_first_stage_alone_has_previews_too(cassr: CasSR):
    seen: list[Preview] = []
    cassr.reference(SMALL, preview=seen.append, preview_every=2)
    assert [(each.stage, each.picture, each.step) for each in seen] == [("reference", 0, 2), ("reference", 0, 4)]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"decoder": "tae"}, "decoder is 'tae', expected one of vae, taesd"),
        ({"preview": 3}, "preview is 3, expected a function of one argument, or None"),
        ({"preview_every": 0}, "preview_every is 0, expected a whole number of at least 1"),
    ],
)
def test_options_that_make_no_sense_are_refused(cassr: CasSR, options: dict[str, Any], expected: str):
    with pytest.raises(InputError, match=expected):
        cassr.check(**options)


def test_a_cascade_without_taesd_cannot_decode_by_it(folder: Path, without: CasSR):
    with pytest.raises(InputError, match="decoder is taesd, but this cascade has none; expected vae, or a cascade"):
        without.check(decoder="taesd")
    with pytest.raises(InputError, match="names no taesd among its components, expected one, or decoder vae"):
        cassr_jax.load(folder, change=lambda config: replace(without_taesd(config), decoder="taesd"))


@pytest.mark.parametrize(
    ("calls", "reported", "stops", "expected"),
    [
        (8, False, (), [(0, 8)]),
        (8, False, (2, 4), [(0, 2), (2, 4), (4, 8)]),
        (8, False, (4, 8), [(0, 4), (4, 8)]),
        (40, True, (3, 4), [(0, 2), (2, 3), (3, 4), (4, 6)]),
    ],
)
def test_previews_end_the_runs_of_the_loop(calls: int, reported: bool, stops: tuple[int, ...], expected: list):
    report = (lambda done, total: None) if reported else None
    pieces = Counter(calls, report).pieces(calls, stops)
    assert pieces[: len(expected)] == expected
    assert pieces[-1][1] == calls
