"""Less work a step: guidance in some of the steps only, and features of the ControlNet that serve several steps."""

from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import cassr_jax
from cassr_jax.cascade import CasSR
from cassr_jax.choices import SPEEDS
from cassr_jax.commands.settings import described
from cassr_jax.config import CascadeConfig, SamplingConfig
from cassr_jax.control.cassr import CONTROL_SCHEME
from cassr_jax.diffusion.schedule import Schedule
from cassr_jax.errors import InputError
from cassr_jax.models.multiple_attention import GuidanceSwitches
from cassr_jax.networks import Networks, merge_all
from cassr_jax.options import Options
from cassr_jax.ranges import check
from cassr_jax.sampling import Embeddings, Setting, embed, make_course, predict
from cassr_jax.sharding.topologies import topology_devices
from tests.random_cascade import NETWORKS, write_random_cascade

PLAIN = {"steps": 4, "guidance_scale": 100.0, "reference_weight": 0.0, "color_fix": "none"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return write_random_cascade(tmp_path_factory.mktemp("cascade"))


@pytest.fixture(scope="module")
def cassr(folder) -> CasSR:
    return cassr_jax.load(folder, activation="identity")


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (12, 20, 3)).astype(np.uint8)


def restored(cassr: CasSR, picture: np.ndarray, **options) -> np.ndarray:
    return cassr.restore(picture, **PLAIN | options).result.astype(np.float32)


def distance(left: np.ndarray, right: np.ndarray) -> float:
    return float(np.abs(left - right).mean())


def test_guidance_outside_all_steps_is_none_and_inside_all_is_the_plain(cassr, picture):
    plain, unguided = (restored(cassr, picture, guidance_scale=scale) for scale in (100.0, 1.0))
    assert distance(plain, unguided) > 1
    np.testing.assert_array_equal(restored(cassr, picture, guidance_from=0.5, guidance_to=0.5), unguided)
    # The same steps in the program that has both kinds of them: from 0 to 4 of 4 steps, but not by default.
    course = make_course(Schedule(), SamplingConfig(num_steps=4, guidance_from=0.1, guidance_to=0.9))
    assert (int(course.first_guided), int(course.stop_guided)) == (0, 4)


def test_guidance_in_some_steps_lies_between(cassr, picture):
    plain, unguided = (restored(cassr, picture, guidance_scale=scale) for scale in (100.0, 1.0))
    first, last = (restored(cassr, picture, **some) for some in ({"guidance_to": 0.5}, {"guidance_from": 0.5}))
    assert distance(first, plain) > 0
    assert distance(first, unguided) > 0
    assert distance(first, last) > 0


def test_each_step_is_guided_as_the_course_says():
    course = make_course(Schedule(), SamplingConfig(num_steps=10, guidance_from=0.2, guidance_to=0.5, control_every=3))
    assert [bool(course.guided(jnp.int32(step))) for step in range(10)] == [step in (2, 3, 4) for step in range(10)]
    # Every third step, and where guidance begins and ends.
    assert [step for step in range(10) if course.renews_control(jnp.int32(step))] == [0, 2, 3, 5, 6, 9]


class OfText:
    """A denoiser whose prediction is its text."""

    def embed_text(self, encoder_hidden_states):
        return encoder_hidden_states

    def embed_images(self, *images):
        return None

    def embed_time(self, timesteps):
        return timesteps

    def __call__(self, latents, temb, text, hints, fidelity=1.0):
        return jnp.zeros_like(latents) + text[:, None, None, None]


def test_a_step_without_guidance_is_of_the_prompt():
    sampling = SamplingConfig(num_steps=4, guidance_scale=3.0, guidance_to=0.5)
    embeddings = Embeddings(jnp.asarray([-1.0, 2.0]), jnp.zeros((4, 1)))  # the negative prompt, then the prompt
    latents, course, setting = jnp.zeros((1, 2, 2, 4)), make_course(Schedule(), sampling), Setting.of(sampling)
    found = [predict(OfText(), embeddings, latents, None, jnp.int32(i), course, setting)[0] for i in range(4)]
    assert [float(each.mean()) for each in found] == [8.0, 8.0, 2.0, 2.0]


@pytest.mark.parametrize("guided", [{"guidance_scale": 1.0}, {"guidance_to": 0.5}])
def test_features_renewed_in_every_step_change_nothing(cassr, picture, guided, monkeypatch):
    """The loop that keeps features, with every step a renewal."""
    plain = restored(cassr, picture, **guided)
    kept = restored(cassr, picture, **guided, control_every=2)
    assert distance(kept, plain) > 0
    monkeypatch.setattr(
        "cassr_jax.cascade.make_course", lambda *of: make_course(*of)._replace(control_every=np.int32(1))
    )
    fresh = CasSR(cassr.config, cassr.networks)
    np.testing.assert_allclose(restored(fresh, picture, **guided, control_every=2), plain, atol=1)


def test_kept_features_serve_the_tiles_they_were_made_for(cassr, picture):
    """Alone and in the company of others, in several tiles and calls."""
    others = [np.random.default_rng(i).integers(0, 256, (40, 24, 3)).astype(np.uint8) for i in (1, 2)]
    options = PLAIN | {"control_every": 2, "guidance_to": 0.5, "tile": 64}
    alone = cassr.restore(others[0], **options).result
    (_, together, _) = cassr.restore_many([picture, *others], **options)
    np.testing.assert_array_equal(together.result, alone)


def test_a_stage_without_a_controlnet_keeps_nothing(folder, picture):
    def change(config):
        return replace(config, activation_sampling=replace(config.activation_sampling, control_every=2))

    with pytest.raises(InputError, match="control_every is 2, expected 1: the first stage scedit has no ControlNet"):
        cassr_jax.load(folder, activation="scedit", change=change)
    cassr_jax.load(folder, activation="controlnet", change=change)
    scedit = cassr_jax.load(folder, activation="scedit")
    scedit = CasSR(change(scedit.config), scedit.networks)
    with pytest.raises(InputError, match="control_every is above 1, expected 1: this stage has no ControlNet"):
        scedit.reference(picture)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"num_steps": 50, "strength": 0.01},
            "strength is 0.01, which starts at timestep 10: 50 sampling steps do not fit into timesteps 0 to 10 with "
            "leading spacing, expected at most 10, or ",
        ),
        (
            {"guidance_from": 0.8, "guidance_to": 0.2},
            "guidance_from is 0.8 and guidance_to 0.2, expected the first not to be above the second",
        ),
    ],
)
def test_a_course_that_cannot_be_taken_is_refused(cassr, picture, changes, message):
    with pytest.raises(InputError, match=message):
        make_course(Schedule(), SamplingConfig(**changes))
    options = {"steps" if name == "num_steps" else name: value for name, value in changes.items()}
    with pytest.raises(InputError, match=message):
        cassr.check(**options)


@pytest.mark.parametrize("changes", [{"guidance_scale": 1.0}, {"guidance_to": 0.0}])
def test_without_guidance_there_is_no_negative_prompt(changes):
    assert SamplingConfig(**changes).prompts == ("", "clean, high-resolution")
    assert SamplingConfig(**changes, guidance_from=0.0).guided_steps == range(0)
    assert SamplingConfig().prompts[0]


def test_speeds_are_a_sampler_and_its_steps():
    config = Options(speed="draft", steps=9).written_into(CascadeConfig())
    assert (config.sampling.sampler, config.sampling.num_steps) == ("dpmpp_2m", 9)
    assert config.activation_sampling.num_steps == 9
    with pytest.raises(InputError, match="speed is 'slow', expected one of fast, draft, lcm, hyper"):
        Options(speed="slow")


@pytest.mark.parametrize("speed", SPEEDS)
def test_every_speed_can_be_taken(speed):
    config = Options(speed=speed).written_into(CascadeConfig())
    for sampling in (config.sampling, config.activation_sampling):
        assert len(make_course(Schedule(), sampling).trajectory.timesteps) == SPEEDS[speed]["steps"]


@pytest.mark.parametrize(
    ("options", "sampler", "eta", "guidance_scale"),
    [
        ({}, "tcd", 0.5, 5.5),
        ({"sampler": "tcd"}, "tcd", 0.5, 5.5),
        ({"sampler": "ddim"}, "ddim", None, 5.5),
        ({"speed": "fast"}, "dpmpp_2m", None, 5.5),
        ({"speed": "lcm"}, "lcm", None, 1.0),
        ({"speed": "hyper"}, "tcd", 1.0, 1.0),
        ({"speed": "hyper", "sampler": "unipc"}, "unipc", None, 1.0),
        ({"speed": "hyper", "guidance_scale": 1.5}, "tcd", 1.0, 1.5),
        ({"speed": "lcm", "sampler": "tcd"}, "tcd", 0.5, 1.0),
    ],
)
def test_a_speed_decides_guidance_and_noise_unless_they_are_given(options, sampler, eta, guidance_scale):
    own = SamplingConfig(sampler="tcd", eta=0.5)
    config = Options(**options).written_into(CascadeConfig(sampling=own, activation_sampling=own))
    for sampling in (config.sampling, config.activation_sampling):
        assert (sampling.sampler, sampling.eta, sampling.guidance_scale) == (sampler, eta, guidance_scale)
    assert ("eta" in described(config)["result"]) == (eta is not None)


def test_an_eta_beyond_its_range_is_refused():
    with pytest.raises(InputError, match=r"eta is 1\.5, expected a number of at least 0 and at most 1, or None"):
        check(SamplingConfig(sampler="tcd", eta=1.5))


@pytest.mark.parametrize(
    ("changes", "guided"),
    [({}, "always"), ({"guidance_scale": 1}, "never"), ({"guidance_to": 0.5}, "some"), ({"guidance_to": 0}, "never")],
)
def test_what_is_compiled_follows_from_the_interval(changes, guided):
    assert Setting.of(SamplingConfig(**changes)).guided == guided


def test_a_sampling_step_for_gpus_has_flash_attention_and_holds_no_scores():
    """A tile of 128 px, which has 16x16 tokens in the transformers: the fewest that flash attention is used for."""
    try:
        everywhere = NamedSharding(Mesh(topology_devices("h200:8"), ("tiles",)), PartitionSpec())
    except InputError as error:
        pytest.skip(str(error))
    networks, sampling = Networks(), SamplingConfig()
    for kind in ("unet", "controlnet", "multiple_attention"):
        networks = networks.with_shapes(kind, NETWORKS[kind], jnp.bfloat16)
    course, setting = make_course(Schedule(), sampling), Setting.of(sampling)

    def step(params, latents, prompts, lq, reference):
        denoiser = CONTROL_SCHEME.make_denoiser(merge_all(networks.graphdefs, params), GuidanceSwitches())
        embeddings = embed(denoiser, prompts, course.trajectory, 1, setting)
        hints = denoiser.embed_images(lq, reference)
        return predict(denoiser, embeddings, latents, hints, jnp.int32(0), course, setting)[0]

    image = jax.ShapeDtypeStruct((1, 128, 128, 3), jnp.float32)
    shapes = (
        networks.params,
        jax.ShapeDtypeStruct((1, 32, 32, 4), jnp.float32),
        jax.ShapeDtypeStruct((2, 77, 8), jnp.float32),
    )
    placed = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=everywhere), (*shapes, image, image)
    )
    program = jax.jit(step).lower(*placed).compile().as_text()
    assert '"__cudnn$fmhaSoftmax"' in program
    assert "256,256]" not in program
