"""How long a new process takes to its first step of the U-Net, with nothing compiled yet and with everything."""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jax

from benchmarks.on_gpu import unet
from benchmarks.on_gpu.sizes import sizes
from benchmarks.on_gpu.timing import Figures, summary

_ROOT = Path(__file__).parents[2]


def starts(narrow: bool) -> Figures:
    """The first start with an empty folder of compiled functions, and later ones with what it has left there."""
    with tempfile.TemporaryDirectory(prefix="cassr-start-") as folder:
        first, *later = (_start(narrow, folder) for _ in range(2 if narrow else 4))
    times = {"first start": summary([first["in all"]]), "later start": summary([each["in all"] for each in later])}
    return {"times": times, "seconds_to": {"first start": first, "later start": later[-1]}}


def _start(narrow: bool, folder: str) -> dict[str, float]:
    """The seconds of a new process up to each point, from its very beginning."""
    settings = {
        "JAX_COMPILATION_CACHE_DIR": folder,
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "0",
        "CUDA_CACHE_PATH": f"{folder}/cuda",  # the driver's own
        "PYTHONPATH": os.pathsep.join([str(_ROOT), os.environ.get("PYTHONPATH", "")]),
    }
    command = [sys.executable, "-m", __name__, str(int(narrow)), repr(time.monotonic())]
    made = subprocess.run(command, env=os.environ | settings, check=True, stdout=subprocess.PIPE)
    return json.loads(made.stdout)


def _reach_first_step(narrow: bool, launched: float) -> dict[str, float]:
    """`launched` is the parent's `time.monotonic()`, which all processes share."""
    reached, side = {}, sizes(narrow).sides[0]

    def mark(point: str) -> None:
        reached[point] = time.monotonic() - launched

    mark("imports")
    jax.devices()
    mark("device")
    arguments = jax.block_until_ready((unet.network(narrow)[1], *unet.inputs(narrow, side, 1)))
    mark("weights")
    run = unet.compile_step(narrow, side, 1).run
    mark("compiled")
    jax.block_until_ready(run(*arguments))
    mark("in all")
    return reached


if __name__ == "__main__":
    print(json.dumps(_reach_first_step(bool(int(sys.argv[1])), float(sys.argv[2]))))
