"""The guard that ends a run whose numbers are no longer finite."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from cassr_jax.errors import InputError
from cassr_jax.files import replaced
from cassr_jax.models.parameters import Params
from cassr_jax.sharding.placement import gathered
from cassr_jax.typing import HostExamples


class Guard:
    """Stops a run after `limit` skipped updates in a row, and writes a dump for the diagnosis into `folder`."""

    def __init__(self, limit: int, folder: Path):
        self.limit = limit
        self.folder = folder
        self.in_a_row = 0

    @property
    def next_may_end(self) -> bool:
        """Whether one more skipped update ends the run; the dump then needs parameters that still exist."""
        return self.in_a_row + 1 >= self.limit

    def check(self, step: int, batch: HostExamples, metrics: Mapping[str, float], params: Params) -> None:
        """Take note of a step; every process must call this.

        Args:
            step: the step's number.
            batch: this process's part of the step's batch.
            metrics: the step's metrics.
            params: the parameters after the step, which a skipped update leaves unchanged.

        Raises:
            InputError: too many updates in a row were skipped; the message names the step, the records and the dump.
        """
        self.in_a_row = self.in_a_row + 1 if metrics["skipped"] else 0
        if self.in_a_row < self.limit:
            return
        kept = self._dump(step, batch, metrics, params)
        records = np.asarray(batch["record"]).tolist() if "record" in batch else "drawn on the device"
        raise InputError(
            f"step {step}: the loss, its gradient or the update was not finite {self.in_a_row} times in a row; "
            f"records {records}; {kept}"
        )

    def _dump(self, step: int, batch: HostExamples, metrics: Mapping[str, float], params: Params) -> str:
        """Writes a file for each process with its part of the batch; the first process adds the parameters.

        Returns:
            What is in which file, or why there is none: the end of a sentence.
        """
        whole = gathered(params)
        arrays: dict[str, Any] = {f"batch/{name}": np.asarray(value) for name, value in batch.items()}
        held = ["batch"] * bool(batch) + ["metrics"]
        if jax.process_index() == 0:
            held.append("parameters")
            arrays |= {f"params/{name}": np.asarray(value) for name, value in whole.items()}
        arrays["metrics"] = np.array(json.dumps({name: float(value) for name, value in metrics.items()}))
        file = self.folder / f"step_{step}_process_{jax.process_index()}.npz"
        try:
            with replaced(file) as stream:
                np.savez(stream, **arrays)
        except InputError as error:
            return f"nothing is kept for the diagnosis: {error}"
        return f"{', '.join(held)} are in {file}"
