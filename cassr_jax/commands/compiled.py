"""Where the programs keep compiled functions; this module does not import JAX."""

import os
from pathlib import Path


def keep_compiled_functions() -> None:
    """Has JAX keep its compiled functions for the next run; it reads these variables when it is imported."""
    try:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:  # HOME is not set, and the system does not know the user
        return
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(cache / "cassr_jax" / "compiled"))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")
