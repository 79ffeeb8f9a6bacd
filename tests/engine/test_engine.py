"""The engine: sizes are data, devices share the tiles of all pictures, and company changes nothing."""

import time
import weakref
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jaxtyping
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import cassr_jax
from cassr_jax.cascade import CasSR, Restoration, mesh_of_tiles
from cassr_jax.config import SamplingConfig
from cassr_jax.engine import engine, waves
from cassr_jax.engine.programs import Programs, State
from cassr_jax.errors import InputError
from tests.random_cascade import write_random_cascade
from tests.test_cascade import with_rrdbnet_of

SIZES = ((12, 15), (9, 40), (1, 1), (16, 16), (30, 40), (8, 8), (5, 17))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # Without a first stage and guidance, half as much to compile.
    sampling = SamplingConfig(num_steps=2, guidance_scale=1.0)
    changes = {"activation": "identity", "sampling": sampling, "color_fix": "adain"}
    return write_random_cascade(tmp_path_factory.mktemp("cascade"), **changes)


def loaded(folder: Path, devices: int) -> CasSR:
    """The cascade with two tiles in a call, as on an accelerator; a CPU takes one."""
    cassr = cassr_jax.load(folder, devices=devices)
    cassr._fill = 8 * devices
    cassr._engine = engine.Engine(
        Programs(cassr.networks, mesh_of_tiles(devices), 2), overlap=cassr.config.tile_overlap
    )
    return cassr


@pytest.fixture(scope="module")
def one(folder: Path) -> CasSR:
    return loaded(folder, 1)


@pytest.fixture(scope="module")
def eight(folder: Path) -> CasSR:
    return loaded(folder, 8)


@pytest.fixture(scope="module")
def pictures() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (*size, 3)).astype(np.uint8) for size in SIZES]


def results(cassr: CasSR, pictures: list[np.ndarray]) -> list[np.ndarray]:
    found = list(cassr.restore_many(pictures))
    assert all(isinstance(each, Restoration) for each in found)
    return [each.result for each in found if isinstance(each, Restoration)]


@pytest.fixture(scope="module")
def alone(one: CasSR, pictures: list[np.ndarray]) -> list[np.ndarray]:
    return [one.restore(picture).result for picture in pictures]


def test_results_come_in_order_and_of_their_sizes(alone: list[np.ndarray]):
    assert [result.shape[:2] for result in alone] == [(4 * height, 4 * width) for height, width in SIZES]


@settings(deadline=None, max_examples=10)
@given(order=st.lists(st.integers(0, len(SIZES) - 1), min_size=1, max_size=12))
def test_company_and_place_change_no_pixel(one, pictures, alone, order: list[int]):
    for number, result in zip(order, results(one, [pictures[n] for n in order]), strict=True):
        np.testing.assert_array_equal(result, alone[number])


def test_eight_devices_make_the_pictures_of_one(eight: CasSR, pictures: list[np.ndarray], alone: list[np.ndarray]):
    for found, expected in zip(results(eight, pictures), alone, strict=True):
        difference = np.abs(found.astype(int) - expected)
        assert difference.max() <= 1
        assert np.mean(difference > 0) < 0.01


def test_on_eight_devices_company_changes_no_pixel_either(eight: CasSR, pictures: list[np.ndarray]):
    together = results(eight, pictures)
    for picture, expected in zip(pictures[::-1], together[::-1], strict=True):
        np.testing.assert_array_equal(eight.restore(picture).result, expected)


def test_nothing_is_compiled_for_another_size(one: CasSR, alone: list[np.ndarray]):
    one.restore(np.zeros((60, 70, 3), np.uint8))  # one of more tiles than the usual wave has places for
    before = one._engine.programs.count()
    rng = np.random.default_rng(1)
    sizes = [(1 + 7 * n % 60, 1 + 11 * n % 70) for n in range(20)]
    list(one.restore_many(rng.integers(0, 256, (*size, 3)).astype(np.uint8) for size in sizes))
    assert one._engine.programs.count() == before
    assert max(before.values()) <= 6
    assert sum(before.values()) <= 30


@pytest.mark.slow
def test_a_hundred_pictures_of_a_hundred_sizes_compile_few_programs(folder: Path):
    """From 1x1 to 1500x1500 px, at scale 1, so that the largest has 64 times as many tiles as most."""
    cassr = cassr_jax.load(folder)
    rng = np.random.default_rng(0)
    sides = np.geomspace(1, 1500, 120).round().astype(int).tolist()
    sizes = [(1500, 1500), *dict.fromkeys(zip(sides, rng.permutation(sides).tolist(), strict=True))][:100]
    assert len(set(sizes)) == 100
    pictures = (rng.integers(0, 256, (*size, 3)).astype(np.uint8) for size in sizes)
    found = [each.result.shape[:2] for each in cassr.restore_many(pictures, scale=1) if isinstance(each, Restoration)]
    assert found == sizes
    counts = cassr._engine.programs.count()
    assert max(counts.values()) <= 6
    assert sum(counts.values()) <= 30


def test_the_host_needs_at_most_30_ms_for_a_picture(folder: Path, monkeypatch: pytest.MonkeyPatch):
    """64 px, with devices that give at once what they gave the first time.

    Counted in the processor's own time, without the tests' checks of shapes. The least of three: a thread may still be
    reading kept programs.
    """
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    cassr = cassr_jax.load(folder)
    compiled, answers = Programs._compiled, {}

    def at_once(self: Programs, key: tuple, *arguments: Any, **options: Any) -> Any:
        program = compiled(self, key, *arguments, **options)

        def run(*arrays: Any) -> Any:
            if key not in answers:
                answers[key] = jax.block_until_ready(program(*arrays))
            return answers[key]

        return run

    monkeypatch.setattr(Programs, "_compiled", at_once)
    picture = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    list(cassr.restore_many([picture] * cassr._fill, tile=256))
    spent = []
    for _ in range(3):
        start = time.process_time()
        assert len(list(cassr.restore_many([picture] * 20, tile=256))) == 20
        spent.append(time.process_time() - start)
    assert min(spent) / 20 < 0.03


def test_a_sampling_loop_takes_nothing_from_the_host(one: CasSR, eight: CasSR, monkeypatch: pytest.MonkeyPatch):
    """The guard on transfers: all that the loop needs was put on the devices before."""
    denoise, guarded = Programs.denoise, []

    def with_guard(*arguments: Any) -> State:
        with jax.transfer_guard("disallow"):
            guarded.append(denoise(*arguments))
        return guarded[-1]

    monkeypatch.setattr(Programs, "denoise", with_guard)
    picture = np.random.default_rng(0).integers(0, 256, (30, 40, 3)).astype(np.uint8)  # of several tiles
    for cassr in (one, eight):
        assert cassr.restore(picture).result.std() > 1
    assert len(guarded) == 2


@pytest.mark.parametrize(("count", "most"), [(64, 4), (8, 1), (9, 1)])
def test_devices_share_small_pictures(eight: CasSR, monkeypatch: pytest.MonkeyPatch, count: int, most: int):
    """A call is two tiles on each device, so that 64 tiles are 4 calls: an eighth of what one device would do."""
    programs, calls = eight._engine.programs, Counter()

    def counted(name: str) -> None:
        function = getattr(programs, name)

        def counting(*arguments):
            first, last = arguments[4:6] if name == "denoise" else (0, 2)
            calls[name] += (last - first) // 2  # two steps
            return function(*arguments)

        monkeypatch.setattr(programs, name, counting)

    for name in ("hints", "encode", "denoise", "decode"):
        counted(name)
    picture = np.full((8, 8, 3), 100, np.uint8)
    assert len(list(eight.restore_many([picture] * count))) == count
    assert calls == dict.fromkeys(("hints", "encode", "denoise", "decode"), most)


def test_a_wave_that_grows_keeps_its_pixels(one: CasSR, monkeypatch: pytest.MonkeyPatch):
    """A picture of more tiles than a wave has places for has room of its own, and its images in place of embeddings."""
    picture = np.random.default_rng(2).integers(0, 256, (40, 60, 3)).astype(np.uint8)
    seats = waves.Seats(one._engine.layout((160, 240), 64).count, 1, 2)
    assert (seats.capacity, seats.keeps_hints) == (16, True)
    expected = one.restore(picture).result
    monkeypatch.setattr(waves, "PLACES", 32)
    np.testing.assert_array_equal(one.restore(picture).result, expected)
    monkeypatch.setattr(waves, "PLACES", 4)
    assert (seats.capacity, seats.keeps_hints) == (16, False)
    found = one.restore(picture).result
    assert np.abs(found.astype(int) - expected).max() <= 1
    np.testing.assert_array_equal(one.restore(picture, control_every=2).result, found)  # no room for kept features


def test_a_picture_that_fails_costs_itself(one: CasSR, pictures: list[np.ndarray], alone: list[np.ndarray]):
    given: list = [pictures[0], pictures[1].astype(np.float32), pictures[2], "picture", pictures[3]]
    found = list(one.restore_many(given))
    for number, source in ((0, 0), (2, 2), (4, 3)):
        assert isinstance(found[number], Restoration)
        np.testing.assert_array_equal(found[number].result, alone[source])
    for number, name in ((1, "float32"), (3, "str")):
        assert isinstance(found[number], InputError)
        assert name in str(found[number])


def test_a_group_that_does_not_fit_is_restored_one_by_one(one: CasSR, pictures, alone, monkeypatch):
    """What ends a group, devices out of memory for one, costs the pictures that do not fit alone either.

    When the others are tried again, nothing holds what filled the memory, and neither does the outcome.
    """
    diffuse, calls, filled = one._engine.diffuse, [], []

    def limited(stage, images, *arguments):
        assert not any(array() is not None for array in filled), "what was tried before is still in the memory"
        calls.append(len(images[0]))
        if len(images[0]) > 1 or images[0][0].shape[0] == 4:
            array = jax.numpy.zeros(3)
            filled.append(weakref.ref(array))
            raise MemoryError
        return diffuse(stage, images, *arguments)

    monkeypatch.setattr(one._engine, "diffuse", limited)
    first, small, last = one.restore_many([pictures[3], pictures[2], pictures[5]])
    assert calls == [3, 1, 1, 1]
    assert isinstance(small, MemoryError)
    assert [array() for array in filled] == [None, None]
    for found, number in ((first, 3), (last, 5)):
        assert isinstance(found, Restoration)
        np.testing.assert_array_equal(found.result, alone[number])


def test_an_exception_among_the_pictures_stays_in_its_place(one: CasSR, pictures, alone, monkeypatch):
    diffuse, calls = one._engine.diffuse, []

    def counted(stage, images, *arguments):
        calls.append(len(images[0]))
        return diffuse(stage, images, *arguments)

    monkeypatch.setattr(one._engine, "diffuse", counted)
    missing = InputError("x.png: no such file")
    found = list(one.restore_many([missing, pictures[5]]))
    assert found[0] is missing
    np.testing.assert_array_equal(found[1].result, alone[5])
    assert calls == [1]  # the group is not taken for one that failed, whose pictures are tried one by one


def test_a_source_that_fails_loses_no_picture_that_it_gave(one: CasSR, pictures, alone):
    def source():
        yield pictures[5]
        raise OSError("the disk is gone")

    found = one.restore_many(source())
    first = next(found)
    assert isinstance(first, Restoration)
    np.testing.assert_array_equal(first.result, alone[5])
    with pytest.raises(OSError, match="the disk is gone"):
        next(found)


def test_a_source_may_use_its_array_again(one: CasSR, pictures, alone):
    """As programs do that read the frames of a video."""

    def frames(channels: int):
        buffer = np.empty((*pictures[5].shape[:2], channels), np.uint8)
        for level in (255, 0):
            buffer[:] = level
            buffer[..., :3] = pictures[5] if level else 0
            yield buffer

    first, _ = one.restore_many(frames(3))
    np.testing.assert_array_equal(first.result, alone[5])
    first, last = one.upscale(frames(4))
    np.testing.assert_array_equal(first[..., :3], alone[5])
    assert np.all(first[..., 3] == 255)
    assert not last[..., 3].any()


def test_an_error_of_the_caller_is_not_a_picture_s(one: CasSR, pictures):
    calls: list[int] = []

    def stop(stage: str, done: int, total: int):
        calls.append(done)
        raise ZeroDivisionError

    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            next(one.restore_many(pictures, progress=stop))
    assert calls == [1, 1]


def test_what_is_not_iterable_is_named_at_once(one: CasSR):
    with pytest.raises(InputError, match="the pictures are of type int, expected an iterable of arrays"):
        one.restore_many(3)


def test_a_data_source_is_iterable_too(one: CasSR, pictures, alone):
    class Source:
        """As Grain's: it has a length and takes numbers, and `for` goes through it."""

        def __len__(self) -> int:
            return 1

        def __getitem__(self, number: int) -> np.ndarray:
            return [pictures[5]][number]

    (found,) = one.restore_many(Source())
    np.testing.assert_array_equal(found.result, alone[5])


def test_pictures_are_taken_as_they_are_needed(one: CasSR, pictures: list[np.ndarray]):
    taken = []

    def source():
        for number in range(1000):
            taken.append(number)
            yield pictures[5]

    found = one.restore_many(source())
    next(found)
    assert len(taken) <= 2 * one._fill
    found.close()


def test_numbers_that_are_not_finite_stay_in_their_picture(one: CasSR, pictures: list[np.ndarray], monkeypatch):
    """Tiles of two pictures lie side by side in a wave; one has a latent that is not a number."""
    cut = waves.Wave.cut_latents

    def noisy(self, *arguments):
        noise = cut(self, *arguments)
        if len(self.layouts) == 2:
            noise[0] = np.nan
        return noise

    monkeypatch.setattr(waves.Wave, "cut_latents", noisy)
    broken, sound = one.restore_many([pictures[3], pictures[1]])
    assert isinstance(broken, InputError)
    monkeypatch.undo()
    assert isinstance(sound, Restoration)
    np.testing.assert_array_equal(sound.result, one.restore(pictures[1]).result)


def test_noise_depends_on_the_seed_and_the_place_alone():
    key = jax.random.key(3)
    short, long = engine.normal(key, 100), engine.normal(key, 3 * engine._LEAST_NOISE)
    np.testing.assert_array_equal(short, long[:100])
    np.testing.assert_array_equal(short, np.asarray(jax.random.normal(key, (5, 20))).ravel())
    assert abs(long.mean()) < 0.01
    assert abs(long.std() - 1) < 0.01


def test_networks_that_enlarge_go_in_tiles_too(folder: Path):
    cassr = cassr_jax.load(folder)
    networks = with_rrdbnet_of(cassr.networks)
    config = replace(cassr.config, activation="rrdbnet")
    picture = np.random.default_rng(1).integers(0, 256, (30, 40, 3)).astype(np.uint8)
    few, many = (CasSR(config, networks, devices=devices).reference(picture) for devices in (1, 8))
    np.testing.assert_allclose(few.astype(int), many, atol=1)
    whole = CasSR(config, networks).reference(picture, tile=512)
    # The narrow network sees a few pixels around: within a tile nothing differs but where tiles meet.
    assert np.mean(np.abs(few.astype(int) - whole)) < 1


def test_company_does_not_change_what_a_network_enlarges(folder: Path):
    """The four tiles of a picture lie on other devices in company, and are blended in the same order."""
    cassr = cassr_jax.load(folder, devices=2)
    enlarging = CasSR(replace(cassr.config, activation="rrdbnet"), with_rrdbnet_of(cassr.networks), devices=2)
    rng = np.random.default_rng(3)
    large, *small = (rng.integers(0, 256, (*size, 3)).astype(np.uint8) for size in ((56, 56), *[(24, 32)] * 4))
    calls: list[int] = []
    alone, together = (
        enlarging._engine.enlarge("rrdbnet", group, 64, lambda _, total: calls.append(total))[0]
        for group in ([large], [large, *small])
    )
    assert set(calls) == {2, 4}, "of two tiles each; the small pictures share the wave of the large one"
    np.testing.assert_array_equal(alone, together)


def test_a_tile_that_is_too_small_is_an_option_out_of_range(one: CasSR, pictures: list[np.ndarray]):
    with pytest.raises(InputError, match="tile is 4 px, expected at least 8"):
        next(one.restore_many(pictures, tile=4))
    with pytest.raises(InputError, match="tile is 4 px, expected at least 8"):
        one.upscale(pictures, tile=4)


def test_each_picture_has_its_share_of_the_time(one: CasSR, pictures: list[np.ndarray]):
    start = time.monotonic()
    found = list(one.restore_many([pictures[3], pictures[5]]))
    seconds = [each.seconds for each in found if isinstance(each, Restoration)]
    assert 0 < sum(seconds) < time.monotonic() - start
    assert seconds[0] / seconds[1] == pytest.approx(4)
