"""What happens to a run whose numbers stop being finite."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from cassr_jax.errors import InputError
from cassr_jax.models.parameters import Params


class Guard:
    """Stops a run after `limit` skipped updates in a row, and leaves what is needed to see why in `folder`."""

    def __init__(self, limit: int, folder: Path):
        self.limit = limit
        self.folder = folder
        self.in_a_row = 0

    def check(self, step: int, batch: Mapping[str, Any], metrics: Mapping[str, float], params: Params) -> None:
        """
        Args:
            step: that the metrics are of.
            batch: it was made on.
            params: which it left as they were.

        Raises:
            InputError: too many updates in a row were skipped; names the step, the records and the dump.
        """
        self.in_a_row = self.in_a_row + 1 if metrics["skipped"] else 0
        if self.in_a_row < self.limit:
            return
        file = self._dump(step, batch, metrics, params)
        records = np.asarray(batch["record"]).tolist() if "record" in batch else "drawn on the device"
        raise InputError(
            f"step {step}: the loss or its gradient was not finite {self.in_a_row} times in a row; "
            f"records {records}; batch, metrics and parameters are in {file}"
        )

    def _dump(self, step: int, batch: Mapping[str, Any], metrics: Mapping[str, float], params: Params) -> Path:
        self.folder.mkdir(parents=True, exist_ok=True)
        file = self.folder / f"step_{step}_process_{jax.process_index()}.npz"
        arrays: dict[str, Any] = {f"batch/{name}": np.asarray(value) for name, value in batch.items()}
        arrays |= {f"params/{name}": np.asarray(value) for name, value in params.items() if value.is_fully_addressable}
        np.savez(file, metrics=np.array(json.dumps({name: float(value) for name, value in metrics.items()})), **arrays)
        return file
