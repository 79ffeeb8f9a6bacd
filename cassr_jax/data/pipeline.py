"""From sets of pictures to batches: shuffled, mixed, cropped, degraded, the same for the same seed.

Record i of the stream depends on (seed, i) alone: not on batches, threads, worker processes or hosts. The iterator's
state is a small dictionary (`get_state`, `set_state`), so that a run can be taken up where it stopped.
"""

import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import grain
import numpy as np
from absl import flags

from cassr_jax.data.config import DataConfig
from cassr_jax.data.crops import Windows, find_all_windows, find_windows, random_crop
from cassr_jax.data.degradation import PRESETS, degrade
from cassr_jax.data.prepared import PreparedSource, record_files
from cassr_jax.data.sources import FolderSource, Joined, PictureSource, Source, find_set, read_or_replace
from cassr_jax.errors import InputError
from cassr_jax.imaging.resizing import bicubic
from cassr_jax.ranges import FROM_ZERO

_ENDLESS = 2**30  # epochs; a data set repeated without end has more records than a length can count once it is batched

Batch = dict[str, Any]  # name -> numpy array; a batch and, without its first axis, a record
Records = Callable[[int], grain.MapDataset]  # the endless stream of records that belongs to a seed


class Batches(Iterator[Batch]):
    """The endless iterator that `batches` gives.

    Its state is a number of examples of the one global stream, over all processes: neither threads nor worker
    processes nor the size of a batch enter it, so that each of them may change where a run is taken up.

    Args:
        open_at: gives the batches from an example of the stream on.
        whole: examples of a batch, over all processes.

    Attributes:
        skipped: how many records were damaged, so that others stand in their place; each is named on stderr where it is
            met.
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
                f"data.num_workers: a worker process has died ({str(error).partition('.')[0]}; -9 is mostly a lack of "
                "memory), expected it to live: fewer workers, or smaller data.prefetch and data.cache_bytes, need less"
            ) from error
        self._examples += self._whole
        skipped = int(batch.pop("skipped").sum())
        if skipped:
            self.skipped += skipped
            print(f"left out so far: {self.skipped} damaged records", file=sys.stderr, flush=True)
        return batch

    def get_state(self) -> dict[str, int]:
        return {"examples": self._examples}

    def set_state(self, state: Mapping[str, int]) -> None:
        """Go on after as many examples as `get_state` had counted.

        Raises:
            InputError: it is no such state.
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
) -> Batches:
    """An endless iterator over batches of this process's share of the records.

    A batch is a dict of "hr" uint8 (B, S, S, 3), "record" int32 (B,), the number of the picture, and, with a preset,
    "lr" uint8 (B, S / scale, S / scale, 3) and "lq" (B, S, S, 3), the same enlarged. Folders of prepared records
    (`cassr_jax.data.prepared`) give what these hold, and "lq". `batch_size` is this process's: of every n times as many
    records of the one global stream, process p of n takes the p-th block. The state counts examples, so that one taken
    from n processes serves any other number, and batches of any other size. In every stretch of the stream each set
    of a mixture has its share; a set is visited as a whole before any of its pictures comes again.

    Args:
        records: what `open_records` gave, for several streams of sets that are opened once.

    Raises:
        InputError: as `open_records`; on iteration, when a worker process has died, or too much is damaged.
    """
    # Records are made in parallel; OpenCV's own threads would only get in each other's way.
    cv2.setNumThreads(1)
    FROM_ZERO.check("seed", seed)
    stream = (records or open_records(config))(seed)

    def open_at(examples: int) -> grain.DatasetIterator:
        own = stream[examples:].batch(batch_size)[process_index::process_count]
        ready = max(math.ceil(config.prefetch / batch_size), config.num_threads)
        loaded = own.to_iter_dataset(grain.ReadOptions(num_threads=config.num_threads, prefetch_buffer_size=ready))
        if config.num_workers == 0:
            return iter(loaded)
        if not flags.FLAGS.is_parsed():  # grain reads its own absl flags, which need no command line
            flags.FLAGS.mark_as_parsed()
        return iter(loaded.mp_prefetch(grain.MultiprocessingOptions(num_workers=config.num_workers)))

    return Batches(open_at, batch_size * process_count)


def open_records(config: DataConfig) -> Records:
    """The streams of `config`'s sets. Pictures are looked through for sharp windows; those of a built set only once.

    Raises:
        InputError: a set cannot be used, sets of pictures and of prepared records are mixed, or prepared records are
            not of `crop_size`.
    """
    weights = config.weights()
    prepared = [path for path in weights if record_files(Path(path))]
    if prepared and len(prepared) < len(weights):
        others = [path for path in weights if path not in prepared]
        raise InputError(f"mixture: {prepared[0]} holds prepared records, {others[0]} pictures, expected one kind")
    return (_prepared if prepared else _from_pictures)(config, weights)


def open_pictures(path: str, *, cache_bytes: int) -> PictureSource:
    """The pictures of a set that `cassr_jax.commands.build` or tfds has built, or else of a folder."""
    if (built := find_set(path)) is not None:
        from cassr_jax.data.tfds_sets import TFDSSource  # its import takes seconds, which a folder need not wait for

        return TFDSSource(built, cache_bytes=cache_bytes)
    return FolderSource(path, cache_bytes=cache_bytes)


def _from_pictures(config: DataConfig, weights: Mapping[str, float]) -> Records:
    sources, windows = [], []
    for path in weights:
        source = open_pictures(path, cache_bytes=config.cache_bytes // len(weights))
        kept = (built / f"windows_{config.crop_size}.npz") if (built := find_set(path)) else None
        sources.append(source)
        windows += find_all_windows(source, config.crop_size, file=kept)
    source = Joined(sources)
    visited = visits(windows)
    parts = [visited[(first <= visited) & (visited < end)] for first, end in pairwise(source.bounds)]
    for path, part in zip(weights, parts, strict=True):
        if not len(part):
            raise InputError(f"{path}: none of its pictures can be read")
    make = record_maker(config, source, windows)
    return lambda seed: _mixed([part.tolist() for part in parts], weights, seed).random_map(make)


def _prepared(config: DataConfig, weights: Mapping[str, float]) -> Records:
    sources = [PreparedSource(path) for path in weights]
    for path, source in zip(weights, sources, strict=True):
        height, width = read_prepared(source, 0, scale=config.scale)["lq"].shape[:2]
        if (height, width) != (config.crop_size, config.crop_size):
            raise InputError(
                f"{path}: holds records of {width}x{height} px, expected data.crop_size {config.crop_size}: they are "
                "used as they are, since latents and references belong to the whole crop"
            )
    source = Joined(sources)
    parts = [range(first, end) for first, end in pairwise(source.bounds)]
    read = partial(read_prepared, source, scale=config.scale)
    return lambda seed: _mixed(parts, weights, seed).map(read)


def _mixed(parts: Sequence[Sequence[int]], weights: Mapping[str, float], seed: int) -> grain.MapDataset:
    """Record numbers without end: each part's shuffled anew in every epoch, the parts mixed by their weights."""
    shuffled = [grain.MapDataset.source(part).seed(seed).shuffle().repeat(_ENDLESS) for part in parts]
    return grain.MapDataset.mix(shuffled, list(weights.values())) if len(shuffled) > 1 else shuffled[0]


def read_prepared(source: Source[Batch], index: int, *, scale: int) -> Batch:
    """Record `index`, or one in its place where it is damaged, with its low-resolution picture enlarged as well."""
    _, record, skipped = read_or_replace(source, index)
    return with_lq(record, scale) | {"skipped": np.int32(skipped)}


def with_lq(record: Batch, scale: int) -> Batch:
    """A record with its low-resolution picture enlarged as well, "lq", as the networks take it."""
    height, width = record["lr"].shape[:2]
    return record | {"lq": bicubic(record["lr"], (height * scale, width * scale))}


def visits(windows: Sequence[Windows | None]) -> np.ndarray:
    """Record numbers of one epoch: each picture once for every sharp tile it has, and at least once; None is left out.

    So a crop is about as likely to come from one sharp tile as from another, and a picture that is soft all over,
    though never left out, does not fill the share of sharp crops with soft ones.
    """
    return np.repeat(np.arange(len(windows), dtype=np.int32), [max(1, w.tiles) if w else 0 for w in windows])


def record_maker(
    config: DataConfig, source: PictureSource, windows: Sequence[Windows | None]
) -> Callable[[Any, np.random.Generator], Batch]:
    """The function that makes one record from a picture's number and a generator of its own."""

    def make(record: Any, rng: np.random.Generator) -> Batch:
        index, image, skipped = read_or_replace(source, int(record))
        found = windows[index] or find_windows(image, config.crop_size)  # it could not be read before, and now it can
        hr = random_crop(rng, image, config.crop_size, found, sharp=config.sharp_fraction, min_scale=config.min_scale)
        made = {"record": np.int32(index), "skipped": np.int32(skipped)}
        if config.preset is None:
            return made | {"hr": hr}
        lr, hr = degrade(hr, rng, PRESETS[config.preset], scale=config.scale)
        return with_lq(made | {"hr": hr, "lr": lr}, config.scale)

    return make
