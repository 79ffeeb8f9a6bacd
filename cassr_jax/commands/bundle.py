"""Gather a cascade into one folder that `cassr_jax.load` and `sample.py --config` accept.

    python -m cassr_jax.commands.bundle --config configs/tiny.py --output cassr_jax/assets/tiny --dtype float16

Every network of the configuration is read, cast and written below the output folder, beside a `cassr.json` that names
them by relative paths, and a model card, README.md, made from the run that trained it. LoRAs are added to the networks
that they change. A tokenizer or an RRDBNet on this disk is copied as it is; one from a package or a hub is named. So
the folder can be moved, or uploaded to the hub by `python -m cassr_jax.hub push`.
"""

import argparse
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import get_args

from cassr_jax.choices import DType
from cassr_jax.commands.card import CARD, is_generated, model_card
from cassr_jax.commands.options import local_path
from cassr_jax.commands.running import command
from cassr_jax.config import CascadeConfig
from cassr_jax.config_files import resolve, resolve_loras, to_json
from cassr_jax.errors import InputError
from cassr_jax.files import check_outside, exists, is_file, is_folder, replaced, write_json
from cassr_jax.gathering import gather
from cassr_jax.kinds import KINDS
from cassr_jax.loading import CASCADE_FILE, read_cascade, withdraw
from cassr_jax.locks import claimed
from cassr_jax.models.parameters import select
from cassr_jax.networks import Networks, write_network
from cassr_jax.printing import complain, progress_bar
from cassr_jax.schedules import agreed, write_schedule
from cassr_jax.weights.lora import open_loras
from cassr_jax.weights.rrdbnet import rrdbnet_files
from cassr_jax.weights.tokenizer import tokenizer_files


def bundle(
    config: CascadeConfig,
    base: Path,
    output: Path,
    dtype: str,
    origin: Path | None = None,
    licence: str | None = None,
    report: Path | None = None,
) -> None:
    """Write the networks of `config`, whose relative paths start at `base`, `cassr.json` and a card below `output`.

    Args:
        origin: the folder of the run that trained them, for the card.
        licence: the hub's identifier of the weights' licence, for the card.
        report: the output folder of an evaluation, for the card.
    """
    model_card(origin, output, config, {}, licence, report)  # its sources are checked before anything large is read
    _check_apart(config, base, output)
    given = {kind: resolve(component, base) for kind, component in config.components.items()}
    written = {kind: source for kind, source in given.items() if kind in KINDS and KINDS[kind].bundled}
    sources, loras_here = gather(written, resolve_loras(config.loras, base), str(base))
    loras = open_loras(loras_here)
    components, parameters = dict(config.components), {}
    for kind in progress_bar(config.components, unit="network"):
        if kind not in written:
            components[kind] = _copied(kind, given[kind], output)
            continue
        networks = Networks().with_read(kind, sources[kind], "float32", loras=loras)
        parameters[kind] = sum(value.size for value in networks.params.values())
        withdraw(output, CASCADE_FILE)
        write_network(output / kind, kind, networks.configs[kind], select(networks.params, kind), dtype)
        components[kind] = kind
    if "unet" in config.components:
        write_schedule(output, agreed(config.schedule, sources["unet"], str(base)))
    merged = {Path(lora).name if exists(resolve(lora, base)) else lora: scale for lora, scale in config.loras.items()}
    gathered = replace(config, components=components, loras={}, merged_loras={**config.merged_loras, **merged})
    if is_file(output / CARD) and not is_generated(output / CARD):
        complain(f"{output / CARD}: has been edited and is kept; delete it, and it is written anew", "bundle")
    else:
        with replaced(output / CARD) as file:
            file.write(model_card(origin, output, gathered, parameters, licence, report).encode())
    write_json(output / CASCADE_FILE, to_json(gathered))


def _check_apart(config: CascadeConfig, base: Path, output: Path) -> None:
    """Checks that no part is read where another is written.

    Raises:
        InputError: the output is a source or lies within one, or holds one.
    """
    parts = [resolve(part, base) for part in (*config.components.values(), *config.loras)]
    for part in filter(exists, map(Path, parts)):
        check_outside(output, part, "a part of the cascade", "it is read while the other is written")
        check_outside(part, output, "the output", "it would be overwritten while it is read")


def _copied(kind: str, source: str, output: Path) -> str:
    """The component that a bundle names for a `source` of files that others wrote: a copy if they lie on this disk."""
    files = tokenizer_files(source) if kind == "tokenizer" else rrdbnet_files(source) if kind in KINDS else []
    for file in files:
        try:
            original = file.open("rb")
        except OSError as error:
            raise InputError(f"{file}: cannot be read ({error.strerror or error})") from error
        with original, replaced(output / kind / file.name) as copy:
            shutil.copyfileobj(original, copy)
    if not files:
        return source
    return kind if is_folder(source) else f"{kind}/{files[0].name}"


@command("bundle", tidies=True)
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m cassr_jax.commands.bundle",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--config", required=True, help="the cascade: a Python file that defines `cascade`, or a folder"
    )
    parser.add_argument("--output", required=True, type=local_path, help="the folder to write")
    parser.add_argument(
        "--dtype",
        default="float16",
        choices=get_args(DType),
        help="precision of the weights (default: %(default)s)",
    )
    parser.add_argument("--licence", help="the weights' licence in the card, by the hub's identifier, such as openrail")
    parser.add_argument("--report", type=local_path, help="the output of an evaluation, whose tables the card quotes")
    arguments = parser.parse_args(argv)
    config, base = read_cascade(arguments.config)
    with claimed(arguments.output, "bundle"):
        origin = Path(arguments.config)
        bundle(config, base, arguments.output, arguments.dtype, origin, arguments.licence, arguments.report)
    return 0


if __name__ == "__main__":
    sys.exit(main())
