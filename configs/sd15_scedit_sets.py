"""SCEdit's tuners on the paper's five sets, each built by `python -m cassr_jax.commands.build` (docs/data.md).

The paper names the sets and no shares. The weights are the sets' numbers of pictures, so that a picture of one set is
seen as often as one of another, as if all lay in one folder.
"""

import runpy
from dataclasses import replace
from pathlib import Path

scedit = runpy.run_path(str(Path(__file__).with_name("sd15_scedit.py")))["config"]

config = replace(
    scedit,
    data=replace(
        scedit.data,
        path="",
        mixture={
            "data/div2k": 800,
            "data/div8k": 1500,
            "data/flickr2k": 2650,
            "data/ost": 10324,
            "data/ffhq": 10000,
        },
        num_workers=8,
        cache_bytes=0,  # far more pictures than memory
    ),
)
