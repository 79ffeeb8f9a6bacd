"""The whole cascade on the narrowest random networks: what it must equal, what must change it, and its public face."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import cassr_jax
from cassr_jax import cascade
from cassr_jax.cascade import CasSR
from cassr_jax.config import CascadeConfig, FirstStageConfig, SamplingConfig
from cassr_jax.diffusion.samplers import make_sampler
from cassr_jax.diffusion.trajectory import start_latents
from cassr_jax.errors import InputError
from cassr_jax.imaging import resizing
from cassr_jax.models.guided_decoder import GuidedDecoderConfig
from cassr_jax.models.multiple_attention import GuidanceSwitches
from cassr_jax.models.parameters import nest
from cassr_jax.models.rrdbnet import RRDBNetConfig
from cassr_jax.networks import Networks, merge_all, why_not_finite, write_network
from cassr_jax.outcomes import known
from tests.random_cascade import NETWORKS, TILE, random_params, write_random_cascade


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random_cascade(tmp_path_factory.mktemp("cascade"))


@pytest.fixture(scope="module")
def cassr(folder: Path) -> CasSR:
    return cassr_jax.load(folder)


@pytest.fixture(scope="module")
def rgb() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (12, 15, 3)).astype(np.uint8)


@pytest.fixture(scope="module")
def restored(cassr: CasSR, rgb: np.ndarray) -> np.ndarray:
    return cassr.restore(rgb).result


def test_each_switch_changes_the_picture(folder: Path, rgb: np.ndarray):
    whole = cassr_jax.load(folder, activation="identity")
    results = {whole.restore(rgb).result.tobytes()}
    switched = [
        {"reference_attention": False},
        {"lr_attention": False},
        {"reference_attention": False, "lr_attention": False},
        {"residuals": False},
    ]
    for switches in switched:
        config = replace(whole.config, switches=GuidanceSwitches(**switches))
        results.add(CasSR(config, whole.networks).restore(rgb).result.tobytes())
    assert len(results) == 1 + len(switched)


@pytest.mark.parametrize("activation", ["controlnet", "identity"])
def test_each_activation_gives_its_own_reference(folder: Path, cassr: CasSR, rgb: np.ndarray, activation: str):
    restoration = cassr_jax.load(folder, activation=activation).restore(rgb)
    assert restoration.result.shape == (48, 60, 3)
    if activation == "identity":
        np.testing.assert_array_equal(restoration.reference, restoration.bicubic)
    else:
        assert np.any(restoration.reference != cassr.reference(rgb))


def with_first_stage(config: CascadeConfig, **changes: Any) -> CascadeConfig:
    return replace(config, first_stages={"rrdbnet": FirstStageConfig(**changes)})


def with_rrdbnet_of(networks: Networks) -> Networks:
    config = RRDBNetConfig(num_feat=4, num_block=1, num_grow_ch=2)
    networks = networks.with_new("rrdbnet", config, jnp.float32, jax.random.key(0))
    networks.params["rrdbnet.conv_last.bias"] += 0.5
    return networks


def test_an_rrdbnet_gives_the_reference_and_its_colours_can_be_fixed(cassr: CasSR):
    """As the network makes it, in 8 bit; a network of random weights makes it grey, until its colours are fixed."""
    rgb = np.random.default_rng(1).integers(0, 256, (16, 16, 3)).astype(np.uint8)  # one tile
    networks = with_rrdbnet_of(cassr.networks)
    made = merge_all(networks.graphdefs, networks.params)["rrdbnet"](jnp.asarray(rgb[None], jnp.float32) / 255)[0]
    raw = CasSR(replace(cassr.config, activation="rrdbnet"), networks)
    np.testing.assert_allclose(raw.reference(rgb), np.asarray(made) * 255, atol=0.51)
    changed = CasSR(with_first_stage(raw.config, color_fix="adain"), networks).reference(rgb)
    np.testing.assert_array_equal(changed, raw.reference(rgb, color_fix="adain"))
    source = resizing.bicubic(rgb, (64, 64))
    assert np.abs(raw.reference(rgb).std((0, 1)) - source.std((0, 1))).min() > 10
    np.testing.assert_allclose(changed.std((0, 1)), source.std((0, 1)), rtol=0.25)  # of few levels


def test_same_seed_same_pixels_and_other_seeds_others(cassr: CasSR, rgb: np.ndarray, restored: np.ndarray):
    np.random.default_rng().random()
    jax.random.normal(jax.random.key(5), (3,))
    np.testing.assert_array_equal(cassr.restore(rgb).result, restored)
    seeds = [1, 2**32 - 1, 2**32, 685470360099406, 2**63 - 1]
    results = [cassr.restore(rgb, seed=seed).result for seed in seeds]
    assert len({result.tobytes() for result in (restored, *results)}) == len(seeds) + 1


def test_a_call_may_have_a_prompt_of_its_own(cassr: CasSR, rgb: np.ndarray, restored: np.ndarray):
    np.testing.assert_array_equal(cassr.restore(rgb, prompt=cassr.config.sampling.prompt).result, restored)
    stages = {name: replace(getattr(cassr.config, name), prompt="") for name in ("sampling", "activation_sampling")}
    expected = CasSR(replace(cassr.config, **stages), cassr.networks).restore(rgb)
    found = cassr.restore(rgb, prompt="")
    np.testing.assert_array_equal(found.result, expected.result)
    np.testing.assert_array_equal(found.reference, expected.reference)
    assert (found.result != restored).any()


def test_a_learned_context_refuses_a_prompt_that_it_does_not_know(cassr: CasSR, rgb: np.ndarray):
    for call in (cassr.restore, cassr.reference, cassr.upscale):
        with pytest.raises(InputError, match=r"prompt is 'a dog', expected '' or 'clean, high-resolution'"):
            call(rgb, prompt="a dog")
    with pytest.raises(InputError, match="prompt is 3, expected text or None"):
        cassr.restore(rgb, prompt=3)


def test_options_can_be_checked_before_a_call(cassr: CasSR):
    cassr.check(tile=64, steps=3, prompt="")
    for options, message in (
        ({"tile": 4}, "tile is 4 px, expected at least 8"),
        ({"prompt": "a dog"}, "a prompt is 'a dog', expected '' or"),
        ({"prompt": "\ud83d"}, r"a prompt is '\\ud83d', expected whole characters \(surrogates not allowed\)"),
        ({"decoder": "taesd"}, r"decoder is taesd, but this cascade has none"),
        ({"steps": 1000}, "1000 sampling steps do not fit"),
    ):
        with pytest.raises(InputError, match=message):
            cassr.check(**options)


def test_only_a_few_embeddings_of_prompts_are_kept(cassr: CasSR, monkeypatch: pytest.MonkeyPatch):
    asked: list[str] = []

    def prompt_ids(config: object, tokenizer: object, prompts: tuple[str, str]) -> np.ndarray:
        asked.append(prompts[1])
        return np.array([[0], [1]], np.int32)

    monkeypatch.setattr(cascade, "prompt_ids", prompt_ids)
    fresh = CasSR(cassr.config, cassr.networks)
    numbers = [str(number) for number in range(cascade._TEXTS + 1)]
    for number in [*numbers, numbers[-1], numbers[0]]:  # the latest is kept, the first is not
        fresh._text(SamplingConfig(prompt=number))
    assert asked == [*numbers, numbers[0]]


@pytest.mark.parametrize("seed", [-1, 2**63])
def test_seed_out_of_range_names_the_range(cassr: CasSR, rgb: np.ndarray, seed: int):
    with pytest.raises(InputError, match=f"seed is {seed}, expected a whole number of at least 0 and"):
        cassr.restore(rgb, seed=seed)


def test_progress_reports_every_call_of_both_stages(cassr: CasSR, rgb: np.ndarray, restored: np.ndarray):
    seen: list[tuple[str, int, int]] = []
    result = cassr.restore(rgb, progress=lambda *report: seen.append(report)).result
    # Every call of a network counts: hints and encoder, three steps, decoder.
    assert seen == [(stage, call, 5) for stage in ("reference", "result") for call in (1, 2, 3, 4, 5)]
    np.testing.assert_array_equal(result, restored)


def test_progress_reports_tiles_of_a_first_stage_that_only_enlarges(cassr: CasSR):
    networks, seen = with_rrdbnet_of(cassr.networks), []
    rgb = np.random.default_rng(1).integers(0, 256, (80, 48, 3)).astype(np.uint8)
    enlarging = CasSR(replace(cassr.config, activation="rrdbnet"), networks)
    enlarging.reference(rgb, tile=64, progress=lambda *report: seen.append(report))
    assert seen == [("reference", call, 6) for call in range(1, 7)]  # 3 x 2 tiles


def test_the_caller_s_own_error_ends_a_reference_as_it_was(cassr: CasSR, rgb: np.ndarray):
    def stop(*_: object):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        cassr.reference(rgb, progress=stop)


def test_no_trace_after_the_first_call(cassr: CasSR, rgb: np.ndarray, restored: np.ndarray):
    before = cassr._engine.programs.count()
    for seed, scale, strength in ((1, 5.0, 1.0), (2, 3.0, 1.0), (3, 2.5, 1.0)):
        cassr.restore(rgb, seed=seed, guidance_scale=scale, strength=strength)
    assert cassr._engine.programs.count() == before


@pytest.mark.parametrize("start", ["reference", "noise"])
def test_other_starts_change_the_picture(cassr: CasSR, rgb: np.ndarray, restored: np.ndarray, start: str):
    assert np.any(cassr.restore(rgb, start=start).result != restored)


def test_the_weaker_the_start_the_nearer_the_reference_passed_through_the_autoencoder(folder: Path, rgb: np.ndarray):
    cassr = cassr_jax.load(folder, activation="identity")
    options = {"start": "reference", "guidance_scale": 1.0, "color_fix": "none"}
    results = [cassr.restore(rgb, strength=strength, **options) for strength in (0.01, 0.1, 1.0)]
    reference = results[0].reference.astype(np.float32) / 127.5 - 1
    height, width = reference.shape[:2]
    margin = [(0, TILE - height), (0, TILE - width), (0, 0)]
    vae = merge_all(cassr.networks.graphdefs, cassr.networks.params)["vae"]
    image = vae.decode(vae.encode(jnp.asarray(np.pad(reference, margin, mode="edge")[None])))
    passed = np.clip((np.asarray(image)[0, :height, :width] + 1) * 127.5, 0, 255)
    distances = [np.abs(result.result - passed).mean() for result in results]
    assert distances == sorted(distances)


def test_larger_than_a_tile_and_not_square(cassr: CasSR):
    rgb = np.random.default_rng(1).integers(0, 256, (9, 40, 3)).astype(np.uint8)
    restoration = cassr.restore(rgb)
    assert TILE < 40 * 4
    assert restoration.result.shape == restoration.reference.shape == (36, 160, 3)


def test_numbers_that_overflow_are_an_error_that_names_the_stage(folder: Path, tmp_path: Path, rgb: np.ndarray):
    write_random_cascade(tmp_path)
    params = {name: value * 1e30 for name, value in random_params("unet").items()}
    write_network(tmp_path / "unet", "unet", NETWORKS["unet"], params)
    with pytest.raises(InputError, match=r"the reference has numbers that are not finite.* overflow even in float32"):
        cassr_jax.load(tmp_path).restore(rgb)


@pytest.mark.parametrize(
    ("name", "value"),
    [("unet.conv_in.kernel", np.nan), ("vae.decoder.conv_out.bias", np.inf), ("vae.decoder.conv_out.bias", -np.inf)],
)
def test_weights_that_are_not_finite_themselves_are_named(cassr: CasSR, rgb: np.ndarray, name: str, value: float):
    damaged = cassr.networks.params[name].at[..., 0].set(value)
    networks = replace(cassr.networks, params=cassr.networks.params | {name: damaged})
    with pytest.raises(InputError, match=f"the reference has numbers that are not finite.*{name} holds") as raised:
        CasSR(cassr.config, networks).restore(rgb)
    assert "float32" not in str(raised.value)


def test_half_precision_is_named_only_where_it_is_used():
    def reason(dtype: str, *values: float) -> str:
        return why_not_finite({"vae.a": jnp.zeros(2, dtype), "unet.b": jnp.asarray(values, dtype)})

    assert reason("float16", 1, np.inf) == "unet.b holds inf in float16, so try float32"
    assert reason("bfloat16", 1, 1) == "the networks overflow in bfloat16, so try float32"
    assert reason("float32", 1, 1) == "the networks overflow even in float32, as after a training run that failed"
    assert reason("float32", 1, np.nan) == "unet.b holds nan, so these weights are damaged; expected others"


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P"])
def test_upscale_gives_back_the_kind_it_was_given(cassr: CasSR, mode: str):
    image = Image.effect_noise((13, 10), 60).convert("RGB").convert(mode)
    result = cassr.upscale(image)
    assert isinstance(result, Image.Image)
    assert result.size == (52, 40)
    assert result.mode == {"P": "RGB"}.get(mode, mode)


def test_a_grey_picture_stays_grey(cassr: CasSR, rgb: np.ndarray):
    """The networks of random weights tint it strongly."""
    made = cassr.restore(rgb[..., :1].repeat(3, -1), color_fix="none", reference_weight=0.5)
    for picture in (made.reference, made.result):
        assert np.array_equal(picture, picture[..., :1].repeat(3, -1))
        assert np.ptp(picture) > 0


def test_the_first_stage_has_settings_of_its_own(cassr: CasSR, rgb: np.ndarray):
    changed = replace(cassr.config, sampling=replace(cassr.config.sampling, guidance_scale=7.0))
    np.testing.assert_array_equal(CasSR(changed, cassr.networks).reference(rgb), cassr.reference(rgb))


def test_upscale_of_an_array_equals_restore(cassr: CasSR, rgb: np.ndarray, restored: np.ndarray):
    np.testing.assert_array_equal(cassr.upscale(rgb), restored)
    assert cassr.upscale(rgb[0:1, 0:1]).shape == (4, 4, 3)


def test_arrays_of_jax_are_taken_like_those_of_numpy(cassr: CasSR, rgb: np.ndarray, restored: np.ndarray):
    """Alone and in a batch, by every call that takes arrays; another type or shape is refused in the same words."""
    batch = np.stack([rgb, 255 - rgb])
    expected = cassr.upscale(batch)
    for result in (cassr.upscale(jnp.asarray(batch)), np.stack(list(cassr.upscale([*jnp.asarray(batch)])))):
        assert isinstance(result, np.ndarray)
        np.testing.assert_array_equal(result, expected)
    several = [known(found).result for found in cassr.restore_many(jnp.asarray(batch))]
    np.testing.assert_array_equal(several, expected)
    np.testing.assert_array_equal(cassr.restore(jnp.asarray(rgb)).result, restored)
    np.testing.assert_array_equal(cassr.upscale(jnp.asarray(rgb)), restored)
    np.testing.assert_array_equal(cassr.reference(jnp.asarray(rgb)), cassr.reference(rgb))
    with pytest.raises(InputError, match=r"the picture is float32 \(12, 15, 3\), expected an array"):
        cassr.restore(jnp.asarray(rgb, jnp.float32))


def test_upscale_of_many_pictures_gives_each_in_its_place_and_kind(cassr: CasSR, rgb: np.ndarray):
    image = Image.effect_noise((13, 10), 60).convert("RGBA")
    results = cassr.upscale(iter([rgb, image, rgb[:5]]), seed=4)
    first, second, third = results
    np.testing.assert_array_equal(first, cassr.upscale(rgb, seed=4))
    assert second.tobytes() == cassr.upscale(image, seed=4).tobytes()
    np.testing.assert_array_equal(third, cassr.upscale(rgb[:5], seed=4))
    batch = np.stack([rgb, 255 - rgb])
    np.testing.assert_array_equal(cassr.upscale(batch), np.stack([cassr.upscale(each) for each in batch]))
    results = cassr.upscale([rgb, "a.png"])
    np.testing.assert_array_equal(next(results), cassr.upscale(rgb))
    with pytest.raises(InputError, match="the picture is of type str"):
        next(results)


def test_the_reference_has_its_share_in_the_result(cassr: CasSR):
    rgb = np.random.default_rng(1).integers(0, 256, (16, 16, 3)).astype(np.uint8)
    alone = cassr.restore(rgb)
    both = np.stack([alone.reference, alone.result]).astype(np.float32)
    for weight in (0.25, 1.0):
        mixed = cassr.restore(rgb, reference_weight=weight)
        np.testing.assert_array_equal(mixed.reference, alone.reference)
        np.testing.assert_allclose(mixed.result, weight * both[0] + (1 - weight) * both[1], atol=0.501)
    config = with_first_stage(cassr.config, reference_weight=0.25)
    np.testing.assert_array_equal(CasSR(config, cassr.networks).restore(rgb).result, alone.result)
    with_rrdbnet = CasSR(replace(config, activation="rrdbnet"), with_rrdbnet_of(cassr.networks))
    expected = with_rrdbnet.restore(rgb, reference_weight=0.25).result
    np.testing.assert_array_equal(with_rrdbnet.restore(rgb).result, expected)
    assert np.any(with_rrdbnet.restore(rgb, reference_weight=0.0).result != expected)


def test_options_out_of_range_are_named(cassr: CasSR, rgb: np.ndarray):
    for options, message in (
        ({"sampler": "lms"}, "sampler is 'lms', expected one of ddim"),
        ({"sampler": np.array(["ddim", "lms"])}, r"sampler is array\(.*\), expected one of ddim"),
        ({"start": "nowhere"}, "start is 'nowhere'"),
        ({"color_fix": "sepia"}, "color_fix is 'sepia'"),
        ({"strength": 0.0}, "strength is 0.0"),
        ({"reference_weight": 1.5}, "reference_weight is 1.5, expected a number of at least 0 and at most 1"),
        ({"steps": 0}, "steps is 0"),
        ({"tile": 4}, "tile is 4 px, expected at least 8"),
        ({"steps": 2000}, "2000"),
        ({"seed": 1.5}, r"seed is 1\.5, expected a whole number"),
        ({"scale": "2"}, "scale is '2', expected a number above 0"),
        ({"tile": 100.0}, r"tile is 100\.0, expected a whole number"),
        ({"tile": 0}, "tile is 0, expected a whole number of at least 1"),
        ({"guidance_scale": float("nan")}, "guidance_scale is nan, expected a number"),
        ({"progress": 3}, "progress is 3, expected a function"),
    ):
        with pytest.raises(InputError, match=message):
            cassr.restore(rgb, **options)


def test_pictures_of_another_kind_are_named(cassr: CasSR, rgb: np.ndarray):
    grey, rgba = rgb[..., 0], np.zeros((5, 6, 4), np.uint8)
    others = (rgb / 255, rgb > 0, rgb.astype(np.int32), rgb[0, 0], rgb[None], rgb[:0], np.array([[None]]))
    no_arrays = (rgb.tolist(), [[1], [1, 2]], None, "photo.jpg", Path("photo.jpg"))
    for picture in (grey, rgba, *others, *no_arrays):
        with pytest.raises(InputError, match=r"the picture is .*, expected an array \(height, width, 3\) of uint8"):
            cassr.restore(picture)
    for picture in (each for each in others if each.ndim != 4):
        with pytest.raises(InputError, match=r"picture array of .*: expected uint8 or uint16 of \(height, width\)"):
            cassr.upscale(picture)
    for picture in no_arrays:
        with pytest.raises(InputError, match=r"the picture is of type .*, expected a PIL image or an array of uint8"):
            list(cassr.upscale(picture))  # a list is taken for a list of pictures
    for picture in (grey, rgba, rgb[::2, ::-1]):
        assert cassr.upscale(picture).shape[:2] == (4 * picture.shape[0], 4 * picture.shape[1])


def test_loading_names_what_is_wrong(folder: Path, tmp_path: Path):
    for source, message in (
        ("no-such-cascade", "no-such-cascade: not found, expected an embedded cascade"),
        (tmp_path, "holds no cassr.json"),
        (tmp_path / "x.py", "no such file"),
        ("", "source is ''"),
        (None, "source is None, expected the name of a cascade"),
        (3, "source is 3"),
    ):
        with pytest.raises(InputError, match=message):
            cassr_jax.load(source)
    for devices in ("2", 1.5, True):
        with pytest.raises(InputError, match=f"devices is {devices!r}, expected 1 to 8"):
            cassr_jax.load(folder, devices=devices)
    message = r"names no rrdbnet .* for activation rrdbnet \(tiny has one\); without it the activation can be "
    with pytest.raises(InputError, match=message + "scedit, controlnet, identity$"):
        cassr_jax.load(folder, activation="rrdbnet")


def test_start_latents_use_the_last_timestep_for_trailing_spacing(cassr: CasSR):
    schedule = replace(cassr.config.schedule, timestep_spacing="trailing")
    trajectory = make_sampler("ddim").trajectory(schedule, SamplingConfig().num_steps)
    assert trajectory.timesteps[0] == 999
    latents, noise = jnp.ones((1, 2, 2, 4)), jnp.full((1, 2, 2, 4), 2.0)
    abar = schedule.alphas_cumprod[999]
    expected = np.sqrt(abar) + np.sqrt(1 - abar) * 2.0
    np.testing.assert_allclose(start_latents(trajectory, latents, noise), expected, rtol=1e-6)


@pytest.fixture(scope="module")
def fused(cassr: CasSR) -> CasSR:
    networks = cassr.networks.with_new("fusion", NETWORKS["fusion"], jnp.float32, jax.random.key(0))
    networks.params.update(nest("fusion", {name: jnp.asarray(v) for name, v in random_params("fusion").items()}))
    return CasSR(cassr.config, networks)


class TestFusion:
    """The second stage's pictures are decoded through it; the first stage's are not."""

    def test_untrained_it_changes_nothing(self, cassr: CasSR, rgb: np.ndarray, restored: np.ndarray):
        networks = cassr.networks.with_new("fusion", NETWORKS["fusion"], jnp.float32, jax.random.key(0))
        np.testing.assert_array_equal(CasSR(cassr.config, networks).restore(rgb).result, restored)

    def test_an_untrained_guided_decoder_gives_the_reference(self, cassr: CasSR, rgb: np.ndarray):
        config = GuidedDecoderConfig(4, factor=4, features=8, num_blocks=1, pixel_features=4, num_pixel_blocks=1)
        networks = cassr.networks.with_new("fusion", config, jnp.float32, jax.random.key(0))
        made = CasSR(replace(cassr.config, color_fix="none"), networks).restore(rgb)
        np.testing.assert_array_equal(made.result, made.reference)
        assert np.any(made.reference != made.bicubic)

    def test_fidelity_leads_from_the_plain_decoder_to_the_fused_one(
        self, fused: CasSR, cassr: CasSR, rgb: np.ndarray, restored: np.ndarray
    ):
        whole = fused.restore(rgb)
        np.testing.assert_array_equal(fused.restore(rgb, fidelity=0.0).result, cassr.restore(rgb, fidelity=0.0).result)
        np.testing.assert_array_equal(fused.restore(rgb, fidelity=1.0).result, whole.result)
        np.testing.assert_array_equal(whole.reference, cassr.reference(rgb))
        configured = CasSR(replace(cassr.config, fidelity=0.5), fused.networks).restore(rgb).result
        np.testing.assert_array_equal(configured, fused.restore(rgb, fidelity=0.5).result)
        assert np.any(configured != whole.result)
        assert np.any(whole.result != restored)

    @pytest.mark.parametrize("size", [(40, 21), (17, 50)])
    def test_tiles_are_guided_by_their_own_part(self, fused: CasSR, size: tuple[int, int]):
        """Sides that the tiles do not divide; what lies at one end of the picture does not change the other end."""
        picture = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
        result = fused.restore(picture).result
        assert result.shape == (4 * size[0], 4 * size[1], 3)
        assert np.any(result != fused.restore(picture, fidelity=0.0).result)

    def test_a_fidelity_out_of_range_is_refused(self, cassr: CasSR, rgb: np.ndarray):
        with pytest.raises(InputError, match="fidelity is 2, expected a number"):
            cassr.restore(rgb, fidelity=2)
