"""Pairs of pictures in folders, and a cascade that costs nothing."""

import numpy as np
import pytest

import cassr_jax
from cassr_jax.restoration import Restoration
from tests.evaluation.fake_cascade import fake_cascade
from tests.evaluation.narrow_backbones import install_narrow_networks
from tests.pairs import folders, truths

__all__ = ["folders", "truths"]


@pytest.fixture
def cascade(monkeypatch):
    """A cascade that repeats pixels, judged by narrow networks. Returns the options of each call."""
    seen: list[dict] = []

    def restore(lr: np.ndarray, *, seed: int, scale: float, **options) -> Restoration:
        seen.append({"seed": seed, "scale": scale, **options})
        large = lr.repeat(4, 0).repeat(4, 1)
        return Restoration(large, large // 2, large // 4)

    loaded = fake_cascade(restore)
    monkeypatch.setattr(cassr_jax, "load", lambda *_, **__: loaded, raising=False)
    install_narrow_networks(monkeypatch)
    return seen
