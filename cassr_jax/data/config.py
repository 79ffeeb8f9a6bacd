"""What to train on, apart from the pipeline: reading a configuration does not import grain."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from cassr_jax.buckets import Folder, fetched, folder_at, in_bucket
from cassr_jax.data.presets import PRESETS
from cassr_jax.errors import InputError
from cassr_jax.files import check_outside
from cassr_jax.ranges import POSITIVE, check

SPEED = ("num_threads", "num_workers", "prefetch", "cache_bytes")
"""The fields that no record depends on."""


@dataclass(frozen=True)
class DataConfig:
    """The pictures or records to train on, and how they are cut and degraded."""

    path: str = (
        ""  # pictures, a set built by cassr_jax.commands.build, or records prepared by cassr_jax.commands.references
    )
    mixture: Mapping[str, float] = field(default_factory=dict)  # instead of path, several paths with their weights
    held_out: float = 0.0  # share of each set's pictures or records that is kept from training, for validation
    crop_size: int = 512  # side of a high-resolution crop, in px
    sharp_fraction: float = 0.9  # share of crops that are taken where the picture is sharp
    min_scale: float = 1.0  # the picture is shrunk before it is cropped, by a factor between this and 1
    preset: str | None = None  # damage: light, realesrgan, stablesr or camera; null makes no low-resolution picture
    scale: int = 4  # a low-resolution picture has sides of crop_size / scale
    num_threads: int | None = None  # threads that make records, in each worker process; null goes by the host's cores
    # Worker processes; with 0, threads of this process make the records. null goes by the host's cores.
    num_workers: int | None = None
    prefetch: int = 64  # records kept ready
    resident: bool = False  # keep all prepared records on the device, and cut windows of crop_size out of them there
    cache_bytes: int = 1 << 30  # memory for decoded pictures, over all worker processes

    def __post_init__(self) -> None:
        check(self)
        if self.preset is not None and self.preset not in PRESETS:
            raise InputError(f"preset is {self.preset!r}, expected one of {', '.join(PRESETS)}")
        if self.crop_size % self.scale:
            raise InputError(f"crop_size is {self.crop_size}, expected a multiple of scale, which is {self.scale}")
        if self.path:
            folder_at(self.path, "path")
        for path, weight in self.mixture.items():
            folder_at(path, "a path of mixture")
            POSITIVE.check(f"mixture.{path}", weight)
        if self.resident and self.held_out:
            raise InputError(
                f"held_out is {self.held_out}, expected 0: resident trains on all records of a folder; name others as "
                "validation.path"
            )
        if self.resident and self.mixture:
            raise InputError("resident: not possible with a mixture, expected one folder of prepared records as path")

    def weights(self) -> Mapping[str, float]:
        """The weight of each set, by its path.

        Raises:
            InputError: neither `path` nor `mixture` is given, or both are.
        """
        if bool(self.path) == bool(self.mixture):
            found = f"path {self.path!r} and a mixture" if self.path else "neither path nor mixture"
            raise InputError(f"data: found {found}, expected one of the two")
        return self.mixture or {self.path: 1.0}

    def here(self) -> "DataConfig":
        """The same sets on this machine; those in a bucket are copied first, as far as they have changed.

        Raises:
            InputError: one cannot be copied.
        """
        mixture = {os.fspath(_here(path)): weight for path, weight in self.mixture.items()}
        return replace(self, path=os.fspath(_here(self.path)) if self.path else "", mixture=mixture)

    def check_apart(self, output: Folder) -> None:
        """Checks that what is written into the folder `output` does not become part of a set.

        Raises:
            InputError: `output` lies within a set.
        """
        for name, paths in (("data.path", filter(None, [self.path])), ("data.mixture", self.mixture)):
            for path in paths:
                check_apart(output, path, name)


def check_apart(output: Folder, path: str, name: str) -> None:
    """Checks that the folder `output` does not lie within `path`, whose name in errors is `name`.

    Raises:
        InputError: it does.
    """
    data = folder_at(path)
    if not in_bucket(output) and not in_bucket(data):
        check_outside(Path(output), Path(data), name)
    elif in_bucket(output) and in_bucket(data) and output.is_relative_to(data):
        raise InputError(
            f"{output}: lies within {name}, {data}, expected a folder outside it: what is written there would be read "
            "with the rest"
        )


def _here(path: str) -> Path:
    """The folder of this machine that stands for a path."""
    return fetched(path) if in_bucket(folder_at(path)) else Path(path)
