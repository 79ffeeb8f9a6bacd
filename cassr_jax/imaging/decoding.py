"""Pillow, strict and quiet, with every way in which it fails made one error."""

import contextlib
import os
import threading
import warnings
from collections.abc import Iterator

from PIL import ImageFile, UnidentifiedImageError

from cassr_jax.errors import InputError

MAX_INPUT_PIXELS = 2**26  # 67 million; read from the header, before a byte of the picture is decoded
FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF", "PPM", "AVIF", "JPEG2000")
"""What Pillow may open. Not all it can: its EPS reader starts another program, others guess without a signature."""


def check_size(name: str | os.PathLike[str], width: int, height: int) -> None:
    """
    Raises:
        InputError: a picture of that size has no pixels, or more than MAX_INPUT_PIXELS.
    """
    if width * height > MAX_INPUT_PIXELS:
        raise InputError(
            f"{name}: {width}x{height} is {width * height} pixels, expected at most {MAX_INPUT_PIXELS}; make it smaller"
        )
    if min(width, height) < 1:
        raise InputError(f"{name}: {width}x{height} has no pixels, expected at least one")


class _StrictAndQuiet:
    """While anyone is inside: Pillow refuses what is cut short, and warns of nothing.

    Other libraries are fond of switching `LOAD_TRUNCATED_IMAGES` on, which fills a missing half with grey; Pillow's
    warnings are of sizes, which are checked here, and of metadata, which are not used. Both switches are the process's,
    so of several threads the first one in sets them and the last one out restores them.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0

    def __enter__(self) -> None:
        with self._lock:
            self._inside += 1
            if self._inside == 1:
                self._lenient = ImageFile.LOAD_TRUNCATED_IMAGES
                ImageFile.LOAD_TRUNCATED_IMAGES = False
                self._warnings = warnings.catch_warnings()
                self._warnings.__enter__()
                warnings.simplefilter("ignore")

    def __exit__(self, *exception: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._warnings.__exit__(None, None, None)
                ImageFile.LOAD_TRUNCATED_IMAGES = self._lenient


_strict_and_quiet = _StrictAndQuiet()


@contextlib.contextmanager
def strictly(name: str | os.PathLike[str]) -> Iterator[None]:
    """A block that decodes `name`, strictly and quietly.

    A damaged file makes a decoder raise nearly any built-in exception, so all of them become one.

    Raises:
        InputError: the block raised anything but a lack of memory.
    """
    try:
        with _strict_and_quiet:
            yield
    except (InputError, MemoryError):
        raise
    except UnidentifiedImageError as error:
        raise InputError(f"{name}: no picture in a format that can be read ({', '.join(FORMATS)})") from error
    except Exception as error:
        raise InputError(f"{name}: cannot be decoded, the file is damaged or cut short ({error})") from error
