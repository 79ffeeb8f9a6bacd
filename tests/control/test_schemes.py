"""Every control scheme by itself, and from its training to the picture."""

import json
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cassr_jax
from cassr_jax import control as package
from cassr_jax.config_files import to_json
from cassr_jax.control import NAMES, all_control_schemes, control_scheme
from cassr_jax.control.interface import PICTURES
from cassr_jax.data.config import DataConfig
from cassr_jax.errors import InputError
from cassr_jax.imaging.resizing import bicubic
from cassr_jax.loading import CASCADE_FILE
from cassr_jax.models.controlnet import ControlNetConfig
from cassr_jax.models.multiple_attention import GuidanceSwitches
from cassr_jax.models.parameters import merge, select
from cassr_jax.second_stage import denoiser_maker
from cassr_jax.training.loop import train
from cassr_jax.training.setup import build
from cassr_jax.training.stages import STAGES
from cassr_jax.weights.configs import AttachedConfig
from tests.random_cascade import HINT, NETWORKS, TILE, UNET, write_random_cascade
from tests.training.runs import SIDE, configure, example_keys, make_batch, objective_and_params, write_pictures

PICTURE = np.random.default_rng(0).integers(0, 256, (12, 10, 3)).astype(np.uint8)


def test_the_folder_holds_the_schemes_that_are_named():
    files = {path.stem for path in Path(package.__file__).parent.glob("*.py")} - {"__init__", "interface"}
    assert files == set(NAMES)
    assert [scheme.name for scheme in all_control_schemes()] == list(NAMES)


def test_an_unknown_name_is_refused_with_the_ones_that_are_known():
    with pytest.raises(InputError, match="control is 'magic', expected one of cassr, pasd, residuals"):
        control_scheme("magic")


@pytest.mark.parametrize("name", NAMES)
def test_each_is_a_stage_of_training(name):
    scheme = control_scheme(name)
    assert STAGES[name].trains == scheme.networks
    assert STAGES[name].reads == scheme.reads
    assert STAGES[name].completes
    assert set(scheme.reads) <= set(PICTURES)


def test_switches_are_refused_where_there_is_nothing_to_switch_off():
    off = GuidanceSwitches(lr_attention=False)
    with pytest.raises(InputError, match="control pasd has nothing to switch off"):
        denoiser_maker(control_scheme("pasd"), off)
    denoiser_maker(control_scheme("cassr"), off)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("control")
    components = {kind: kind for kind in NETWORKS if kind not in ("fusion", "taesd")}
    write_random_cascade(path, components=components, activation="identity")
    write_pictures(path / "pictures", 3)
    return path


def cascade(folder: Path, control: str, **changes: object) -> cassr_jax.CasSR:
    return cassr_jax.load(folder, change=lambda config: replace(config, control=control, **changes))


@pytest.mark.parametrize(
    "name", ["pasd", *(pytest.param(name, marks=pytest.mark.slow) for name in ("cassr", "residuals"))]
)
def test_from_training_to_the_picture(folder, tmp_path, name):
    data = DataConfig(str(folder / "pictures"), crop_size=SIDE, preset="light", prefetch=2)
    config = configure(name, folder, data, num_steps=1, activation="identity")
    exported = train(config, tmp_path / "run")
    assert {path.name for path in exported.iterdir() if path.is_dir()} == {*control_scheme(name).networks}
    assert json.loads((exported / CASCADE_FILE).read_text())["control"] == name
    trained = cassr_jax.load(tmp_path / "run")
    assert trained.config.control == trained.control_scheme.name == name
    result = trained.upscale(PICTURE, steps=1, guidance_scale=1.0)
    assert result.shape == (48, 40, 3)
    assert result.std() > 1


@pytest.mark.parametrize("name", NAMES)
def test_fidelity_weighs_the_picture_and_compiles_nothing_anew(folder, name):
    cassr = cascade(folder, name)
    whole = cassr.upscale(PICTURE)
    programs = cassr._engine.programs.count()
    half, usual = cassr.upscale(PICTURE, fidelity=0.5), cassr.upscale(PICTURE, fidelity=1.0)
    np.testing.assert_array_equal(whole, usual)
    assert np.abs(half.astype(int) - whole).max() > 0
    assert cassr._engine.programs.count() == programs


def test_without_fidelity_a_plain_controlnet_does_not_see_its_picture(folder):
    """What remains is the start, which is noise here."""
    cassr = cascade(folder, "residuals", color_fix="none")
    one, other = (cassr.upscale(p, start="noise", fidelity=0.0) for p in (PICTURE, 255 - PICTURE))
    np.testing.assert_array_equal(one, other)
    assert np.any(cassr.upscale(PICTURE, start="noise") != cassr.upscale(255 - PICTURE, start="noise"))


def test_the_start_may_be_a_picture_that_the_scheme_does_not_read(folder):
    """With `identity` both pictures are the same, so that the runs must be too."""
    for name in ("pasd", "residuals"):
        cassr = cascade(folder, name)
        one, other = (cassr.upscale(PICTURE, start=start, strength=0.5) for start in ("lq", "reference"))
        np.testing.assert_array_equal(one, other)


def test_added_noise_takes_the_whole_schedule(folder):
    cassr = cascade(folder, "pasd")
    noisy = replace(cassr.config.sampling, added_noise_level=900)
    with_noise = cascade(folder, "pasd", sampling=noisy)
    assert np.any(with_noise.upscale(PICTURE) != cassr.upscale(PICTURE))
    with pytest.raises(InputError, match=r"added_noise_level is 900 and strength 0\.5, expected no added noise"):
        with_noise.upscale(PICTURE, strength=0.5)


def test_tcd_without_noise_samples_too(folder):
    config = cascade(folder, "residuals").config
    cassr = cascade(folder, "residuals", sampling=replace(config.sampling, sampler="tcd", eta=0.0))
    assert cassr.upscale(PICTURE).shape == (48, 40, 3)


@pytest.mark.parametrize("name", NAMES)
def test_a_fusion_is_guided_by_both_pictures_whatever_the_scheme_reads(folder, name, monkeypatch):
    seen = []

    def decode(self, vae, latents, guides, weight=1.0):
        seen.append(guides)
        return vae.decode(latents)

    monkeypatch.setattr("cassr_jax.models.fusion.Fusion.decode", decode)
    sources = {kind: kind for kind in NETWORKS if kind != "taesd"}
    cassr = cascade(folder, name, components=sources)
    cassr.upscale(PICTURE)
    assert [len(guides) for guides in seen] == [2]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["pasd", "residuals"])
def test_devices_that_share_rows_give_the_picture_of_one_tile(folder, name):
    tiles = cascade(folder, name)
    rows = cassr_jax.load(folder, change=lambda config: replace(config, control=name), split="spatial", devices=2)
    picture = np.random.default_rng(1).integers(0, 256, (16, 16, 3)).astype(np.uint8)
    one, both = (cassr.upscale(picture).astype(int) for cassr in (tiles, rows))
    assert np.abs(one - both).max() <= 1


def test_a_missing_network_is_named_with_the_scheme(folder):
    with pytest.raises(InputError, match=r"names no pixel_attention among .* for control pasd"):
        cassr_jax.load(
            folder,
            change=lambda config: replace(
                config,
                control="pasd",
                components={k: v for k, v in config.components.items() if k != "pixel_attention"},
            ),
        )


class TestProcessSize:
    """Pictures whose results are small are worked on at a larger size."""

    def test_the_result_has_its_own_size_and_is_the_reduced_large_one(self, folder):
        cassr = cascade(folder, "residuals")
        small = cassr.restore(PICTURE, process_size=96)
        assert {small.result.shape, small.reference.shape, small.bicubic.shape} == {(48, 40, 3)}
        assert np.any(small.result != cassr.restore(PICTURE).result)
        large = cassr.restore(PICTURE, scale=9.6)  # the shorter side is then 96 px
        assert large.result.shape == (115, 96, 3)
        np.testing.assert_array_equal(small.bicubic, bicubic(PICTURE, (48, 40)))
        np.testing.assert_array_equal(small.result, bicubic(large.result, (48, 40)))

    def test_a_larger_picture_is_left_as_it_is(self, folder):
        cassr = cascade(folder, "residuals")
        np.testing.assert_array_equal(cassr.upscale(PICTURE, process_size=40), cassr.upscale(PICTURE))

    def test_the_first_stage_alone_gives_the_size_asked_for(self, folder):
        assert cascade(folder, "residuals").reference(PICTURE, process_size=TILE).shape == (48, 40, 3)


class TestHintPictures:
    """PASD's loss of the pictures that its hint network gives at each of its resolutions."""

    def config(self, folder: Path, **loss: float):
        own = ControlNetConfig(conditioning_embedding_out_channels=HINT, return_rgbs=True)
        config = configure("pasd", folder, activation="identity")
        components = {kind: path for kind, path in config.components.items() if kind != "controlnet"}
        new = {"controlnet": AttachedConfig(UNET, own)}
        return replace(config, components=components, new=new, loss=replace(config.loss, **loss))

    def test_it_is_the_l1_to_the_target_at_each_resolution(self, folder):
        objective, trained, frozen = objective_and_params(self.config(folder, rgb_weight=2.0))
        plain, *_ = objective_and_params(self.config(folder))
        batch = jax.tree.map(jnp.asarray, make_batch("pasd"))
        keys = example_keys(jax.random.key(0))
        (loss, metrics), (without, _) = objective(trained | frozen, batch, keys), plain(trained | frozen, batch, keys)
        assert set(metrics) == {"diffusion", "rgb"}
        np.testing.assert_allclose(loss, without + 2 * metrics["rgb"], rtol=1e-5)
        controlnet = build(self.config(folder)).graphdefs["controlnet"]
        made = merge(controlnet, select(trained, "controlnet")).embed_rgbs(jnp.asarray(batch["lq"] / 255, jnp.float32))
        expected = 0.0
        for rgb in made:
            factor = SIDE // rgb.shape[1]
            # torch's bilinear halving without antialiasing takes the middle two of `factor` values along each axis.
            middle = batch["hr"].reshape(2, rgb.shape[1], factor, rgb.shape[2], factor, 3)
            first = factor // 2 - 1
            target = middle[:, :, first : first + 2, :, first : first + 2].mean((2, 4)) / 127.5 - 1
            expected += np.abs(np.asarray(rgb) - target).mean()
        assert len(made) == len(HINT) - 1
        np.testing.assert_allclose(metrics["rgb"], expected, rtol=1e-4)

    @pytest.mark.slow
    def test_its_gradient_reaches_the_heads(self, folder):
        objective, trained, frozen = objective_and_params(self.config(folder, rgb_weight=1.0))
        batch, keys = jax.tree.map(jnp.asarray, make_batch("pasd")), example_keys(jax.random.key(0))
        gradients = jax.grad(lambda params: objective(params | frozen, batch, keys)[0])(trained)
        heads = [g for name, g in gradients.items() if ".to_rgbs." in name]
        assert heads
        assert all(np.abs(gradient).max() > 0 for gradient in heads)

    def test_it_is_refused_without_heads(self, folder):
        config = configure("pasd", folder, activation="identity")
        with pytest.raises(InputError, match=r"rgb_weight is 1\.0, expected 0: the stage has no controlnet with"):
            build(replace(config, loss=replace(config.loss, rgb_weight=1.0)))


def test_new_networks_are_written_down_with_the_run(folder):
    own = ControlNetConfig(conditioning_embedding_out_channels=HINT, return_rgbs=True)
    config = replace(configure("pasd", folder), new={"controlnet": AttachedConfig(UNET, own)})
    assert to_json(config)["new"]["controlnet"]["own"]["return_rgbs"] is True
