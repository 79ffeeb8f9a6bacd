"""Settings for every test: eight simulated devices, quick compilation and checked types.

All of them must be set before JAX or the package is imported.
"""

import atexit
import gc
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest
from jaxtyping import install_import_hook

from tests import type_checks

# Nearly all of the suite's time is compiling networks that run once. Without optimisation it takes half as long, and
# with the older emitters of fused loops, which later versions do not have, a third less again.
OLDER_EMITTERS = int(version("jaxlib").split(".")[1]) < 11
FLAGS = (
    "--xla_force_host_platform_device_count=8",
    "--xla_backend_optimization_level=0",
    *(["--xla_cpu_use_fusion_emitters=false"] if OLDER_EMITTERS else []),
)
os.environ["XLA_FLAGS"] = " ".join([*FLAGS, os.environ.get("XLA_FLAGS", "")])
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

# One folder of compiled functions for all processes of a run of the tests. Workers and scripts inherit the first
# process's folder; a bound on its size makes JAX lock it.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    compiled = tempfile.mkdtemp(prefix="cassr-tests-")
    atexit.register(shutil.rmtree, compiled, ignore_errors=True)
    os.environ |= {
        "JAX_COMPILATION_CACHE_DIR": compiled,
        "JAX_COMPILATION_CACHE_MAX_SIZE": str(2**32),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.1",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "0",
    }

# Nothing that a test finds out about its pictures is kept for other runs.
os.environ.setdefault("CASSR_JAX_INDICES", "")

# gcsfs, which reads these when it is imported, looks for no credentials, and asks nobody for the kind of a bucket.
os.environ |= {"FSSPEC_GCS_TOKEN": "anon", "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false"}

# A program that is read back is not traced, so nothing in it would be checked.
os.environ.setdefault("CASSR_JAX_PROGRAMS", "")

# Every call in these packages has its arguments and its result checked against their annotations, the axes of arrays
# (`cassr_jax.typing`) included. To check another module, add its name.
MODELS = (
    *("attention", "clip_text", "controlnet", "denoisers", "discriminator", "dot_product", "fusion"),
    *("guided_decoder", "layers", "moments", "multiple_attention", "perceptual", "pixel_attention", "rrdbnet"),
    *("scedit", "taesd", "unet", "vae"),
)
TRAINING = ("image_loss", "masking", "monitor", "objectives", "state", "step")
ENGINE = ("layout", "programs", "waves")
CHECKED = (
    *("cassr_jax.diffusion", "cassr_jax.sampling"),
    *(f"cassr_jax.engine.{name}" for name in ENGINE),
    *(f"cassr_jax.models.{name}" for name in MODELS),
    *(f"cassr_jax.training.{name}" for name in TRAINING),
)
install_import_hook(CHECKED, f"{type_checks.__name__}.check")


@pytest.fixture(scope="session", autouse=True)
def threads_alone() -> Iterator[None]:
    """Records are made by threads unless a test asks for processes, which take seconds to start."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cassr_jax.data.workforce.FEWEST_CORES", sys.maxsize)
        yield


MOST_MEMORY = 3 * 2**30  # bytes of a test process, of which two run beside each other


@pytest.fixture(scope="module", autouse=True)
def forgotten() -> Iterator[None]:
    """Compiled functions are forgotten between two files once they take much memory; their folder has them still."""
    yield
    pages = int(Path("/proc/self/statm").read_text().split()[1]) if sys.platform == "linux" else 0
    if pages * os.sysconf("SC_PAGE_SIZE") > MOST_MEMORY:
        sys.modules["jax"].clear_caches()
        gc.collect()


LONGEST = ("end_to_end", "training", "first_stage")


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Has pytest-xdist keep the order of the files, which it otherwise sorts by their number of tests."""
    if hasattr(config.option, "loadscopereorder"):
        config.option.loadscopereorder = False


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The folders whose tests take longest come first, so that no process is left with them at the end."""
    items.sort(key=lambda item: item.path.parent.name not in LONGEST)
