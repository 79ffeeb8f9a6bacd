"""Noise levels, conversions and the spacing of timesteps."""

import json
import re
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from benchmarks.published_configs import SCHEDULER as SD15_CONFIG
from cassr_jax.config import SamplingConfig
from cassr_jax.diffusion import schedule as schedule_module
from cassr_jax.diffusion.schedule import Schedule
from cassr_jax.errors import InputError
from cassr_jax.sampling import make_course

GOLDEN = Path(__file__).parents[1] / "golden" / "diffusion.npz"


@pytest.mark.parametrize(
    ("recorded", "beta_schedule"),
    [("scaled_linear", "scaled_linear"), ("linear", "linear"), ("cosine", "squaredcos_cap_v2")],
)
def test_alphas_cumprod_are_diffusers_own(recorded, beta_schedule):
    expected = np.load(GOLDEN)[f"alphas_cumprod/{recorded}"]
    actual = Schedule(beta_schedule=beta_schedule).alphas_cumprod
    assert actual.dtype == np.float32
    if beta_schedule == "squaredcos_cap_v2":  # libm's cosine may differ by the platform
        np.testing.assert_allclose(actual, expected, rtol=1e-6)
    else:
        np.testing.assert_array_equal(actual, expected)


def test_alphas_cumprod_cannot_be_written_to():
    with pytest.raises(ValueError, match="read-only"):
        Schedule().alphas_cumprod[0] = 1


def test_is_a_static_argument_of_jit():
    traces = []

    def snr(schedule, t):
        traces.append(t)
        return schedule.snr(t)

    compiled = jax.jit(snr, static_argnums=0)
    t = jnp.arange(3)
    compiled(Schedule(), t)
    compiled(Schedule(), t)
    assert len(traces) == 1


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_every_prediction_type_stands_for_the_same_x0(prediction):
    schedule = Schedule(prediction_type=prediction)
    x0, noise = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3, 4, 4, 2)), jnp.float32)
    t = jnp.asarray([0, 400, 950])
    x_t = schedule.add_noise(x0, noise, t)
    output = {"epsilon": noise, "v_prediction": schedule.velocity(x0, noise, t), "sample": x0}[prediction]
    # Dividing by the signal (0.08 at t = 950) costs two digits of float32.
    np.testing.assert_allclose(schedule.to_x0(output, x_t, t), x0, atol=2e-5)


def test_one_timestep_for_all_equals_one_each():
    schedule = Schedule()
    x0, noise = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3, 4, 4, 2)), jnp.float32)
    np.testing.assert_array_equal(schedule.add_noise(x0, noise, 7), schedule.add_noise(x0, noise, jnp.full(3, 7)))


def test_noisy_latents_are_float32_whatever_comes_in():
    half = jnp.ones((1, 2, 2, 1), jnp.bfloat16)
    assert Schedule().add_noise(half, half, 5).dtype == jnp.float32
    assert Schedule().to_x0(half, half, 5).dtype == jnp.float32


def test_sigmas_and_snr_describe_the_same_levels():
    schedule = Schedule()
    np.testing.assert_allclose(schedule.snr(jnp.arange(1000)), schedule.sigmas**-2, rtol=1e-6)
    assert np.all(np.diff(schedule.sigmas) > 0)


SPACING = st.builds(
    lambda spacing, offset: Schedule(timestep_spacing=spacing, steps_offset=offset),
    st.sampled_from(["leading", "trailing", "linspace"]),
    st.integers(0, 1),
)


@given(SPACING, st.integers(1, 120), st.one_of(st.none(), st.integers(0, 999)), st.booleans())
@example(Schedule(timestep_spacing="trailing"), 2, 0, False)  # would end at timestep -1
@settings(deadline=None)
def test_timesteps_fall_and_stay_in_range_or_the_run_is_refused(schedule, steps, first, open_end):
    try:
        timesteps = schedule.spaced_timesteps(steps, first, open_end=open_end)
    except InputError as error:
        assert steps >= (999 if first is None else first) / 2, "half as many steps as timesteps always fit"
        assert str(steps) in str(error)  # noqa: PT017
        return
    assert timesteps.shape == (steps,)
    assert np.all(np.diff(timesteps) < 0)
    assert timesteps[-1] >= 0
    assert timesteps[0] <= (999 if first is None else first)
    if schedule.timestep_spacing == "trailing" or (schedule.timestep_spacing == "linspace" and steps > 1):
        assert timesteps[0] == (999 if first is None else first)


@given(SPACING, st.integers(1, 120), st.booleans())
@settings(deadline=None)
def test_the_last_timestep_as_the_first_is_the_whole_schedule(schedule, steps, open_end):
    np.testing.assert_array_equal(
        schedule.spaced_timesteps(steps, 999, open_end=open_end), schedule.spaced_timesteps(steps, open_end=open_end)
    )


@pytest.mark.parametrize(("steps", "first"), [(0, None), (-1, None), (2000, None), (5, -1), (5, 1000), (12, 10)])
@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
def test_impossible_runs_are_refused_in_one_sentence(steps, first, spacing):
    with pytest.raises(InputError, match="expected") as caught:
        Schedule(timestep_spacing=spacing).spaced_timesteps(steps, first)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("spacing", "most"),
    [("leading", "at most 9, or "), ("trailing", "at most 10, or "), ("linspace", "at most 10, or ")],
)
def test_a_refused_run_names_the_steps_that_fit(spacing, most):
    schedule = Schedule(num_train_timesteps=10, timestep_spacing=spacing, steps_offset=1)
    message = (
        f"12 sampling steps do not fit into timesteps 0 to 9 with {spacing} spacing, expected {most}a higher first"
    )
    with pytest.raises(InputError, match=message):
        schedule.spaced_timesteps(12)
    assert len(schedule.spaced_timesteps(int(most.split()[2].strip(",")))) in (9, 10)
    with pytest.raises(InputError, match=r"^strength is 0\.5, .* timestep 4: 12 sampling steps do not fit into"):
        make_course(schedule, SamplingConfig(num_steps=12, strength=0.5))


@pytest.mark.parametrize(
    "field",
    [{"steps_offset": -1}, {"steps_offset": 1000}, {"num_train_timesteps": 0}, {"num_train_timesteps": 10**12}],
)
def test_offsets_and_lengths_out_of_range_are_refused_with_the_file(field):
    ((name, value),) = field.items()
    with pytest.raises(InputError, match=rf"^a/scheduler_config\.json: {name} is {value}, expected \d+ to \d+"):
        Schedule.from_diffusers(
            {"_class_name": "DDIMScheduler", "clip_sample": False, **field}, "a/scheduler_config.json"
        )


@pytest.mark.parametrize(
    "field", [{"prediction_type": "eps"}, {"beta_schedule": "quadratic"}, {"timestep_spacing": ""}, {"beta_end": 1.0}]
)
def test_unknown_settings_are_refused_by_name(field):
    with pytest.raises(InputError, match=next(iter(field))):
        Schedule(**field)


def test_sd15s_config_file_is_the_default_schedule():
    assert Schedule.from_diffusers(SD15_CONFIG) == Schedule()


def test_absent_fields_take_the_defaults_of_their_class():
    assert not Schedule.from_diffusers({"_class_name": "PNDMScheduler"}).set_alpha_to_one
    assert Schedule.from_diffusers({"_class_name": "DDIMScheduler", "clip_sample": False}).set_alpha_to_one
    euler = Schedule.from_diffusers({"_class_name": "EulerDiscreteScheduler", "prediction_type": "v_prediction"})
    assert euler == Schedule(
        beta_start=0.0001,
        beta_end=0.02,
        beta_schedule="linear",
        prediction_type="v_prediction",
        timestep_spacing="linspace",
        steps_offset=0,
        set_alpha_to_one=True,  # as all samplers but PNDM, which has no such field
    )


@pytest.mark.parametrize(
    "field", ["use_karras_sigmas", "thresholding", "clip_sample", "use_flow_sigmas", "trained_betas"]
)
def test_a_config_that_asks_for_more_is_refused(field):
    with pytest.raises(InputError, match=rf"x\.json: a PNDMScheduler with {field} = True, which is not offered"):
        Schedule.from_diffusers(SD15_CONFIG | {field: True}, "x.json")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"_class_name": "FlowMatchEulerDiscreteScheduler"}, "_class_name is 'FlowMatchEulerDiscreteScheduler'"),
        ({"beta_end": "0.012"}, "beta_end is '0.012', expected a value of type float"),
        ({"num_train_timesteps": 1000.0}, "num_train_timesteps is 1000.0, expected a value of type int"),
        ({"prediction_type": "flow"}, "prediction_type is 'flow', expected one of epsilon"),
        ({"rescale_betas_zero_snr": True}, "expected v_prediction or sample: pure noise says nothing about x_0"),
    ],
)
def test_a_config_with_another_kind_of_value_is_refused(fields, message):
    with pytest.raises(InputError, match=f"x.json: .*{re.escape(message)}"):
        Schedule.from_diffusers(SD15_CONFIG | fields, "x.json")


def test_flax_files_name_their_class_otherwise():
    assert Schedule.from_diffusers(SD15_CONFIG | {"_class_name": "FlaxPNDMScheduler"}) == Schedule()


ZERO_SNR = Schedule(prediction_type="v_prediction", timestep_spacing="trailing", rescale_betas_zero_snr=True)


@pytest.mark.parametrize("schedule", [Schedule(), ZERO_SNR, Schedule(set_alpha_to_one=True, beta_end=0.02)])
def test_what_is_written_is_read_again(schedule):
    assert Schedule.from_diffusers(json.loads(json.dumps(schedule.to_diffusers()))) == schedule


def test_zero_snr_ends_in_pure_noise_and_keeps_the_first_level():
    abar, plain = ZERO_SNR.alphas_cumprod, Schedule().alphas_cumprod
    assert abar[-1] == 0
    assert abar[0] == pytest.approx(plain[0], rel=1e-6)
    assert np.all(np.diff(abar) < 0)
    noise = jnp.full((1, 1, 1, 1), 3.0)
    np.testing.assert_array_equal(ZERO_SNR.add_noise(jnp.ones((1, 1, 1, 1)), noise, 999), noise)


@pytest.mark.reference
@pytest.mark.filterwarnings("ignore:__array_:DeprecationWarning")  # torch's, in NumPy 2
@pytest.mark.parametrize("name", schedule_module._ABSENT)
def test_every_class_has_diffusers_defaults_and_levels(name):
    pytest.importorskip("torch")
    diffusers = pytest.importorskip("diffusers")
    written = dict(getattr(diffusers, name)(prediction_type="v_prediction").config)
    bare = {"_class_name": name, "prediction_type": "v_prediction", "clip_sample": False}
    schedule = Schedule.from_diffusers(bare)
    assert Schedule.from_diffusers(bare | written | {"clip_sample": False}) == schedule
    for zero_snr in (False, True) if "rescale_betas_zero_snr" in written else (False,):
        more = {"rescale_betas_zero_snr": True} if zero_snr else {}
        theirs = getattr(diffusers, name)(prediction_type="v_prediction", **more).alphas_cumprod.numpy().copy()
        if theirs[-1] == 2.0**-24:  # in the classes that step in sigma
            theirs[-1] = 0
        ours = Schedule.from_diffusers(bare | more).alphas_cumprod
        # torch's square root, which the rescaling takes, is not always rounded right.
        np.testing.assert_allclose(ours, theirs, rtol=1e-5 if zero_snr else 0)


def test_other_lengths_of_schedule():
    schedule = replace(Schedule(), num_train_timesteps=50)
    assert schedule.alphas_cumprod.shape == (50,)
    np.testing.assert_array_equal(schedule.spaced_timesteps(5), [41, 31, 21, 11, 1])
