"""The range of every option and every field, in one table.

The scripts' parsers, the configurations and the Python API all check against `RANGES`, so a value is refused with the
same words wherever it was given. A field outside the table is checked by its type alone, or holds a configuration whose
own fields are in the table.
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from cassr_jax.errors import InputError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


LARGEST = 2**31 - 1  # the largest integer on a device


@dataclass(frozen=True)
class Range:
    """The numbers that a field may hold.

    Attributes:
        least, most: the bounds; None for no bound but the type's own, which is `LARGEST` for whole numbers.
        above: whether values must be above `least`, not equal to it.
        below: whether values must be below `most`, not equal to it.
        whole: whether only whole numbers are allowed.
        optional: whether None is allowed too.
    """

    least: float | None = None
    most: float | None = None
    above: bool = False
    below: bool = False
    whole: bool = False
    optional: bool = False

    def __str__(self) -> str:
        kind = "a whole number" if self.whole else "a number"
        least = "" if self.least is None else f"{'above' if self.above else 'of at least'} {self.least}"
        most = "" if self.most is None else f"{'below' if self.below else 'at most'} {self.most}"
        bounds = " and ".join(filter(None, (least, most)))
        return " ".join(filter(None, (kind, bounds))) + (", or None" if self.optional else "")

    def holds(self, value: object) -> bool:
        """Whether `value` is a number (of Python or NumPy; no bool, no NaN) within the bounds."""
        if value is None:
            return self.optional
        numbers = (int, np.integer) if self.whole else (int, float, np.integer, np.floating)
        if isinstance(value, (bool, np.bool_)) or not isinstance(value, numbers):
            return False
        value = value.item() if isinstance(value, np.generic) else value  # a bound need not fit NumPy's type
        if not abs(value) <= (LARGEST if self._counts else sys.float_info.max):  # NaN is not <= either
            return False
        if self.least is not None and (value < self.least or (self.above and value == self.least)):
            return False
        return self.most is None or not (value > self.most or (self.below and value == self.most))

    @property
    def _counts(self) -> bool:
        return self.whole and self.most is None

    def _expected(self, value: object) -> str:
        """The range in words, with the bound that goes without saying if `value` exceeds it."""
        beyond = self._counts and isinstance(value, (int, np.integer)) and value > LARGEST
        return str(replace(self, most=LARGEST) if beyond else self)

    def check(self, name: str, value: object) -> None:
        """Checks a value.

        Raises:
            InputError: `value` is outside the range; the message gives `name`, what was found and what was expected.
        """
        if not self.holds(value):
            raise InputError(f"{name} is {value!r}, expected {self._expected(value)}")

    def parse(self, text: str) -> int | float:
        """The number that `text` spells, for an argument parser.

        Raises:
            ValueError: it is not a number, or is outside the range; the message says what was expected.
        """
        try:
            value = int(text) if self.whole else float(text)
        except ValueError:
            value = None
        if value is None or not self.holds(value):
            raise ValueError(f"{text!r}, expected {self._expected(value)}")
        return value


COUNT = Range(1, whole=True)
COUNT_OR_NONE = Range(1, whole=True, optional=True)
FROM_ZERO = Range(0, whole=True)
SHARE = Range(0, 1)
PART = Range(0, 1, above=True)
POSITIVE = Range(0, above=True)
NOT_NEGATIVE = Range(0)
SEED = Range(0, 2**63, below=True, whole=True)
STEPS = Range(1, 1000, whole=True)
GUIDANCE_SCALE = Range(-1000, 1000)

# Class of a configuration, or Options for the scripts and the Python API -> field -> range.
RANGES: Mapping[str, Mapping[str, Range]] = {
    "Options": {
        "scale": Range(0, 64, above=True),
        "seed": SEED,
        "steps": Range(1, 1000, whole=True, optional=True),
        "guidance_scale": Range(-1000, 1000, optional=True),
        "guidance_from": Range(0, 1, optional=True),
        "guidance_to": Range(0, 1, optional=True),
        "control_every": COUNT_OR_NONE,
        "strength": Range(0, 1, above=True, optional=True),
        "reference_weight": Range(0, 1, optional=True),
        "fidelity": Range(0, 1, optional=True),
        "tile": COUNT_OR_NONE,
        "process_size": COUNT_OR_NONE,
        "preview_every": COUNT,
    },
    "SamplingConfig": {
        "eta": Range(0, 1, optional=True),
        "num_steps": STEPS,
        "guidance_scale": GUIDANCE_SCALE,
        "guidance_from": SHARE,
        "guidance_to": SHARE,
        "control_every": COUNT,
        "strength": PART,
        "added_noise_level": Range(0, whole=True, optional=True),
    },
    "FirstStageConfig": {"reference_weight": Range(0, 1, optional=True)},
    "CascadeConfig": {
        "fidelity": SHARE,
        "process_size": COUNT,
        "tile": COUNT,
        "tile_overlap": Range(0, 0.5),
        "tiles_at_once": COUNT,
    },
    "OptimizerConfig": {
        "learning_rate": POSITIVE,
        "warmup_steps": FROM_ZERO,
        "b1": Range(0, 1, below=True),
        "b2": Range(0, 1, below=True),
        "weight_decay": NOT_NEGATIVE,
        "max_grad_norm": POSITIVE,
        "ema_decay": Range(0, 1, below=True),
    },
    "LossConfig": {
        "snr_gamma": Range(0, above=True, optional=True),
        "max_timestep": COUNT_OR_NONE,
        "condition_dropout": SHARE,
        "start_fraction": SHARE,
        "start_timestep": COUNT,
        "image_weight": NOT_NEGATIVE,
        "perceptual_weight": NOT_NEGATIVE,
        "rgb_weight": NOT_NEGATIVE,
        "adversarial_weight": NOT_NEGATIVE,
        "kl_weight": NOT_NEGATIVE,
        "latent_noise": NOT_NEGATIVE,
    },
    "ValidationConfig": {"every": FROM_ZERO, "records": COUNT},
    "DataConfig": {
        "held_out": Range(0, 1, below=True),
        "crop_size": Range(1, 8192, whole=True),  # the side of the largest square picture that is read
        "sharp_fraction": SHARE,
        "min_scale": PART,
        "scale": COUNT,
        "num_threads": Range(0, whole=True, optional=True),
        "num_workers": Range(0, whole=True, optional=True),
        "prefetch": COUNT,
        "cache_bytes": Range(0, 2**63, below=True, whole=True),
    },
    "TrainConfig": {
        "batch_size": COUNT,
        "accumulate": COUNT,
        "num_steps": COUNT,
        "seed": SEED,
        "save_every": COUNT,
        "max_lost_steps": COUNT_OR_NONE,
        "log_every": COUNT,
        "keep_checkpoints": COUNT,
        "keep_best": FROM_ZERO,
        "skip_limit": COUNT,
        "preview_every": FROM_ZERO,
        "preview_count": COUNT,
    },
}


def check(config: "DataclassInstance", prefix: str = "") -> None:
    """Check every field of a configuration, including nested configurations.

    Args:
        config: a dataclass whose class, or whose fields' classes, are in `RANGES`.
        prefix: the beginning of its fields' names in messages, like `optimizer.` in `--set optimizer.b1=0.9`.

    Raises:
        InputError: a field is outside its range; the message gives its name, what was found and what was expected.
    """
    ranges = RANGES.get(type(config).__name__, {})
    for field in fields(config):
        value, name = getattr(config, field.name), prefix + field.name
        if field.name in ranges:
            ranges[field.name].check(name, value)
        for key, part in value.items() if isinstance(value, Mapping) else [("", value)]:
            if is_dataclass(part) and not isinstance(part, type):
                check(part, f"{name}.{key}.".replace("..", "."))
