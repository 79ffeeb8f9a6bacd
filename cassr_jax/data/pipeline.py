"""From sets of pictures to batches: records are shuffled, mixed, cropped and degraded, reproducibly for each seed.

Record i of the stream depends only on (seed, i), not on batches, threads, worker processes or hosts. The state of the
iterator is a small dictionary (`get_state`, `set_state`), so that a run can continue where it stopped.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import SupportsInt

import cv2
import grain
import numpy as np
from absl import flags

from cassr_jax.data.config import DataConfig
from cassr_jax.data.crops import (
    Enlarged,
    Windows,
    find_all_windows,
    find_folders_windows,
    find_windows,
    random_crop,
)
from cassr_jax.data.degradation import degrade
from cassr_jax.data.prepared import PreparedSource, check_alike, record_files
from cassr_jax.data.presets import PRESETS
from cassr_jax.data.sources import (
    FolderSource,
    Joined,
    NamedSource,
    PictureSource,
    Source,
    find_set,
    only_one_kind,
    read_or_replace,
)
from cassr_jax.data.workforce import usable_cores, workforce
from cassr_jax.errors import InputError
from cassr_jax.files import files_below
from cassr_jax.imaging.inputs import READABLE_SUFFIXES
from cassr_jax.imaging.resizing import bicubic
from cassr_jax.printing import complain
from cassr_jax.ranges import SEED

_ENDLESS = 2**30  # epochs; if it were repeated without end, a batched set would have more records than a length holds

Batch = dict[str, np.ndarray]  # a record is the same without the first axis


@dataclass(frozen=True)
class Records:
    """Opened sets; a seed gives their endless stream of records.

    Attributes:
        parts: the numbers of the records of each set, as often as one epoch takes them.
        weights: the weight of each set, by its path.
        finish: makes records of a stream of their numbers.
        held: the records that `DataConfig.held_out` keeps from training; None if it keeps none.
    """

    parts: Sequence[Sequence[int]]
    weights: Mapping[str, float]
    finish: Callable[[grain.MapDataset], grain.MapDataset]
    held: "Records | None" = None

    def __call__(self, seed: int) -> grain.MapDataset:
        return self.finish(_mixed(self.parts, self.weights, seed))

    def __len__(self) -> int:
        """The number of records in one epoch."""
        return sum(map(len, self.parts))


class Batches(Iterator[Batch]):
    """The endless iterator that `batches` returns.

    Its state is a number of examples of the one global stream, counted over all processes. It does not depend on
    threads, worker processes or the batch size, so each of these may change when a run continues.

    Args:
        open_at: (number of an example in the stream) -> the batches from there on.
        whole: the number of examples in a batch, over all processes.

    Attributes:
        skipped: the number of damaged records that were replaced by others; each is named on stderr when it is met.
    """

    def __init__(self, open_at: Callable[[int], grain.DatasetIterator], whole: int) -> None:
        self._open_at, self._whole = open_at, whole
        self._examples = 0
        self._opened: grain.DatasetIterator | None = None
        self.skipped = 0

    def __next__(self) -> Batch:
        if self._opened is None:
            self._opened = self._open_at(self._examples)
        try:
            batch = next(self._opened)
        except RuntimeError as error:
            if "terminated unexpectedly" not in str(error):
                raise
            raise InputError(
                f"data.num_workers: a worker process has died ({str(error).partition('.')[0]}; -9 usually means a lack "
                "of memory), expected it to live; use fewer workers, or a smaller data.prefetch or data.cache_bytes"
            ) from error
        self._examples += self._whole
        skipped = int(batch.pop("skipped").sum())
        if skipped:
            self.skipped += skipped
            complain(f"left out so far: {self.skipped} damaged records")
        return batch

    def get_state(self) -> dict[str, int]:
        return {"examples": self._examples}

    def set_state(self, state: Mapping[str, int]) -> None:
        """Continue after the examples that `get_state` had counted.

        Raises:
            InputError: `state` is not what `get_state` returns.
        """
        if not isinstance(state, Mapping) or type(state.get("examples")) is not int:
            raise InputError(f"the state of the data is {str(state)[:40]!r}, expected a number of examples")
        self.close()
        self._examples = state["examples"]

    def close(self) -> None:
        """End the worker processes."""
        if self._opened is not None:
            self._opened.close()
            self._opened = None


def batches(
    config: DataConfig,
    *,
    batch_size: int,
    seed: int,
    process_index: int = 0,
    process_count: int = 1,
    records: Records | None = None,
    cores: int | None = None,
) -> Batches:
    """An endless iterator over batches of this process's share of the records.

    A batch is a dict with "hr", uint8 (B, S, S, 3), and "record", int32 (B,), the numbers of the pictures. With a
    preset it also has "lr", uint8 (B, S / scale, S / scale, 3), and "lq", uint8 (B, S, S, 3), the same enlarged. From
    folders of prepared records (`cassr_jax.data.prepared`) it has what the records hold, and "lq".

    All processes share one global stream: process p of n takes the p-th block of `batch_size` records out of every
    n `batch_size`. Every stretch of the stream holds each set of a mixture according to its weight, and every picture
    of a set comes once before any of them comes again. The state counts examples, so it can be continued by any number
    of processes, with batches of any size.

    Args:
        config: the sets, and how their pictures are cut and degraded.
        batch_size: examples in a batch of this process.
        seed: decides the order and all random choices.
        process_index: the number of this process.
        process_count: the number of processes.
        records: what `open_records` returns, so that several streams can share sets that are opened once.
        cores: how many cores may work on it; by default all that this process may use.

    Raises:
        InputError: as `open_records`; while iterating, if a worker process has died or too many records are damaged.
    """
    # Records are made in parallel already; OpenCV's own threads would only slow each other down.
    cv2.setNumThreads(1)
    SEED.check("seed", seed)
    stream = (records or open_records(config, cores))(seed)
    workers, threads = workforce(config, cores or len(usable_cores()))

    def open_at(examples: int) -> grain.DatasetIterator:
        own = stream[examples:].batch(batch_size)[process_index::process_count]
        ready = max(math.ceil(config.prefetch / batch_size / max(workers, 1)), threads)
        loaded = own.to_iter_dataset(grain.ReadOptions(num_threads=threads, prefetch_buffer_size=ready))
        if workers == 0:
            return iter(loaded)
        if not flags.FLAGS.is_parsed():  # grain reads absl flags, which must be parsed first
            flags.FLAGS.mark_as_parsed()
        return iter(loaded.mp_prefetch(grain.MultiprocessingOptions(num_workers=workers)))

    return Batches(open_at, batch_size * process_count)


def open_records(config: DataConfig, cores: int | None = None) -> Records:
    """Open the sets of a configuration.

    Pictures are searched for sharp windows. What was found is kept, so each of them is decoded for this only once.

    Args:
        config: the sets, and how their pictures are cut and degraded.
        cores: how many cores may work on it; by default all that this process may use.

    Raises:
        InputError: a set cannot be used, pictures and prepared records are mixed, or prepared records do not have the
            size `crop_size` or differ in what they hold.
    """
    weights = config.weights()
    prepared = [path for path in weights if record_files(Path(path))]
    if prepared and len(prepared) < len(weights):
        others = [path for path in weights if path not in prepared]
        raise InputError(f"mixture: {prepared[0]} holds prepared records, {others[0]} pictures, expected only one kind")
    return _prepared(config, weights) if prepared else _from_pictures(config, weights, cores or len(usable_cores()))


def open_pictures(path: str, *, cache_bytes: int) -> NamedSource:
    """Open a set that `cassr_jax.commands.build` or tfds has built, or else a folder of pictures.

    Raises:
        InputError: it holds neither, or both.
    """
    if (built := find_set(path)) is not None:
        beside = (file for file in files_below(Path(path), built) if file.suffix.lower() in READABLE_SUFFIXES)
        if (picture := next(beside, None)) is not None:
            raise only_one_kind(path, f"a built set ({built})", f"pictures ({picture})")
        from cassr_jax.data.tfds_sets import TFDSSource  # takes seconds to import, so a folder does without

        return TFDSSource(built, cache_bytes=cache_bytes)
    return FolderSource(path, cache_bytes=cache_bytes)


def _from_pictures(config: DataConfig, weights: Mapping[str, float], cores: int) -> Records:
    sources, windows = [], []
    workers, _ = workforce(config, cores)
    for path in weights:
        pictures = open_pictures(path, cache_bytes=config.cache_bytes // len(weights) // max(workers, 1))
        source = Enlarged(pictures, config.crop_size)
        sources.append(source)
        if isinstance(pictures, FolderSource):
            windows += find_folders_windows(source, pictures, config.crop_size, threads=cores)
        else:
            kept = (built / f"windows_{config.crop_size}.npz") if (built := find_set(path)) else None
            windows += find_all_windows(source, config.crop_size, threads=cores, file=kept)
    source = Joined(sources)
    visited = visits(windows)
    parts = [visited[(first <= visited) & (visited < end)].tolist() for first, end in pairwise(source.bounds)]
    for path, part in zip(weights, parts, strict=True):
        if not part:
            raise InputError(f"{path}: none of its pictures can be read, expected at least one")
    make = record_maker(config, source, windows)
    return _divided(config, weights, parts, lambda stream: stream.random_map(make))


def _prepared(config: DataConfig, weights: Mapping[str, float]) -> Records:
    sources = [PreparedSource(path) for path in weights]
    for path, source in zip(weights, sources, strict=True):
        if "lr" not in (record := read_or_replace(source, 0)[1]):
            raise InputError(f"{path}: the records hold {', '.join(record)}, expected lr among them")
        height, width = (side * config.scale for side in record["lr"].shape[:2])  # the size that lq will have
        if (height, width) != (config.crop_size, config.crop_size):
            raise InputError(
                f"{path}: holds records of {width}x{height} px, expected data.crop_size {config.crop_size}; records "
                "are not cropped, because their latents and references belong to the whole picture"
            )
    check_alike(sources)
    source = Joined(sources)
    parts = [range(first, end) for first, end in pairwise(source.bounds)]
    read = partial(read_prepared, source, scale=config.scale)
    return _divided(config, weights, parts, lambda stream: stream.map(read))


def _divided(
    config: DataConfig,
    weights: Mapping[str, float],
    parts: Sequence[Sequence[int]],
    finish: Callable[[grain.MapDataset], grain.MapDataset],
) -> Records:
    """The records to train on and, apart from them, those that are held out of each set."""
    if not config.held_out:
        return Records(parts, weights, finish)
    divided = [held_out(part, config.held_out) for part in parts]
    for path, (rest, held) in zip(weights, divided, strict=True):
        if not (rest and held):
            raise InputError(
                f"{path}: data.held_out {config.held_out} of its {len({*rest, *held})} records leaves none to "
                f"{'validate' if rest else 'train'} on, expected some for both"
            )
    rests, helds = zip(*divided, strict=True)
    return Records(rests, weights, finish, Records(helds, weights, finish))


def held_out(part: Sequence[int], share: float) -> tuple[list[int], list[int]]:
    """(the record numbers to train on, those that are held out): a share of the records, spread evenly over the set.

    A number that occurs several times, as a picture with many sharp tiles does, is wholly in one of the two.
    """
    numbers = sorted({*part})
    held = {number for i, number in enumerate(numbers) if math.floor((i + 1) * share) > math.floor(i * share)}
    return [n for n in part if n not in held], [n for n in part if n in held]


def _mixed(parts: Sequence[Sequence[int]], weights: Mapping[str, float], seed: int) -> grain.MapDataset:
    """An endless stream of record numbers: each part is shuffled again in every epoch, and weights mix the parts."""
    shuffled = [grain.MapDataset.source(part).seed(seed).shuffle().repeat(_ENDLESS) for part in parts]
    return grain.MapDataset.mix(shuffled, list(weights.values())) if len(shuffled) > 1 else shuffled[0]


def read_prepared(source: Source[Batch], index: int, *, scale: int) -> Batch:
    """Record `index`, or another one if it is damaged, with "lq" and the number of damaged records, "skipped"."""
    _, record, skipped = read_or_replace(source, index)
    return with_lq(record, scale) | {"skipped": np.array(skipped, np.int32)}


def with_lq(record: Batch, scale: int) -> Batch:
    """The record with "lq" added: its low-resolution picture, enlarged as the networks need it."""
    height, width = record["lr"].shape[:2]
    return record | {"lq": bicubic(record["lr"], (height * scale, width * scale))}


def visits(windows: Sequence[Windows | None]) -> np.ndarray:
    """The record numbers of one epoch: each picture once for each of its sharp tiles, and at least once.

    So a crop is about as likely to come from one sharp tile as from another. A picture without any sharp tile is not
    left out, but takes little of the share of sharp crops. A picture whose windows are None is left out.
    """
    return np.repeat(np.arange(len(windows), dtype=np.int32), [max(1, w.tiles) if w else 0 for w in windows])


def record_maker(
    config: DataConfig, source: PictureSource, windows: Sequence[Windows | None]
) -> Callable[[SupportsInt, np.random.Generator], Batch]:
    """The function that makes a record from the number of a picture and a random generator."""

    def make(record: SupportsInt, rng: np.random.Generator) -> Batch:
        index, image, skipped = read_or_replace(source, int(record))
        found = windows[index] or find_windows(image, config.crop_size)  # it can be read now, though not before
        hr = random_crop(rng, image, config.crop_size, found, sharp=config.sharp_fraction, min_scale=config.min_scale)
        made = {"record": np.array(index, np.int32), "skipped": np.array(skipped, np.int32)}
        if config.preset is None:
            return made | {"hr": hr}
        lr, hr = degrade(hr, rng, PRESETS[config.preset], scale=config.scale)
        return with_lq(made | {"hr": hr, "lr": lr}, config.scale)

    return make
