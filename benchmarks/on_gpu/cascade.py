"""The whole cascade as configs/sd15.py samples it: both stages, tiles, the autoencoder, and the host's work."""

from functools import cache

import numpy as np

from benchmarks.on_gpu.sizes import sizes, with_random
from benchmarks.on_gpu.timing import Figures, peak_bytes, timed
from cassr_jax.cascade import CasSR
from cassr_jax.networks import Networks

_NETWORKS = ("vae", "unet", "text_encoder", "scedit", "controlnet", "multiple_attention")


def pictures(narrow: bool, side: int, count: int) -> Figures:
    """`count` pictures together, enlarged to `side` px; a picture larger than a tile has several."""
    given, cassr = sizes(narrow), _cascade(narrow)
    low = np.random.default_rng(2).integers(0, 256, (count, side // 4, side // 4, 3), np.uint8)

    def restore() -> None:
        for outcome in cassr.restore_many(iter(low)):
            if isinstance(outcome, Exception):
                raise outcome

    timing = timed(restore, given.runs, lambda _: None)
    steps = given.cascade.sampling.num_steps
    rate = count / timing["seconds"]
    return {"times": {"pictures": timing}, "examples_per_second": rate, "peak_bytes": peak_bytes(), "steps": steps}


@cache
def _cascade(narrow: bool) -> CasSR:
    networks, given = Networks(), sizes(narrow)
    for kind in _NETWORKS:
        networks = with_random(networks, kind, given.kinds[kind], given.dtype)
    return CasSR(given.cascade, networks, devices=1)
