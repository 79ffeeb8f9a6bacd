#!/usr/bin/env python
"""Writes layout.txt: where the parameters and the values of a narrow second stage lie on eight devices.

    python -m tests.golden.make_layout

A change of the file shows what a change of the program moved. Look at it before you commit it.
"""

import os
import sys
import tempfile
from pathlib import Path

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"

from dataclasses import replace

from cassr_jax.sharding.placement import Placement
from cassr_jax.sharding.report import layout_table
from cassr_jax.sharding.strategies import STRATEGIES
from cassr_jax.training.compile_ahead import layout_of
from tests.training.runs import configure, write_networks

PATH = Path(__file__).with_name("layout.txt")
LISTED = ("fsdp", "spatial", "fsdp_tp")


def layouts(networks: Path) -> str:
    found = []
    for name in LISTED:
        config = replace(configure("cassr", networks, strategy=STRATEGIES[name]), batch_size=8)
        found.append(f"{name}\n\n{layout_table(layout_of(config, Placement.of(config.strategy)))}\n")
    return "\n".join(found)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        PATH.write_text(layouts(write_networks(Path(folder) / "networks")))
    sys.exit()
