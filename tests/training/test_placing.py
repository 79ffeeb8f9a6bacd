"""Parameters go straight to their shards, in the type that they will have; no device holds a whole network first."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from jax.typing import ArrayLike

import cassr_jax
from cassr_jax.errors import InputError
from cassr_jax.models.parameters import select
from cassr_jax.networks import Networks
from cassr_jax.sharding.account import bytes_per_device
from cassr_jax.sharding.placement import Placement
from cassr_jax.sharding.strategies import STRATEGIES
from cassr_jax.training.masking import partition
from cassr_jax.training.placing import Placing
from cassr_jax.training.setup import build
from cassr_jax.weights.tensors import Weights
from tests.random_cascade import NETWORKS, random_params, write_random_cascade
from tests.training.runs import configure, origins

UNIT = np.float32().itemsize


@pytest.fixture
def placement() -> Placement:
    return Placement.of(STRATEGIES["fsdp"])


class Watch:
    """What the first device holds, beside what it held before, whenever a parameter is about to be read."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self.before = self.held()
        self.peak, self.largest = 0, 0
        read = Weights.read

        def watched(weights: Weights, name: str, dtype=None) -> np.ndarray:
            self.look()
            array = read(weights, name, dtype)
            self.largest = max(self.largest, array.nbytes)
            return array

        monkeypatch.setattr(Weights, "read", watched)

    def held(self) -> dict[int, int]:
        """Address and bytes of every buffer; looking at a shard makes another array on the same buffer."""
        shards = (shard for array in jax.live_arrays() for shard in array.addressable_shards)
        mine = (shard.data for shard in shards if shard.device == jax.devices()[0])
        return {data.unsafe_buffer_pointer(): data.nbytes for data in mine}

    def look(self) -> None:
        self.peak = max(self.peak, sum(n for where, n in self.held().items() if where not in self.before))


def test_a_device_never_holds_more_than_its_shards(networks: Path, placement: Placement, monkeypatch):
    config = configure("scedit", networks, frozen_dtype="bfloat16")
    watch = Watch(monkeypatch)
    params = build(config, Placing(config, placement)).params
    watch.look()
    whole = sum(value.size for value in params.values()) * UNIT
    share = bytes_per_device(params.values())
    assert watch.peak <= share + watch.largest
    assert share + watch.largest < whole / 2  # a whole network on the first device would be seen


def test_a_new_network_is_never_whole_on_a_device(placement: Placement, monkeypatch):
    """All devices here have the host's memory, so the last one stands for it, and the first one is watched."""
    monkeypatch.setattr("cassr_jax.networks.host", lambda: jax.devices()[-1])
    config = NETWORKS["unet"]
    key = jax.random.key(0)
    expected = Networks().with_new("unet", config, "float32", key).params
    whole, largest = sum(value.nbytes for value in expected.values()), max(value.nbytes for value in expected.values())
    watch = Watch(monkeypatch)

    def place(name: str, value: ArrayLike) -> jax.Array:
        watch.look()
        array: Any = np.asarray(value)
        return placement.place({name: array})[name]

    params = Networks().with_new("unet", config, "float32", key, place).params
    watch.look()
    share = bytes_per_device(params.values())
    assert watch.peak <= share + largest < whole / 2
    assert params.keys() == expected.keys()
    for name, value in params.items():
        np.testing.assert_array_equal(np.asarray(value), np.asarray(expected[name]), err_msg=name)


def test_each_lies_where_and_as_the_run_keeps_it(networks: Path, placement: Placement):
    config = configure("scedit", networks, frozen_dtype="bfloat16")
    trainable, frozen = partition(build(config, Placing(config, placement)).params, "scedit")
    assert {value.dtype for value in trainable.values()} == {jnp.dtype("float32")}
    assert {value.dtype for value in frozen.values()} == {jnp.dtype("bfloat16")}
    for params in (trainable, frozen):
        assert {name: value.sharding for name, value in params.items()} == placement.stored(params)
        assert any(not value.sharding.is_fully_replicated for value in params.values())
    placed = placement.place(frozen)
    assert all(placed[name] is frozen[name] for name in frozen)
    kept = np.asarray(frozen["unet.conv_in.kernel"])
    np.testing.assert_array_equal(kept, random_params("unet")["conv_in.kernel"].astype(ml_dtypes.bfloat16))


def test_frozen_weights_are_known_by_their_files_values(networks: Path, placement: Placement):
    config = configure("scedit", networks)
    _, frozen = partition(build(config).params, "scedit")
    for frozen_dtype in ("float32", "bfloat16"):
        placing = Placing(replace(config, frozen_dtype=frozen_dtype), placement)
        build(config, placing)
        assert placing.digests.origins(config) == origins(config, frozen)


def test_a_new_controlnet_starts_from_the_unets_own_digits(networks: Path, placement: Placement):
    new = {"activation_controlnet": NETWORKS["activation_controlnet"]}
    components = {kind: str(networks / kind) for kind in ("vae", "unet", "text_encoder")}
    config = configure("controlnet", networks, new=new, components=components, frozen_dtype="bfloat16")
    placing = Placing(config, placement)
    found = select(build(config, placing).params, "activation_controlnet")
    encoder = {name: value for name, value in random_params("unet").items() if name in found}
    assert len(encoder) > 20
    for name, value in encoder.items():
        np.testing.assert_array_equal(np.asarray(found[name]), value, err_msg=name)
    assert not placing.encoder  # nothing keeps a second copy


def test_a_cascades_weights_go_to_every_device_at_once(tmp_path: Path, monkeypatch):
    folder = write_random_cascade(tmp_path)
    watch = Watch(monkeypatch)
    cassr = cassr_jax.load(folder, dtype="bfloat16", devices=8)
    watch.look()
    params = cassr.networks.params
    everywhere = NamedSharding(cassr._engine.programs.mesh, PartitionSpec())
    assert {value.sharding for value in params.values()} == {everywhere}
    assert watch.peak <= sum(value.nbytes for value in params.values()) + watch.largest


def lacking_memory(*_: Any, **__: Any) -> jax.Array:
    raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 9437184 bytes.")


def test_weights_that_do_not_fit_are_named(networks: Path, placement: Placement, tmp_path: Path, monkeypatch):
    config, cascade = configure("scedit", networks), write_random_cascade(tmp_path)
    monkeypatch.setattr(jax, "device_put", lacking_memory)
    with pytest.raises(
        InputError, match=r"^vae\..*: does not fit into the memory of a device; divide the weights over"
    ):
        build(config, Placing(config, placement))
    with pytest.raises(InputError, match=r"^vae\..*: does not fit .*; each device holds all networks of a cascade"):
        cassr_jax.load(cascade, devices=8)


def test_a_cascades_weights_are_never_on_one_device_alone(tmp_path: Path, monkeypatch):
    put = []
    device_put = jax.device_put

    def counted(value, where=None, **options):
        put.append(where)
        return device_put(value, where, **options)

    monkeypatch.setattr(jax, "device_put", counted)
    cassr_jax.load(write_random_cascade(tmp_path), devices=8)
    assert len(put) > 100
    assert all(isinstance(where, NamedSharding) and len(where.device_set) == 8 for where in put)
