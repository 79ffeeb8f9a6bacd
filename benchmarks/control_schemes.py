#!/usr/bin/env python
"""Compare the control schemes on equal terms: train each under the same settings, and measure all on the same pictures.

    python benchmarks/control_schemes.py --lr TEST/lr --hr TEST/hr --output runs/schemes

trains `configs/sd15_cassr.py`, `configs/sd15_residuals.py` and `configs/sd15_pasd.py`, restores the pictures of --lr by
each, and prints one table with standard errors (OUTPUT/measures). Changes after --set hold for all of them. Run the
same command again to continue: training goes on from its last checkpoint, and restored pictures are kept.
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from cassr_jax.commands.options import add_options
from cassr_jax.commands.running import command
from cassr_jax.errors import InputError
from cassr_jax.printing import say

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = [ROOT / "configs" / f"sd15_{name}.py" for name in ("cassr", "residuals", "pasd")]


def commands(
    configs: Sequence[Path], lr: Path, hr: Path, output: Path, scale: float, changes: Sequence[str]
) -> dict[str, list[str]]:
    """The commands by their titles, in the order in which they are run."""
    python, made = sys.executable, {}
    for config in configs:
        run, pictures = output / config.stem, output / f"{config.stem}_pictures"
        train = [python, str(ROOT / "train.py"), "--config", str(config), "--workdir", str(run)]
        made[f"{config.stem}, training"] = [*train, *(("--set", *changes) if changes else ())]
        sample = [python, str(ROOT / "sample.py"), str(lr), "--config", str(run), "--output", str(pictures)]
        made[f"{config.stem}, pictures"] = [*sample, "--scale", str(scale), "--resume"]
    results = [f"{config.stem}={output / f'{config.stem}_pictures'}" for config in configs]
    made["measures"] = [
        *(python, "-m", "cassr_jax.evaluation", "--hr", str(hr), "--output", str(output / "measures")),
        *(part for result in results for part in ("--results", result)),
        *("--against", configs[0].stem),
    ]
    return made


@command("control_schemes")
def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--lr", type=Path, required=True, help="folder of low-resolution test pictures")
    add("--hr", type=Path, required=True, help="folder of the true pictures, under the same names")
    add("--output", type=Path, required=True, help="folder for the runs, their pictures and the measures")
    add("--configs", type=Path, nargs="+", default=CONFIGS, help="the training configurations (default: the three)")
    add_options(parser, "scale", "set")
    arguments = parser.parse_args(argv)
    if len({config.stem for config in arguments.configs}) < len(arguments.configs):
        raise InputError("--configs: two files have the same name, expected different ones: runs are named by them")
    where = arguments.lr, arguments.hr, arguments.output.resolve()
    for title, line in commands(arguments.configs, *where, arguments.scale, arguments.set).items():
        start = time.monotonic()
        say(f"{title}: {' '.join(line)}")
        code = subprocess.run(line, check=False).returncode
        if code:
            raise InputError(f"{title}: ended with exit code {code}, expected 0; see its message above")
        say(f"{title}: {time.monotonic() - start:.0f} s")
    say((where[2] / "measures" / "table.md").read_text("utf-8"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
