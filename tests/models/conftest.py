from pathlib import Path

import numpy as np
import pytest


@pytest.fixture(scope="session")
def networks_golden() -> dict[str, np.ndarray]:
    """What `tests/golden/make_networks.py` recorded."""
    with np.load(Path(__file__).parents[1] / "golden" / "networks.npz") as file:
        return dict(file)
