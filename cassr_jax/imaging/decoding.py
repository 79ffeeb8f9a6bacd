"""Decoding with Pillow, strictly and quietly; every failure becomes the same kind of error."""

import contextlib
import os
import re
import threading
import warnings
from collections.abc import Iterator

from PIL import Image, ImageFile, UnidentifiedImageError

from cassr_jax.errors import InputError

MAX_INPUT_PIXELS = 2**26  # 67 million; checked against the header, before any pixel is decoded
_OWN = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF", "PPM", "AVIF", "JPEG2000")
PLUGINS = {"HEIF": (".heic", ".heif", ".hif"), "JXL": (".jxl",)}
"""The formats that Pillow reads with a plug-in of the extra `heif`, and the suffixes of their files."""


def _with_plugins() -> tuple[str, ...]:
    """The formats whose plug-in is installed, which then knows them."""
    found = []
    with contextlib.suppress(ImportError):
        from pillow_heif import register_heif_opener

        register_heif_opener()
        found.append("HEIF")
    with contextlib.suppress(ImportError):
        import pillow_jxl  # noqa: F401 - it registers itself

        found.append("JXL")
    return tuple(found)


FORMATS = (*_OWN, *_with_plugins())
"""The formats Pillow may open. Others are left out: its EPS reader starts a program, and some readers only guess."""


class TooLarge(InputError):
    """A picture has more pixels than are read, by its header alone."""


def check_size(name: str | os.PathLike[str], width: int, height: int) -> None:
    """Checks a picture's size before it is decoded.

    Raises:
        TooLarge: it has more than MAX_INPUT_PIXELS.
        InputError: it has no pixels.
    """
    if width * height > MAX_INPUT_PIXELS:
        raise TooLarge(
            f"{name}: {width}x{height} is {width * height} pixels, expected at most {MAX_INPUT_PIXELS}; make it smaller"
        )
    if min(width, height) < 1:
        raise InputError(f"{name}: {width}x{height} has no pixels, expected at least one")


class _StrictAndQuiet:
    """A context in which Pillow refuses truncated files and gives no warnings.

    Some libraries switch `LOAD_TRUNCATED_IMAGES` on, which fills the missing part with grey. Pillow's warnings concern
    sizes, which are checked here, and metadata, which are not used. Both settings belong to the whole process, so the
    first thread to enter sets them and the last to leave restores them.
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
    """A context for decoding `name`, strictly and quietly.

    A damaged file makes a decoder raise nearly any built-in exception, so all of them become an InputError.

    Raises:
        InputError: the block raised anything.
    """
    try:
        with _strict_and_quiet:
            yield
    except InputError:
        raise
    except MemoryError as error:  # a damaged file may ask for any amount
        raise InputError(f"{name}: does not fit into memory while it is decoded, expected a smaller picture") from error
    except Image.DecompressionBombError as error:  # Pillow's own limit, before a size can be asked for
        found = re.search(r"\d+ pixels", str(error))
        size = found[0] if found else "too many pixels"
        raise TooLarge(f"{name}: {size}, expected at most {MAX_INPUT_PIXELS}; make it smaller") from error
    except UnidentifiedImageError as error:
        lacking = ", ".join(sorted({*PLUGINS} - {*FORMATS}))
        more = f", or with the extra `heif` {lacking}" if lacking else ""
        raise InputError(
            f"{name}: not a picture that can be read, expected one of {', '.join(FORMATS)}{more}"
        ) from error
    except Exception as error:
        raise InputError(f"{name}: cannot be decoded, the file is damaged or cut short ({error})") from error
