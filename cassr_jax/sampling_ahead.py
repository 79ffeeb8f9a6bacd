"""Compiles the sampling of a cascade for devices that are not here, from shapes alone.

The engine itself goes through as many pictures as fill the devices, but its programs are compiled and not run. What a
plan says of them is therefore what sample.py does: the same programs, called as often.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from cassr_jax import second_stage
from cassr_jax.cascade import CasSR
from cassr_jax.config import CascadeConfig, DType, SamplingConfig
from cassr_jax.config_files import check_components, resolve
from cassr_jax.diffusion.schedule import Schedule
from cassr_jax.engine.ahead import Ahead, Known
from cassr_jax.engine.programs import TURN
from cassr_jax.errors import InputError
from cassr_jax.first_stage import first_stage
from cassr_jax.fitting import check_fitting
from cassr_jax.kinds import kind_of
from cassr_jax.networks import Networks
from cassr_jax.options import Options
from cassr_jax.prompts import blank_ids
from cassr_jax.ranges import check
from cassr_jax.restoration import Pair, Restoration
from cassr_jax.sampling import GUIDANCE, RENEWAL, make_course
from cassr_jax.sharding.account import Account, bytes_per_device, joined, make_account
from cassr_jax.sharding.chips import CHIPS
from cassr_jax.sharding.compiler import Effort, compiled, compiling
from cassr_jax.sharding.hlo import Unstated
from cassr_jax.sharding.sampled import Part, SamplePlan
from cassr_jax.typing import Device
from cassr_jax.weights.configs import Config

# What the programs of the engine do; the others run once for all pictures of a prompt, and are not compiled.
_NAMES = {
    "hints": "embed the images",
    "encode": "encode",
    "put": "collect what was encoded",
    "begin": "add noise",
    "denoise": "all steps",
    "take": "pick latents",
    "decode": "decode",
    "enlarge": "enlarge",
}
_BEFORE_STEPS = ("hints", "encode", "begin")
_WITHOUT_NETWORK = ("put", "begin", "take")


def plan_sampling(config: CascadeConfig, source: str, base: Path, on: str, effort: Effort = "full") -> SamplePlan:
    """The plan of sampling pictures of one tile each with a cascade, on a TPU slice or on GPUs.

    Networks that are not on this disk are taken to be Stable Diffusion 1.5's.

    Args:
        config: the cascade.
        source: its name, for the plan.
        base: the folder where its relative paths start.
        on: the devices, such as "v5e:2x4", "h200:8", or "cpu:8" for simulated ones.
        effort: see `compiler.compiling`.

    Raises:
        InputError: there are no such devices, a value is out of range, the cascade lacks a network, or the compiler
            crashed.
    """
    check(config)
    return compiling(on, effort, _planned, config, source, base, on)


def _planned(devices: Sequence[Device], config: CascadeConfig, source: str, base: Path, on: str) -> SamplePlan:
    own = [device for device in devices if device.process_index == devices[0].process_index]
    # The schedule's numbers do not affect the cost, and each picture is to be one tile.
    config = replace(config, schedule=config.schedule or Schedule(), process_size=1)
    cascade = _Ahead(config, _networks(config, source, base, own[0].platform), devices=own, programs=Ahead)
    pictures = cascade.go()
    parts = _parts(cascade, on)
    largest = max((part.account for part in parts), key=lambda account: account.total)
    account = joined([(part.calls, part.account) for part in parts], largest.held, largest.temporary)
    return SamplePlan(on, source, len(devices) // len(own), pictures, config.tile, parts, account)


class _Ahead(CasSR):
    """A cascade without weights, whose pictures are zeros."""

    @property
    def programs(self) -> Ahead:
        assert isinstance(self._engine.programs, Ahead), "it was made with them"
        return self._engine.programs

    def go(self) -> int:
        """Sends as many pictures as fill the devices through both stages; returns their number."""
        scale = Options().scale
        side = max(round(self.config.tile / scale), 1)
        pictures = [np.zeros((side, side, 3), np.uint8)] * self._fill
        for outcome in self.restore_many(pictures, scale=scale):
            if isinstance(outcome, Exception):
                raise outcome
        return len(pictures)

    def _references(
        self, pictures: Sequence[np.ndarray], numbers: Sequence[int], chosen: Options
    ) -> list[Pair | Exception]:
        self.programs.stage = "reference"
        return super()._references(pictures, numbers, chosen)

    def _results(self, pairs: Sequence[Pair], numbers: Sequence[int], chosen: Options) -> list[Restoration | Exception]:
        self.programs.stage = "result"
        return super()._results(pairs, numbers, chosen)

    def _text(self, sampling: SamplingConfig) -> jax.Array:
        """The embeddings of blank prompts: the tokenizer need not be here."""
        return self.programs.encode_text(blank_ids(self.networks.configs["text_encoder"], len(sampling.prompts)))


def _networks(config: CascadeConfig, source: str, base: Path, platform: str) -> Networks:
    """The cascade's networks, with shapes in place of parameters."""
    dtype: DType = "float32" if platform == "cpu" else "bfloat16"
    networks = Networks()
    for kind, network in _configurations(config, source, base).items():
        networks = networks.with_shapes(kind, network, dtype)
    check_fitting(networks.configs, _sources(config, base))
    return networks


def described(config: CascadeConfig, source: str, base: Path) -> str:
    """What the cascade's networks are like, which their paths do not say; empty if one cannot be read."""
    try:
        return repr(_configurations(config, source, base))
    except InputError:  # which the plan will say
        return ""


def _sources(config: CascadeConfig, base: Path) -> dict[str, str]:
    return {kind: resolve(component, base) for kind, component in config.components.items()}


def _configurations(config: CascadeConfig, source: str, base: Path) -> dict[str, Config]:
    """The configurations of the cascade's networks, by kind."""
    check_components(config.components, source)
    sources = _sources(config, base)
    second = (*second_stage.networks_of(config.control), config.decoder)
    needed = (*second, *first_stage(config.activation).networks)
    if missing := [kind for kind in needed if kind not in sources]:
        raise InputError(f"{source}: names no {missing[0]} among its components, expected one")
    optional = [kind for kind in second_stage.OPTIONAL if kind in sources]
    return {kind: kind_of(kind).configuration(sources[kind]) for kind in dict.fromkeys((*needed, *optional))}


def _parts(cascade: _Ahead, on: str) -> tuple[Part, ...]:
    """The programs that the pictures went through, compiled."""
    programs, config = cascade.programs, cascade.config
    sampled = {"reference": config.activation_sampling, "result": config.sampling}
    compilations: dict[object, tuple[str, Any]] = {}
    parts = []
    for (stage, key), calls in programs.calls.items():
        known = programs.known[key]
        if known.name not in _NAMES:
            continue
        unstated = None
        if units := programs.units[stage, key]:
            turns = programs.turns[stage, key] / units
            unstated = Unstated(units // calls, {TURN: turns, **_shares(config, sampled[stage])})
        name = _NAMES[known.name]
        if key not in compilations:
            _, text, memory = compiled(
                known.lowered,
                f"{on}: {stage}, {name},",
                "fewer tiles_at_once, a smaller tile, or devices with more memory; each holds all networks",
            )
            compilations[key] = text, memory
        parts.append(Part(stage, name, calls, _account(cascade, stage, known, *compilations[key], on, unstated)))
    return tuple(parts)


def _shares(config: CascadeConfig, sampling: SamplingConfig) -> Mapping[str, float]:
    """The share of the steps that are guided, and of those in which the ControlNet runs."""
    course, count = make_course(config.known_schedule, sampling), sampling.num_steps
    renewed = jax.vmap(course.renews_control)(jnp.arange(count))
    return {GUIDANCE: len(sampling.guided_steps) / count, RENEWAL: float(renewed.mean())}


def _account(
    cascade: _Ahead, stage: str, known: Known, text: str, memory: Any, on: str, unstated: Unstated | None
) -> Account:
    """The account of one call of a program, with all that a device holds during it."""
    programs = cascade.programs
    account = make_account(text, memory, {}, programs.mesh, CHIPS.get(on.partition(":")[0]), unstated)
    arguments = known.arguments if known.name in _WITHOUT_NETWORK else known.arguments[1:]
    beside = 0
    if known.name in _BEFORE_STEPS:  # what the encoders have made so far
        beside = max((_held(each.arguments[0]) for each in _of_stage(programs, stage, "put")), default=0)
    elif known.name == "decode":  # the latents of the whole wave
        beside = max(_held(each.arguments[0]) for each in _of_stage(programs, stage, "take"))
    params = sum(x.size * x.dtype.itemsize for x in programs.networks.params.values())
    held = {"parameters": params, "tiles": _held(arguments) + beside}
    temporary = account.temporary + memory.output_size_in_bytes - memory.alias_size_in_bytes
    return replace(account, held=held, temporary=temporary, total=sum(held.values()) + temporary)


def _of_stage(programs: Ahead, stage: str, name: str) -> list[Known]:
    return [programs.known[key] for own, key in programs.calls if own == stage and programs.known[key].name == name]


def _held(tree: PyTree[jax.ShapeDtypeStruct]) -> int:
    return bytes_per_device(jax.tree.leaves(tree))
