"""Peak memory of whole processes on pictures of growing size, in tiles of one size."""

import subprocess
import sys
from pathlib import Path

import pytest

from cassr_jax.imaging import memory
from tests.random_cascade import write_random_cascade

ROOT = Path(__file__).parents[2]
SIDES = (128, 256, 512)
PROGRAM = """
import resource, sys
import numpy as np
import cassr_jax

folder, activation, call, side = sys.argv[1:]
cassr = cassr_jax.load(folder, activation=activation)
picture = np.random.default_rng(0).integers(0, 256, (int(side), int(side), 3)).astype(np.uint8)
getattr(cassr, call)(picture, tile=64, steps=1, guidance_scale=1.0)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random_cascade(tmp_path_factory.mktemp("cascade"))


def peak(folder: Path, activation: str, call: str, side: int) -> int:
    command = [sys.executable, "-c", PROGRAM, str(folder), activation, call, str(side)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("activation", "call"),
    [("identity", "upscale"), ("scedit", "upscale"), ("scedit", "reference"), ("controlnet", "reference")],
)
def test_memory_grows_by_the_pictures_own_arrays_in_both_stages(folder: Path, activation: str, call: str):
    """As float32 RGB: some 6 on the host (enlarged input, canvas, stages' pictures, colour bands); the others are what
    the devices hold of a wave, which has up to eight times as many places as tiles."""
    found = [peak(folder, activation, call, side) for side in SIDES]
    print(f"{activation} {call}: {[round(bytes / 2**20) for bytes in found]} MiB")
    for i in (0, 1):
        more = 12 * ((4 * SIDES[i + 1]) ** 2 - (4 * SIDES[i]) ** 2)  # bytes of one such array
        assert found[i + 1] - found[i] < memory.COPIES * more
