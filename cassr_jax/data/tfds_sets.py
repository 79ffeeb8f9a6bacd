"""Sets that TensorFlow Datasets wrote as ArrayRecord files, read without TensorFlow."""

from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from cassr_jax.data.sources import PictureCache, find_part
from cassr_jax.errors import InputError

NAMES = ("image", "hr")  # the feature with the picture, in this project's sets and in tfds's own div2k


class TFDSSource:
    """The pictures of one split of a set, uint8 RGB (H, W, 3), decoded on access and cached as in `FolderSource`.

    Raises:
        InputError: the set is no ArrayRecord set of pictures; on access, if a record is damaged.
    """

    def __init__(self, path: str | Path, *, split: str = "train", cache_bytes: int = 1 << 30) -> None:
        self.path = Path(path)
        try:
            builder: Any = tfds.builder_from_directory(self.path)
            pictures = [name for name, kind in builder.info.features.items() if isinstance(kind, tfds.features.Image)]
            self.name = next(name for name in NAMES if name in pictures)
            others = {name: tfds.decode.SkipDecoding() for name in pictures if name != self.name}
            self._records = builder.as_data_source(split=split, decoders=others or None)
            shards = builder.info.splits[split]
        except StopIteration:
            raise InputError(
                f"{self.path}: has no feature {' or '.join(NAMES)}, expected a picture of that name"
            ) from None
        except (AttributeError, OSError, ValueError, KeyError, NotImplementedError, RuntimeError) as error:
            raise InputError(
                f"{self.path}: cannot be read as an ArrayRecord set with a split {split!r} ({error})"
            ) from error
        self.files = [Path(file) for file in shards.filepaths]
        self._bounds = list(accumulate(shards.shard_lengths, initial=0))
        self._cache = PictureCache(cache_bytes)

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> np.ndarray:
        index = range(len(self))[index]
        return self._cache.get(index, lambda: self._decode(index))

    def _decode(self, index: int) -> np.ndarray:
        try:
            return self._records[index][self.name]
        except (
            RuntimeError,
            ValueError,
            TypeError,
            AttributeError,
        ) as error:  # TypeError: the file itself is cut short
            raise InputError(f"{self.origin(index)} is damaged ({error}); build the set again") from error

    def origin(self, index: int) -> str:
        shard, position = find_part(self._bounds, index)
        return f"{self.files[shard]}: record {position}"

    def __repr__(self) -> str:
        return f"TFDSSource({str(self.path)!r}, {len(self)} pictures)"
