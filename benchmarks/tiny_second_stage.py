#!/usr/bin/env python
"""Train the embedded cascade's second stage on Real-ESRGAN's references, from photographs to weights.

    python benchmarks/tiny_second_stage.py --photos PHOTOS/train PHOTOS/train2 PHOTOS/train3 --choosing PHOTOS/train2 \
        --output runs/second

There are three parts, one after the other, each made of the program's own commands:

1. pairs: crops of 128 px with Real-ESRGAN's reference of each; half of them have a camera's damage, the others that of
   `light` and `realesrgan`,
2. `configs/tiny_fusion.py`: the decoder learns to correct the reference, behind the second stage as it is,
3. `configs/tiny_second.py`: the second stage is trained with that decoder.

Every seventh picture of `--choosing`, by name, is kept apart to choose settings by: OUTPUT/photos/choosing holds links
to these, OUTPUT/photos/training to all others. Run the same command again to continue: finished files of pairs are
kept, and training saves from time to time. The defaults are meant for half an hour on one GPU. A CPU is up to less,
such as `--records 1280 --steps 1000 --batch-size 8 --window 64`; `configs/tiny_fusion.py` says what a step takes.
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from cassr_jax.commands.options import number
from cassr_jax.commands.running import command
from cassr_jax.data.sources import picture_files
from cassr_jax.errors import InputError
from cassr_jax.printing import say
from cassr_jax.ranges import COUNT

ROOT = Path(__file__).resolve().parents[1]
EVERY = 7  # one picture out of so many, by name, is kept apart
SHARES: Mapping[str, float] = {"camera": 0.5, "light": 0.3, "realesrgan": 0.2}
CROP = 128
PAIRS_AT_ONCE = 16


def kept_apart(names: Sequence[str]) -> list[str]:
    """The names of the pictures that settings are chosen by: every seventh one in order, beginning with the first."""
    return sorted(names)[::EVERY]


def divide(photos: Sequence[Path], choosing: Path | None, output: Path) -> None:
    """Link to all pictures below `output`/training or `output`/choosing, in a folder for each of `photos`.

    Raises:
        InputError: a folder is missing or holds no picture, or `choosing` is not one of `photos`.
    """
    if choosing is not None and choosing not in photos:
        raise InputError(f"--choosing is {choosing}, expected one of --photos: {', '.join(map(str, photos))}")
    for index, folder in enumerate(photos):
        names = picture_files(folder)
        apart = {*kept_apart(names)} if folder == choosing else set()
        for name in names:
            link = output / ("choosing" if name in apart else "training") / f"{index}_{folder.name}" / name
            link.parent.mkdir(parents=True, exist_ok=True)
            if not link.is_symlink():
                link.symlink_to((folder / name).resolve())


def commands(output: Path, records: int, steps: int, batch_size: int, window: int) -> dict[str, list[str]]:
    """The commands by their titles, in the order in which they are run; training cuts windows of `window` px."""
    python, pairs, fusion = sys.executable, output / "pairs", output / "fusion"
    made = {}
    for seed, (preset, share) in enumerate(SHARES.items()):
        changes = {
            "data.path": output / "photos" / "training",
            "data.preset": preset,
            "data.crop_size": CROP,
            "data.min_scale": 0.5,
            "seed": seed,
            "batch_size": PAIRS_AT_ONCE,
            "components.rrdbnet": "realesrgan-x4plus",
            "activation": "rrdbnet",
        }
        made[f"pairs, {preset}"] = [
            *(python, "-m", "cassr_jax.commands.references", "--config", str(ROOT / "configs" / "tiny_pairs.py")),
            *("--no-latents", "--color-fix", "wavelet", "--records", str(max(1, round(share * records)))),
            *("--output", str(pairs / preset), *_set(changes)),
        ]
    for title, workdir, changes in (
        ("fusion", fusion, {}),
        ("second", output / "second", {"components.fusion": fusion / "export" / "fusion"}),
    ):
        changes |= {"data.path": pairs, "data.crop_size": window, "batch_size": batch_size, "num_steps": steps}
        config = ROOT / "configs" / f"tiny_{title}.py"
        made[title] = [
            *(python, str(ROOT / "train.py"), "--config", str(config), "--workdir", str(workdir), *_set(changes))
        ]
    return made


def _set(changes: Mapping[str, object]) -> list[str]:
    return ["--set", *(f"{name}={value}" for name, value in changes.items())]


@command("tiny_second_stage")
def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--photos", type=Path, nargs="+", required=True, help="folders of photographs to train on")
    add("--choosing", type=Path, help="the one of these folders of which every seventh picture is kept apart")
    add("--output", type=Path, required=True, help="folder for the links, the pairs and the runs")
    add("--records", type=number(COUNT), default=8192, help="number of pairs (default: %(default)s)")
    add("--steps", type=number(COUNT), default=6000, help="steps of each training (default: %(default)s)")
    add(
        "--batch-size",
        type=number(COUNT),
        default=16,
        help="examples in a step of each training (default: %(default)s)",
    )
    add(
        "--window",
        type=int,
        choices=range(32, CROP + 1, 32),
        default=CROP,
        metavar="PX",
        help="side of the windows that training cuts out of the pairs, at most their %(default)s px (default: all)",
    )
    arguments = parser.parse_args(argv)
    output = arguments.output.resolve()
    divide(arguments.photos, arguments.choosing, output / "photos")
    planned = commands(output, arguments.records, arguments.steps, arguments.batch_size, arguments.window)
    for title, line in planned.items():
        start = time.monotonic()
        say(f"{title}: {' '.join(line)}")
        code = subprocess.run(line, cwd=ROOT, check=False).returncode
        if code:
            raise InputError(f"{title}: ended with exit code {code}, expected 0; see its message above")
        say(f"{title}: {time.monotonic() - start:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
