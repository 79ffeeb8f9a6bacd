"""Where compiled functions and traced programs are kept between runs; this module does not import JAX."""

import hashlib
import os
import sys
import warnings
import zlib
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from cassr_jax.printing import complain

PROGRAMS = "CASSR_JAX_PROGRAMS"
"""The environment variable that names the folder of traced programs (`cassr_jax.engine.kept`); empty for none."""

COMPILERS = (
    *("jax", "jaxlib", "flax", "optax", "libtpu", "jax-cuda12-plugin", "jax-cuda13-plugin"),
    *("jax-cuda12-pjrt", "jax-cuda13-pjrt"),
    *("nvidia-cudnn-cu12", "nvidia-cudnn-cu13"),
)
"""The packages whose versions decide what a function is compiled to: cuDNN and libtpu have kernels."""

_FOLDER = "JAX_COMPILATION_CACHE_DIR"
_UNREADABLE = "Error reading persistent compilation cache entry"  # how JAX's warning begins


def cache_folder() -> Path:
    """The folder for what can be made again.

    Raises:
        RuntimeError: HOME is not set, and the system does not know the user.
    """
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cassr_jax"


def version_of(package: str) -> str | None:
    """The version of an installed package; None if it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


@cache
def source_digest() -> str:
    """SHA-256 of this package's modules."""
    root, digest = Path(__file__).parent, hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(f"{path.relative_to(root)} {path.stat().st_size}\n".encode() + path.read_bytes())
    return digest.hexdigest()


def keep_compiled_functions() -> None:
    """Keeps compiled functions and traced programs for the next run, unless the environment says something else."""
    try:
        cache = cache_folder()
    except RuntimeError:
        return
    os.environ.setdefault(PROGRAMS, str(cache / "programs"))
    compiled = cache / "compiled"
    if _FOLDER not in os.environ:
        warnings.showwarning = _mending(compiled, warnings.showwarning)
    settings = {
        _FOLDER: str(compiled),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": 0,  # there are few, and a start waits for all of them
    }
    for name, value in settings.items():
        if name not in os.environ:
            os.environ[name] = str(value)
            if "jax" in sys.modules:  # JAX reads its environment once, when it is imported
                sys.modules["jax"].config.update(name.lower(), value)


def _mending(folder: Path, show: Callable[..., None]) -> Callable[..., None]:
    """What shows warnings, but removes damaged functions where JAX warns of one.

    JAX writes a function in place, so a full disk or the end of the process leaves a part of it. It never replaces what
    is there, and would compile the function again at each start.
    """

    def shown(message: Warning | str, *where: Any, **more: Any) -> None:
        count = _without_damaged(folder) if str(message).startswith(_UNREADABLE) else 0
        if count:
            complain(f"{folder}: {count} damaged, so these functions are compiled again", "compiled functions")
        else:
            show(message, *where, **more)

    return shown


def _without_damaged(folder: Path) -> int:
    """Removes the entries of JAX's cache that cannot be unpacked; returns their number."""
    unpacked, count = _unpacker(), 0
    for entry in folder.glob("*-cache"):
        try:
            unpacked(entry.read_bytes())
        except Exception:  # each way of packing has errors of its own
            with suppress(OSError):
                entry.unlink()
                count += 1
    return count


def _unpacker() -> Callable[[bytes], bytes]:
    """What unpacks JAX's entries: it packs with the first of these that is installed."""
    for name in ("compression.zstd", "zstandard"):
        with suppress(ImportError):
            return import_module(name).decompress
    return zlib.decompress
