"""Fixtures: pairs of pictures in folders."""

from pathlib import Path

import numpy as np
import pytest

from tests.data.measures import picture
from tests.evaluation.pair_folders import write


@pytest.fixture
def truths() -> dict[str, np.ndarray]:
    return {name: picture(256, seed) for seed, name in enumerate("abc")}


@pytest.fixture
def folders(tmp_path, truths) -> Path:
    """lr/ and hr/ of three pictures, and what a program `peer` made of them."""
    for name, truth in truths.items():
        write(tmp_path / "hr", f"{name}.png", truth)
        write(tmp_path / "lr", f"{name}.png", np.ascontiguousarray(truth[::4, ::4]))
        write(tmp_path / "peer", f"{name}.webp", truth // 2)
    return tmp_path
