"""Show and convert weights: folders of diffusers, single files, cascades and training runs.

    python -m cassr_jax.weights show models/stable-diffusion-v1-5
    python -m cassr_jax.weights convert model.safetensors models/model
    python -m cassr_jax.weights convert models/model model.safetensors --layout original --dtype float16
    python -m cassr_jax.weights convert runs/sd15_cassr controlnet.safetensors --layout original --kind controlnet

`show` lists the networks of a source with their configs, types and sizes, what comes with them, and what is ignored.
`convert` writes them anew. Nothing is read before the names and shapes of all tensors have been checked.
"""

import argparse
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import get_args

from cassr_jax.choices import DType, Layout
from cassr_jax.commands.options import local_path, number
from cassr_jax.commands.running import command
from cassr_jax.conversion import convert, nbytes
from cassr_jax.inventory import Inventory, take_inventory
from cassr_jax.kinds import KINDS
from cassr_jax.printing import say
from cassr_jax.ranges import FROM_ZERO
from cassr_jax.weights.published import Published
from cassr_jax.weights.tensors import Weights

_CONVERT = """Write the networks of a source in another form.

A run's working folder gives the networks that it has trained, from its newest checkpoint; the frozen ones are not
needed. With --layout diffusers, the output is a folder that holds one folder for each network, and the source's
scheduler and tokenizer. With --layout orbax, these folders hold an Orbax state in place of a safetensors file, with the
names and axes of this program's parameters. With --layout original, the output is one safetensors file in the names of
the original programs (model.diffusion_model.*, first_stage_model.*, cond_stage_model.transformer.*, control_model.*),
and holds the networks' configs in its metadata. Without --dtype, every bit is kept.

    python -m cassr_jax.weights convert model.safetensors models/model
    python -m cassr_jax.weights convert models/model half.safetensors --layout original --dtype float16
    python -m cassr_jax.weights convert stable-diffusion-v1-5/stable-diffusion-v1-5 models/vae --kind vae
    python -m cassr_jax.weights convert runs/sd15_cassr models/step_50000 --step 50000 --last
"""


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    style = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="python -m cassr_jax.weights", description=__doc__, formatter_class=style)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, description in (("show", "List the networks of a source."), ("convert", _CONVERT)):
        add = commands.add_parser(name, help=description.split("\n")[0], description=description, formatter_class=style)
        add.add_argument("source", metavar="SRC", help="a folder, a single file, a run's folder, or a hub id")
        if name == "convert":
            add.add_argument("output", metavar="DST", type=local_path, help="the folder or the file to write")
        add.add_argument(
            "--kind", nargs="+", default=[], choices=[*KINDS], metavar="KIND",
            help=f"only these networks, all by default: {', '.join(KINDS)}",
        )  # fmt: skip
        add.add_argument("--step", type=number(FROM_ZERO), help="of a run, this checkpoint, by default the newest")
        add.add_argument("--last", action="store_true", help="of a run, the last weights, not their average")
        if name == "convert":
            add.add_argument("--layout", choices=get_args(Layout), default="diffusers", help="by default %(default)s")
            add.add_argument(
                "--dtype", choices=get_args(DType), help="the type of the weights, by default each tensor's own"
            )
            add.add_argument("--overwrite", action="store_true", help="replace what is at DST")
    return parser.parse_args(argv)


@command("weights", tidies=True)
def main(argv: Sequence[str] | None = None) -> int:
    arguments = parse(argv)
    found = take_inventory(arguments.source, arguments.kind, arguments.step, arguments.last)
    if arguments.command == "show":
        say("\n".join(described(found, arguments.source)))
        return 0
    convert(found, arguments.source, arguments.output, arguments.layout, arguments.dtype, arguments.overwrite)
    say(f"{arguments.output}: {', '.join(found.networks)}")
    return 0


def described(found: Inventory, source: str) -> Iterator[str]:
    """The lines of a report on what `source` holds."""
    yield f"{source}: {found.what}"
    for kind, weights in found.networks.items():
        count = sum(math.prod(shape.shape) for shape in weights.shapes.values())
        types = ", ".join(sorted({str(dtype) for dtype in weights.dtypes.values()}))
        yield f"  {kind}: {count:,} parameters, {types}, {nbytes(weights) / 1e6:,.1f} MB, {weights.path}"
        yield f"    {_config(kind, weights)}"
    for kind, reason in found.refused.items():
        yield f"  {kind}: cannot be used: {reason.splitlines()[0]}"
    if found.tokenizer:
        yield f"  tokenizer: {', '.join(file.name for file in found.tokenizer)}"
    if found.scheduler is not None:
        fields, where = found.scheduler
        yield f"  scheduler: {fields.get('prediction_type', 'epsilon')}, {where}"
    if found.ignored:
        yield f"  ignored: {', '.join(found.ignored)}"


def _config(kind: str, weights: Weights) -> str:
    files = KINDS[kind].files
    if isinstance(files, Published) and weights.config == files.sd15:
        return "config: Stable Diffusion 1.5's"
    return "config: " + ", ".join(f"{name} {value}" for name, value in _flat(asdict(weights.config)))


def _flat(fields: Mapping[str, object]) -> Iterator[tuple[str, object]]:
    """The fields, those of a config within a config after its name."""
    for name, value in fields.items():
        if isinstance(value, Mapping):
            yield from ((f"{name}.{inner}", deep) for inner, deep in _flat(value))
        else:
            yield name, list(value) if isinstance(value, tuple) else value


if __name__ == "__main__":
    sys.exit(main())
