"""From a folder of pictures to batches: shuffled, cropped, degraded, the same for the same seed.

Record i of the stream depends on (seed, i) alone: not on batches, threads, worker processes or hosts. The iterator's
state is a small dictionary (`get_state`, `set_state`), so that a run can be taken up where it stopped.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import grain
import numpy as np
from absl import flags

from cassr_jax.data.crops import Windows, find_all_windows, random_crop
from cassr_jax.data.degradation import PRESETS, degrade
from cassr_jax.data.prepared import PreparedSource, record_files
from cassr_jax.data.sources import FolderSource, PictureSource
from cassr_jax.errors import InputError
from cassr_jax.imaging.io import bicubic

_ENDLESS = 2**30  # epochs; a data set repeated without end has more records than a length can count once it is batched

Batch = dict[str, Any]  # name -> numpy array; a batch and, without its first axis, a record


@dataclass(frozen=True)
class DataConfig:
    """What to train on, and how it is cut and degraded."""

    path: str  # folder of pictures, or of records prepared by cassr_jax.data.references
    crop_size: int = 512  # side of a high-resolution crop, in px
    sharp_fraction: float = 0.9  # share of crops taken where the picture is sharp
    preset: str | None = None  # degradation: light, realesrgan or stablesr; None yields no low-resolution picture
    scale: int = 4  # the low-resolution side is crop_size / scale
    num_threads: int = 2  # threads that make records (in each worker process)
    num_workers: int = 0  # worker processes; 0 makes records in threads of this process
    prefetch: int = 64  # records kept ready
    resident: bool = False  # keep all prepared records on the device and cut crop_size windows out of them there
    cache_bytes: int = 1 << 30  # decoded pictures kept in memory (by each worker process)

    def __post_init__(self) -> None:
        if self.preset is not None and self.preset not in PRESETS:
            raise InputError(f"preset: {self.preset!r} is not known; expected one of {', '.join(PRESETS)}")
        if self.crop_size <= 0 or self.crop_size % self.scale:
            raise InputError(f"crop_size: {self.crop_size} is not a positive multiple of the scale {self.scale}")
        if not 0.0 <= self.sharp_fraction <= 1.0:
            raise InputError(f"sharp_fraction: {self.sharp_fraction} is not between 0 and 1")


def batches(
    config: DataConfig, *, batch_size: int, seed: int, process_index: int = 0, process_count: int = 1
) -> grain.DatasetIterator:
    """An endless iterator over batches of this process's share of the records.

    A batch is a dict of "hr" uint8 (B, S, S, 3), "record" int32 (B,), the number of the source's picture, and, with a
    preset, "lr" uint8 (B, S / scale, S / scale, 3) and "lq" (B, S, S, 3), the same enlarged. A folder of prepared
    records (`cassr_jax.data.prepared`) gives what these hold, and "lq". `batch_size` is this process's: of every n
    times as many records of the one global stream, process p of n takes the p-th block. The state counts batches, so
    that one taken from n processes serves any other number that divides the same whole batch.
    """
    # Records are made in parallel; OpenCV's own threads would only get in each other's way.
    cv2.setNumThreads(1)
    records = _prepared(config) if record_files(Path(config.path)) else _from_pictures(config)
    dataset = records(seed).batch(batch_size)[process_index::process_count]
    ready = max(math.ceil(config.prefetch / batch_size), config.num_threads)
    loaded = dataset.to_iter_dataset(grain.ReadOptions(num_threads=config.num_threads, prefetch_buffer_size=ready))
    if config.num_workers == 0:
        return iter(loaded)
    if not flags.FLAGS.is_parsed():  # grain reads its own absl flags, which need no command line
        flags.FLAGS.mark_as_parsed()
    workers = grain.MultiprocessingOptions(num_workers=config.num_workers)
    return iter(loaded.mp_prefetch(workers))


def _from_pictures(config: DataConfig) -> Callable[[int], grain.MapDataset]:
    source = FolderSource(config.path, cache_bytes=config.cache_bytes)
    windows = find_all_windows(source, config.crop_size)
    visited = grain.MapDataset.source(visits(windows).tolist())
    make = record_maker(config, source, windows)
    return lambda seed: visited.seed(seed).shuffle().repeat(_ENDLESS).random_map(make)


def _prepared(config: DataConfig) -> Callable[[int], grain.MapDataset]:
    source = PreparedSource(config.path)
    return lambda seed: (
        grain.MapDataset.source(source).seed(seed).shuffle().repeat(_ENDLESS).map(partial(with_lq, scale=config.scale))
    )


def with_lq(record: Batch, scale: int) -> Batch:
    """A record with its low-resolution picture enlarged as well, "lq", as the networks take it."""
    height, width = record["lr"].shape[:2]
    return record | {"lq": bicubic(record["lr"], (height * scale, width * scale))}


def visits(windows: list[Windows]) -> np.ndarray:
    """Record numbers of one epoch: each picture once for every sharp tile it has, and at least once.

    So a crop is about as likely to come from one sharp tile as from another, and a picture that is soft all over,
    though never left out, does not fill the share of sharp crops with soft ones.
    """
    return np.repeat(np.arange(len(windows), dtype=np.int32), [max(1, w.tiles) for w in windows])


def record_maker(
    config: DataConfig, source: PictureSource, windows: list[Windows]
) -> Callable[[Any, np.random.Generator], Batch]:
    """The function that makes one record from a picture's number and a generator of its own."""

    def make(record: Any, rng: np.random.Generator) -> Batch:
        index = int(record)
        hr = random_crop(rng, source[index], config.crop_size, windows[index], sharp=config.sharp_fraction)
        made = {"record": np.int32(index)}
        if config.preset is None:
            return made | {"hr": hr}
        lr, hr = degrade(hr, rng, PRESETS[config.preset], scale=config.scale)
        return with_lq(made | {"hr": hr, "lr": lr}, config.scale)

    return make
