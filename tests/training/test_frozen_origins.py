"""By what a checkpoint knows the weights that it does not hold."""

from dataclasses import replace

import numpy as np
import pytest

from cassr_jax.config import TrainConfig
from cassr_jax.data.config import DataConfig
from tests.training.runs import origins

CONFIG = TrainConfig("base", DataConfig("unused"), components={"vae": "first/vae"})
KERNEL = np.arange(6, dtype=np.float32).reshape(2, 3)
FROZEN = {"vae.conv.kernel": KERNEL, "unet.conv.kernel": KERNEL}


def test_every_network_has_its_source_and_a_hash_whatever_the_order():
    found = origins(CONFIG, FROZEN)
    assert {kind: origin["source"] for kind, origin in found.items()} == {"vae": "first/vae", "unet": "new, seed 0"}
    assert origins(CONFIG, dict(reversed(FROZEN.items()))) == found
    moved = origins(replace(CONFIG, components={"vae": "moved/vae"}), FROZEN)
    assert moved["vae"] == {"source": "moved/vae", "sha256": found["vae"]["sha256"]}


@pytest.mark.parametrize(
    "vae",
    [
        {"vae.conv.kernel": KERNEL + 1},
        {"vae.conv.kernel": KERNEL.view(np.int32)},
        {"vae.conv.kernel": KERNEL.reshape(3, 2)},
        {"vae.other.kernel": KERNEL},
        {"vae.conv.kernel": KERNEL, "vae.conv.bias": KERNEL[0]},
    ],
    ids=["values", "type", "shape", "name", "more"],
)
def test_other_weights_have_another_hash(vae):
    before, now = origins(CONFIG, FROZEN), origins(CONFIG, {"unet.conv.kernel": KERNEL} | vae)
    assert now["vae"]["sha256"] != before["vae"]["sha256"]
    assert now["unet"] == before["unet"]
