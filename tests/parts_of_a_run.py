"""Parts that end in every way in which a measurement can end, for `tests.test_gpu_benchmark`.

The processes that run them import this module, so it must be quick to import.
"""

import os
import threading

from benchmarks.on_gpu.running import LeftOut
from cassr_jax.files import Json


def figures() -> Json:
    return {"process": os.getpid()}


def failing() -> Json:
    raise ValueError("a fault")


def not_possible() -> Json:
    raise LeftOut("there is no torch")


def too_large() -> Json:
    raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 1 byte.")


def ending_its_process() -> Json:
    os._exit(3)


def endless() -> Json:
    threading.Event().wait()
    raise AssertionError("nobody sets this event")
