"""Where the programs keep compiled functions; this module does not import JAX."""

import os
import sys
from pathlib import Path

_LEAST_SECONDS = 0.5  # what takes less to compile is compiled again


def keep_compiled_functions() -> None:
    """Has JAX keep its compiled functions for the next run, unless the environment says where or that it should not."""
    try:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:  # HOME is not set, and the system does not know the user
        return
    settings = {
        "JAX_COMPILATION_CACHE_DIR": str(cache / "cassr_jax" / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": _LEAST_SECONDS,
    }
    for name, value in settings.items():
        if name not in os.environ:
            os.environ[name] = str(value)
            if "jax" in sys.modules:  # JAX reads its environment once, when it is imported
                sys.modules["jax"].config.update(name.lower(), value)
