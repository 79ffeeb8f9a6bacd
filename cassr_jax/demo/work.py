"""What the page does for a visitor: reads pictures, restores them one after the other, and tells how far it is."""

import os
import queue
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain, count
from pathlib import Path
from typing import Any, get_args

import numpy as np

from cassr_jax.cascade import CasSR
from cassr_jax.commands.jobs import SUFFIXES, bits_of
from cassr_jax.errors import InputError
from cassr_jax.files import exists, is_file
from cassr_jax.imaging import io, resizing
from cassr_jax.imaging.invented import invented
from cassr_jax.imaging.metadata import Strip
from cassr_jax.imaging.pixels import shallow
from cassr_jax.loading import load
from cassr_jax.progress import Preview


@dataclass(frozen=True)
class Limits:
    """What a visitor may ask for.

    Attributes:
        file_bytes: of an uploaded file.
        pictures: in one request.
        result_pixels: of one result.
        waiting: requests that wait for their turn; more are turned away.
    """

    file_bytes: int = 40_000_000
    pictures: int = 8
    result_pixels: int = 24_000_000
    waiting: int = 64


@dataclass(frozen=True)
class Request:
    """What a visitor asks for; None keeps the cascade's own setting.

    Attributes:
        files: the uploaded pictures.
        preset: the cascade, as `cassr_jax.load` takes it.
        activation: the first stage.
        format: by the names of `sample.py --format`.
        strip: metadata that are left out of the results.
        options: of `cassr_jax.options.Options`.
    """

    files: Sequence[Path]
    preset: str = "tiny"
    activation: str | None = None
    format: str = "png"
    strip: Strip | None = None
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Update:
    """How far a request is.

    Attributes:
        text: for the visitor.
        share: of the work that is done, 0 to 1.
        preview: the picture that is being sampled, as it looks so far.
        done: the pictures that are restored.
        failed: a sentence for each that could not be.
    """

    text: str
    share: float
    preview: np.ndarray | None = None
    done: tuple["Done", ...] = ()
    failed: tuple[str, ...] = ()


@dataclass(frozen=True)
class Done:
    """A restored picture: the file of its result, and what the page shows, (H, W, 3) uint8 each."""

    file: Path
    before: np.ndarray
    after: np.ndarray
    reference: np.ndarray
    invented: np.ndarray


class Workshop:
    """Restores what visitors ask for; cascades are loaded when they are first needed, and the last two are kept."""

    def __init__(self, presets: Sequence[str], limits: Limits, devices: int | None = None):
        self.presets, self.limits, self._devices = tuple(presets), limits, devices
        self._loaded: dict[tuple[str, str | None], CasSR] = {}
        self._lock = threading.Lock()

    def cascade(self, preset: str, activation: str | None) -> CasSR:
        """The cascade of a preset.

        Raises:
            InputError: no such preset is offered, or it cannot be loaded.
        """
        if preset not in self.presets:
            raise InputError(f"the preset is {preset!r}, expected one of {', '.join(self.presets)}")
        with self._lock:
            found = self._loaded.pop((preset, activation), None)
            if found is None:
                found = load(preset, activation=activation, devices=self._devices)
            self._loaded[preset, activation] = found
            while len(self._loaded) > 2:
                del self._loaded[next(iter(self._loaded))]
            return found

    def restore(self, request: Request, folder: Path) -> Iterator[Update]:
        """Restores the pictures of a request into a folder; a picture that fails does not cost the others.

        Raises:
            InputError: there are no pictures or too many, an option is out of range, or the cascade cannot be loaded.
        """
        if not request.files:
            raise InputError(f"no picture was given, expected 1 to {self.limits.pictures}")
        if len(request.files) > self.limits.pictures:
            raise InputError(f"{len(request.files)} pictures were given, expected at most {self.limits.pictures}")
        if request.strip not in (None, *get_args(Strip)):
            raise InputError(f"strip is {request.strip!r}, expected one of {', '.join(get_args(Strip))}")
        if request.format not in SUFFIXES:
            raise InputError(f"the format is {request.format!r}, expected one of {', '.join(SUFFIXES)}")
        yield Update("loading the networks", 0.0)
        cassr = self.cascade(request.preset, request.activation)
        cassr.check(**request.options)
        done: tuple[Done, ...] = ()
        failed: tuple[str, ...] = ()
        for number, file in enumerate(request.files):
            name = file.name
            work = _Followed(partial(self._one, cassr, file, request, folder))
            try:
                for text, share, preview in work.updates():
                    share = min(share, 0.99)  # the result is still to be written
                    yield Update(f"{name}: {text}", (number + share) / len(request.files), preview, done, failed)
                done = (*done, work.outcome())
            except InputError as error:
                failed = (*failed, f"{name}: {_without_folders(error, file, folder)}")
            except MemoryError:
                failed = (*failed, f"{name}: there is not enough memory, expected a smaller picture or scale")
            finally:
                work.stop()  # the visitor may have gone
        yield Update("done", 1.0, None, done, failed)

    def _one(self, cassr: CasSR, file: Path, request: Request, folder: Path, tell: "Tell") -> Done:
        if not is_file(file):
            raise InputError(f"{file}: the upload is no longer there, expected it anew")
        if (size := file.stat().st_size) > self.limits.file_bytes:
            raise InputError(f"{file}: has {size:,} bytes, expected at most {self.limits.file_bytes:,}")
        picture = io.read(file)
        scale = float(request.options.get("scale", 4))
        height, width = resizing.output_size(picture.rgb.shape[0], picture.rgb.shape[1], scale)
        if height * width > self.limits.result_pixels:
            raise InputError(
                f"{file}: its result would be {width}x{height} px, expected at most "
                f"{self.limits.result_pixels / 1e6:g} megapixels: choose a smaller scale or crop"
            )
        output = _free(folder, file.stem, SUFFIXES[request.format])
        bits = bits_of(output.name, picture, request.format)
        picture = io.with_bits(replace(picture, metadata=picture.metadata.without(request.strip)), bits)
        io.check_writable(output, height, width, picture.alpha)

        def watched(stage: str, calls: int, total: int) -> None:
            tell(f"{stage} {calls}/{total}", ((stage == "result") + calls / total) / 2, None)

        def preview(found: Preview) -> None:
            tell(f"{found.stage}, step {found.step}/{found.steps}", None, shallow(found.image))

        made = cassr.restore(io.opaque(picture), progress=watched, preview=preview, **request.options)
        io.write(output, io.with_rgb(picture, made.result))
        before, after, reference = map(shallow, (made.bicubic, made.result, made.reference))
        return Done(output, before, after, reference, invented(made.result, io.opaque(picture)))


def _without_folders(error: InputError, file: Path, folder: Path) -> str:
    """What is wrong with a visitor's file, without the server's folders, and without the name that stands before it."""
    text = str(error)
    for hidden in (file.parent, folder):
        text = text.replace(f"{hidden}{os.sep}", "")
    return text.removeprefix(f"{file.name}: ")


def _free(folder: Path, stem: str, suffix: str) -> Path:
    """A file that is not there yet: several pictures of a request may have the same name."""
    names = chain([f"{stem}{suffix}"], (f"{stem}_{number}{suffix}" for number in count(2)))
    return next(place for name in names if not exists(place := folder / name))


Tell = Callable[[str, float | None, np.ndarray | None], None]


class _Gone(Exception):
    """Whoever wanted the work has gone."""


class _Followed:
    """Work in a thread of its own, whose reports another reads while it goes on."""

    def __init__(self, work: Callable[[Tell], Done]):
        self._stopped = threading.Event()
        self._reports: queue.Queue[tuple[str, float | None, np.ndarray | None] | None] = queue.Queue()
        self._result: Done | None = None
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, args=(work,), daemon=True)
        self._thread.start()

    def _run(self, work: Callable[[Tell], Done]) -> None:
        try:
            self._result = work(self._tell)
        except Exception as error:
            self._error = error
        finally:
            self._reports.put(None)

    def _tell(self, text: str, share: float | None, preview: np.ndarray | None) -> None:
        if self._stopped.is_set():
            raise _Gone
        self._reports.put((text, share, preview))

    def stop(self) -> None:
        """End the work at its next report."""
        self._stopped.set()

    def updates(self) -> Iterator[tuple[str, float, np.ndarray | None]]:
        """The reports until the work ends; those that came while the last one was shown are passed over."""
        share, seen = 0.0, None
        while (report := self._reports.get()) is not None:
            with suppress(queue.Empty):
                while (later := self._reports.get_nowait()) is not None:
                    share, seen = report[1] or share, report[2] if report[2] is not None else seen
                    report = later
                self._reports.put(None)
            share, seen = report[1] or share, report[2] if report[2] is not None else seen
            yield report[0], share, seen

    def outcome(self) -> Done:
        """What the work gave.

        Raises:
            Exception: whatever it raised.
        """
        self._thread.join()
        if self._error is not None:
            raise self._error
        assert self._result is not None, "the work has ended"
        return self._result
