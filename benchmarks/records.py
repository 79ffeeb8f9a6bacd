#!/usr/bin/env python
"""Measure how many training records are made per second on one core, from pictures or from prepared records.

    python benchmarks/records.py --path DATA

Pictures are read, cropped and degraded, prepared records are only read, by one thread. Only the process's own CPU time
counts. The cache is off, as if the set were far larger.
"""

import argparse
import time
from dataclasses import replace
from pathlib import Path

import cv2

from cassr_jax.data.config import DataConfig
from cassr_jax.data.pipeline import open_records
from cassr_jax.data.prepared import record_files
from cassr_jax.data.presets import PRESETS
from cassr_jax.evaluation.statistics import mean


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--path", required=True, help="a set, as in `data.path`")
    parser.add_argument(
        "--preset", choices=PRESETS, default="realesrgan", help="damage of pictures (default: %(default)s)"
    )
    parser.add_argument("--records", type=int, default=50, help="number of records to make (default: %(default)s)")
    args = parser.parse_args()
    cv2.setNumThreads(1)
    config = DataConfig(args.path, cache_bytes=0)
    if not record_files(Path(args.path)):
        config = replace(config, preset=args.preset)
    records = open_records(config)(0)
    records[0]
    seconds = []
    for index in range(1, args.records + 1):
        begun = time.process_time()
        records[index]
        seconds.append(time.process_time() - begun)
    taken = mean(seconds)
    print(f"{1 / taken.value:.1f} records/s  ({1000 * taken.value:.1f} +- {1000 * taken.error:.1f} ms per record)")


if __name__ == "__main__":
    main()
