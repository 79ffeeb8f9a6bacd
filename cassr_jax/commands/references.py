"""Make training pairs in advance: crops, their degraded versions, the latents of the targets, and references.

    python -m cassr_jax.commands.references --config configs/tiny_pairs.py --records 6000 --output runs/pairs

The data and the networks are those of a training configuration. `--activation` names the first stage that makes the
references; by default it is the configuration's `activation`. If that is None, the records have no references, and what
would only concern these is refused. If the components include a vae, the mean and the standard deviation of the
target's latents are stored too, unless --no-latents is given. If the data are prepared records already, each record is
completed, in the same order. Run the same command again to continue a run that was stopped; a folder that was made with
other settings is refused.
"""

import argparse
import sys
from typing import Any

from cassr_jax.commands.options import add_options, local_path, number
from cassr_jax.commands.running import command
from cassr_jax.commands.shard import Shard
from cassr_jax.compiled import keep_compiled_functions
from cassr_jax.config import SamplingConfig, TrainConfig
from cassr_jax.config_files import read_config
from cassr_jax.errors import InputError
from cassr_jax.first_stage import all_first_stages, first_stage
from cassr_jax.first_stage.interface import FirstStage
from cassr_jax.kinds import kind_of
from cassr_jax.printing import complain
from cassr_jax.prompts import usual_negative_prompt
from cassr_jax.ranges import COUNT, check
from cassr_jax.training.references import Recipe, prepare

# A fifth of the usual steps, and no guidance, because guidance doubles the work.
SAMPLED: dict[str, Any] = {"sampler": "dpmpp_2m", "steps": 10, "guidance_scale": 1.0, "strength": 1.0}


def _negative_prompt(config: TrainConfig) -> str:
    usual, source = SamplingConfig.negative_prompt, config.components.get("text_encoder")
    return usual if source is None else usual_negative_prompt(kind_of("text_encoder").configuration(source), usual)


def check_used(arguments: argparse.Namespace, first: FirstStage | None) -> None:
    """Checks that the first stage has a use for everything that the command line says about references.

    Raises:
        InputError: it does not sample, needs no such network, or there is none.
    """
    options = [name for name in SAMPLED if first is None or not first.diffuses]
    options += ["color_fix"] if first is None else []
    unused = [f"--{name.replace('_', '-')}" for name in options if getattr(arguments, name) is not None]
    networks = {f"components.{kind}": kind for stage in all_first_stages() for kind in stage.networks}
    changed = [change.partition("=")[0] for change in arguments.set]
    needed = () if first is None else first.networks
    unused += [field for field in changed if field in networks and networks[field] not in needed]
    if unused:
        reason = "no first stage is chosen" if first is None else f"the first stage {first.name} does not use it"
        raise InputError(
            f"{unused[0]} is given, but {reason}; expected --activation with a first stage that uses it, "
            f"or no {unused[0]}"
        )


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m cassr_jax.commands.references",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--config", required=True, type=local_path, help="a training configuration, whose data and components are used")
    add("--records", required=True, type=number(COUNT), help="number of records to make")
    add(
        "--output",
        required=True,
        type=local_path,
        help="folder for the *.array_record files, neither within the data nor around them",
    )
    add(
        "--shard",
        type=Shard.parse,
        default=Shard(),
        metavar="I/N",
        help="write part I of N of the files; N machines that share the output folder each write one part",
    )
    add("--no-latents", action="store_true", help="store no latents; training then encodes the targets in every step")
    add_options(parser, "set")
    references = parser.add_argument_group(
        "references", "By default, the configuration's first stage and its colour fix."
    )
    add_options(references, "activation", "color_fix")
    sampling = parser.add_argument_group("sampling", "How the first stage samples, if it is a diffusion model.")
    add_options(sampling, *SAMPLED, shown=SAMPLED)
    return parser.parse_args(argv)


@command("references", interrupted="interrupted; the same command continues")
def main(argv: list[str] | None = None) -> int:
    arguments = parse(argv)
    keep_compiled_functions()

    config = read_config(arguments.config, arguments.set)
    check(config)
    name = arguments.activation or config.activation
    first = None if name is None else first_stage(name)
    check_used(arguments, first)
    if first is None:
        complain("no first stage is chosen, so the records get no references")
    given = {name: value for name in SAMPLED if (value := getattr(arguments, name)) is not None}
    sampling = SAMPLED | given
    recipe = Recipe(
        first_stage=first,
        sampling=SamplingConfig(
            sampler=sampling["sampler"],
            num_steps=sampling["steps"],
            guidance_scale=sampling["guidance_scale"],
            strength=sampling["strength"],
            prompt=config.prompt,
            negative_prompt=_negative_prompt(config),
        ),
        color_fix=arguments.color_fix or ("none" if first is None else first.color_fix),
        latents="vae" in config.components and not arguments.no_latents,
    )
    prepare(config, recipe, arguments.records, arguments.output, (arguments.shard.index, arguments.shard.count))
    return 0


if __name__ == "__main__":
    sys.exit(main())
