"""What each stage trains: every parameter is on one side, and on the right one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cassr_jax.errors import InputError
from cassr_jax.models.parameters import nest
from cassr_jax.networks import shapes_of
from cassr_jax.training.masking import is_trainable, partition
from cassr_jax.training.stages import STAGES as ALL
from cassr_jax.training.stages import stage_named
from tests.random_cascade import NETWORKS
from tests.training.runs import STAGES

SHAPES = {name: s for kind, config in NETWORKS.items() for name, s in nest(kind, shapes_of(kind, config)).items()}


def test_a_stage_that_is_none_is_refused_with_those_that_are():
    with pytest.raises(InputError, match="stage is 'vea', expected one of vae, base, scedit, controlnet, cassr"):
        stage_named("vea")


def test_every_stage_is_there():
    assert tuple(ALL) == STAGES


@pytest.mark.parametrize("stage", STAGES)
def test_the_parts_are_disjoint_complete_and_in_order(stage):
    trainable, frozen = partition(SHAPES, stage)
    assert not trainable.keys() & frozen.keys()
    assert trainable | frozen == SHAPES
    assert [name for name in SHAPES if name in trainable] == list(trainable)
    assert {name.split(".")[0] for name in trainable} == set(ALL[stage].trains)
    assert {name.split(".")[0] for name in frozen} == set(NETWORKS) - set(ALL[stage].trains)


@pytest.mark.parametrize(
    ("stage", "name"),
    [
        ("base", "unet_old.conv_in.kernel"),
        ("base", "my.unet.conv_in.kernel"),
        ("cassr", "activation_controlnet.conv_in.kernel"),
        ("controlnet", "controlnet.conv_in.kernel"),
        ("scedit", "unet.scedit.kernel"),
        ("vae", "vae2.encoder.conv_in.kernel"),
        ("vae", "va"),
        ("vae", "lpips.conv.0.kernel"),
    ],
)
def test_a_name_that_only_resembles_a_trained_one_stays_frozen(stage, name):
    assert not is_trainable(name, stage)


@given(st.dictionaries(st.text("aeuvnt_.", max_size=8) | st.sampled_from(["vae.x", "unet.y"]), st.integers()))
def test_any_names_are_split_without_loss(params):
    for stage in STAGES:
        trainable, frozen = partition(params, stage)
        assert trainable | frozen == params
        assert len(trainable) + len(frozen) == len(params)
