"""The table of a run's parameters by network, printed once at its start."""

import jax

from cassr_jax.models.parameters import Params
from cassr_jax.sharding.account import bytes_per_device


def parameter_table(trainable: Params, frozen: Params, state: object) -> str:
    """A table of the parameters of every network, and the MiB on each device of these and the training state."""
    rows = [("network", "", "parameters", "MiB per device")]
    for role, params in (("trainable", trainable), ("frozen", frozen)):
        for kind in dict.fromkeys(name.split(".", 1)[0] for name in params):
            own = [value for name, value in params.items() if name.split(".", 1)[0] == kind]
            rows.append((kind, role, f"{sum(p.size for p in own):,}", _mebibytes(own)))
    rows.append(("state", "with optimizer and average", "", _mebibytes(jax.tree.leaves(state))))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    align = (str.ljust, str.ljust, str.rjust, str.rjust)
    lines = ("  ".join(a(cell, w) for a, cell, w in zip(align, row, widths, strict=True)).rstrip() for row in rows)
    return "\n".join(lines)


def _mebibytes(leaves: list[jax.Array]) -> str:
    return f"{bytes_per_device(leaves) / 2**20:.2f}"
