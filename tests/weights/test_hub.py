"""Hub ids from huggingface_hub's own cache, with the hub out of reach."""

import sys
from types import SimpleNamespace

import pytest
from huggingface_hub import constants

from cassr_jax.diffusion.schedule import Schedule
from cassr_jax.errors import InputError
from cassr_jax.networks import write_network
from cassr_jax.schedules import agreed, write_schedule
from cassr_jax.weights import __main__ as program
from cassr_jax.weights.transfer import hub_errors
from tests.weights.published import CONTROLNET, UNET, VAE, assert_same, load_weights, random_component

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def snapshot(tmp_path, monkeypatch):
    """The folder in which the cache has the repository `someone/sd15`."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    repository = tmp_path / "models--someone--sd15"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(COMMIT)
    folder = repository / "snapshots" / COMMIT
    folder.mkdir(parents=True)
    return folder


@pytest.mark.parametrize("client", ["httpx", "httpx2"])
def test_the_errors_of_each_generation_of_clients_are_known(client, monkeypatch):
    class HTTPError(Exception):
        pass

    monkeypatch.setitem(sys.modules, client, SimpleNamespace(HTTPError=HTTPError))
    assert {HTTPError, OSError, ValueError} <= {*hub_errors()}


def test_from_the_cache(snapshot):
    params = random_component("vae", VAE)
    write_network(snapshot / "vae", "vae", VAE, params)
    write_network(snapshot / "other" / "vae", "vae", VAE, random_component("vae", VAE, seed=1))
    for source in ("someone/sd15", "someone/sd15:vae"):
        config, read = load_weights(source, "vae")
        assert config == VAE
        assert_same(read, params)
    with pytest.raises(AssertionError):
        assert_same(load_weights("someone/sd15:other/vae", "vae")[1], params)


def test_a_repository_that_is_the_network_itself(snapshot):
    params = random_component("controlnet", CONTROLNET)
    write_network(snapshot, "controlnet", CONTROLNET, params)
    assert_same(load_weights("someone/sd15", "controlnet")[1], params)


def test_a_cache_without_the_scheduler_says_so(snapshot, caplog):
    write_network(snapshot / "unet", "unet", UNET, random_component("unet", UNET))
    assert agreed(None, "someone/sd15", "x") == Schedule()
    assert "someone/sd15: the hub was not asked for a scheduler_config.json" in caplog.text
    caplog.clear()
    write_schedule(snapshot, Schedule(prediction_type="v_prediction"))
    assert agreed(None, "someone/sd15", "x") == Schedule(prediction_type="v_prediction")
    assert not caplog.text


def test_an_orbax_state_is_found_like_a_file(snapshot):
    params = random_component("vae", VAE)
    write_network(snapshot.parent / "vae", "vae", VAE, params)
    assert program.main(["convert", str(snapshot.parent / "vae"), str(snapshot / "own"), "--layout", "orbax"]) == 0
    assert_same(load_weights("someone/sd15:own/vae", "vae")[1], params)


def test_what_to_do_when_it_is_not_there(snapshot):
    with pytest.raises(InputError, match=r"its folder vae or the repository itself.*give that folder instead"):
        load_weights("someone/sd15", "vae")
    with pytest.raises(InputError, match=r"nobody/nothing: not a local file or folder.*give that folder instead"):
        load_weights("nobody/nothing", "vae")


@pytest.mark.parametrize("source", ["no such file", "a/b/c", "someone/sd15:../../x", "/absent/file.safetensors"])
def test_what_is_no_hub_id(snapshot, source):
    with pytest.raises(InputError, match=r"no such file or folder|expected a hub id"):
        load_weights(source, "vae")
