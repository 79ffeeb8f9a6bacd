"""Where compiled functions and traced programs are kept between runs; this module does not import JAX."""

import os
import sys
from pathlib import Path

PROGRAMS = "CASSR_JAX_PROGRAMS"
"""The environment variable that names the folder of traced programs (`cassr_jax.engine.kept`); empty for none."""


def keep_compiled_functions() -> None:
    """Keeps compiled functions and traced programs for the next run, unless the environment says something else."""
    try:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cassr_jax"
    except RuntimeError:  # HOME is not set, and the system does not know the user
        return
    os.environ.setdefault(PROGRAMS, str(cache / "programs"))
    settings = {
        "JAX_COMPILATION_CACHE_DIR": str(cache / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": 0,  # there are few, and a start waits for all of them
    }
    for name, value in settings.items():
        if name not in os.environ:
            os.environ[name] = str(value)
            if "jax" in sys.modules:  # JAX reads its environment once, when it is imported
                sys.modules["jax"].config.update(name.lower(), value)
