"""The denoisers as they are sampled and trained, against torch: every part of their interface, every ablation."""

from pathlib import Path

import numpy as np
import pytest

from tests import narrow, narrow_denoisers
from tests.models.test_vae import recorded
from tests.narrow_denoisers import ABLATIONS, KINDS

GOLDEN = Path(__file__).parents[1] / "golden" / "denoisers.npz"


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    with np.load(GOLDEN) as file:
        return dict(file)


@pytest.mark.parametrize("kind", KINDS)
def test_predictions_equal_the_recorded(golden, kind):
    errors = narrow.errors(narrow_denoisers.run(kind), recorded(golden, f"{kind}.whole"))
    assert max(errors.values()) <= 1e-5, errors


@pytest.mark.parametrize("switches", ABLATIONS)
def test_each_ablation_equals_the_recorded(golden, switches):
    errors = narrow.errors(narrow_denoisers.run("cassr", switches), recorded(golden, f"cassr.{switches}"))
    assert max(errors.values()) <= 1e-5, errors


def test_every_recorded_prediction_is_its_own(golden):
    """Otherwise an ablation, or the other image, would not show."""
    names = [f"{kind}.whole" for kind in KINDS] + [f"cassr.{switches}" for switches in ABLATIONS]
    for i, one in enumerate(names):
        for other in names[:i]:
            for output in ("sampling", "guided", "training"):
                assert narrow.relative_l2(golden[f"{one}/{output}"], golden[f"{other}/{output}"]) > 0.05


@pytest.mark.reference
@pytest.mark.parametrize(
    ("kind", "switches"), [(kind, "whole") for kind in KINDS] + [("cassr", switches) for switches in ABLATIONS]
)
def test_predictions_equal_torch(kind, switches):
    pytest.importorskip("torch")
    from tests import torch_denoisers

    errors = narrow.errors(narrow_denoisers.run(kind, switches), torch_denoisers.run(kind, switches))
    assert max(errors.values()) <= 1e-5, errors
