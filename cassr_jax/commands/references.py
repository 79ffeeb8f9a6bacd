"""Make training pairs once: crops, their degraded versions, the targets' latents, and stage 1's references.

    python -m cassr_jax.commands.references --config configs/tiny_scedit.py --records 6000 --output runs/pairs

takes the data and the networks of a training configuration. Where these include a vae, the mean and the deviation of
the target's latents are stored with each record, unless --no-latents; where they include a trained `scedit`, or an
`rrdbnet`, the image that it restores, rounded to 8 bit as it will be at inference. Each device of this machine has its
share of every batch. Data that are prepared records already are completed, in their order. The same command again goes
on where it stopped: files are complete or not there. It is refused where other settings made what is there.
"""

import argparse
import json
import math
import sys
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from tqdm import tqdm

from cassr_jax.config import SamplingConfig, TrainConfig
from cassr_jax.config_files import override, read_config, to_json
from cassr_jax.data.degradation import PRESETS
from cassr_jax.data.pipeline import Batch, batches, open_records
from cassr_jax.data.prepared import SUFFIX, PreparedSource, count_records, record_files, write_records
from cassr_jax.errors import InputError
from cassr_jax.files import write_json
from cassr_jax.imaging import io, tiling
from cassr_jax.imaging.color import COLOR_FIXES
from cassr_jax.imaging.pixels import to_float, to_uint8
from cassr_jax.models.denoisers import SCEditDenoiser
from cassr_jax.models.parameters import Params
from cassr_jax.networks import Networks, merge_all
from cassr_jax.prompts import prompt_ids
from cassr_jax.sampling import Canvas, make_method, make_trajectory, run
from cassr_jax.seeds import seed_key

RECORDS_PER_FILE = 512
MADE_WITH = "made_with.json"  # the settings that OUTPUT's records come from
_KEPT = ("record", "lr", "hr")
_SPEED = {"num_threads", "num_workers", "prefetch", "cache_bytes", "resident"}  # of DataConfig: no record depends on it

Make = Callable[[Mapping[str, Any], Mapping[str, jax.Array]], dict[str, jax.Array]]


def make_maker(
    networks: Networks, config: TrainConfig, sampling: SamplingConfig, color_fix: str, *, latents: bool
) -> Make | None:
    """What completes a batch: modules, uint8 `lr`, `hr` and `lq`, and `noise` -> `latents` and `latents_std`, scaled,
    and `reference` in [-1, 1].

    None where the networks complete nothing.

    Raises:
        InputError: a network of the first stage is missing.
    """
    latents = latents and "vae" in networks.configs
    if "rrdbnet" not in networks.configs and "scedit" not in networks.configs and not latents:
        return None
    restore = make_references(networks, config, sampling, color_fix) if "scedit" in networks.configs else None

    def make(modules: Mapping[str, Any], batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        made = {}
        if latents:
            mean, logvar = modules["vae"].moments(to_float(batch["hr"]))
            both = {"latents": mean, "latents_std": jnp.exp(0.5 * logvar)}
            scale = modules["vae"].config.scaling_factor
            made |= {name: (value * scale).astype(jnp.float16) for name, value in both.items()}
        if "rrdbnet" in modules:
            raw = jnp.clip(modules["rrdbnet"](batch["lr"] / 255.0) * 2 - 1, -1, 1)
            made["reference"] = COLOR_FIXES[color_fix](raw, to_float(batch["lq"]))
        elif restore is not None:
            made["reference"] = restore(modules, to_float(batch["lq"]), batch["noise"])
        return made

    return make


def make_references(
    networks: Networks, config: TrainConfig, sampling: SamplingConfig, color_fix: str
) -> Callable[[Mapping[str, Any], jax.Array, jax.Array], jax.Array]:
    """Modules, lq images (B, S, S, 3) in [-1, 1], noise (B, s, s, C) -> restored images, of lq's shape and range."""
    needed = ("vae", "unet", "text_encoder")
    if missing := [kind for kind in needed if kind not in networks.configs]:
        raise InputError(f"the components lack {', '.join(missing)}, expected {', '.join(needed)}")
    factor = networks.configs["vae"].factor
    trajectory, method = make_trajectory(config.schedule, sampling), make_method(sampling)
    prompts = (sampling.negative_prompt, sampling.prompt)
    ids = prompt_ids(networks.configs["text_encoder"], config.components.get("tokenizer"), prompts, sampling.prompt)

    def restore(modules: Mapping[str, Any], lq: jax.Array, noise: jax.Array) -> jax.Array:
        batch, side = noise.shape[:2]
        canvas = Canvas(tiling.grid(side, side, side, 0), factor, batch)
        denoiser = SCEditDenoiser(modules["unet"], modules["scedit"])
        scale = jnp.float32(sampling.guidance_scale)
        text = modules["text_encoder"](ids)
        start = None if sampling.start == "noise" else lq
        images = run(modules["vae"], denoiser, text, (lq,), start, noise, trajectory, scale, canvas, method)
        return COLOR_FIXES[color_fix](images, lq)

    return restore


def mesh_for(batch_size: int) -> Mesh:
    """This machine's devices, of which as many are used as divide the batch, as axis `data`."""
    devices = jax.local_devices()
    used = max(count for count in range(1, len(devices) + 1) if batch_size % count == 0)
    if used < len(devices):
        print(f"batch_size {batch_size} uses {used} of {len(devices)} devices", file=sys.stderr)
    return Mesh(np.array(devices[:used]), ("data",))


def over(mesh: Mesh, networks: Networks, make: Make) -> Callable[[Params, Mapping[str, Any]], dict[str, jax.Array]]:
    """`make` jitted, given parameters: every device makes its share of the batch, and no other one's."""
    share = PartitionSpec("data")
    return jax.jit(
        jax.shard_map(
            lambda params, batch: make(merge_all(networks.graphdefs, params), batch),
            mesh=mesh,
            in_specs=(PartitionSpec(), share),
            out_specs=share,
            check_vma=False,  # what the sampler's loop carries starts as a constant and ends as a share
        )
    )


def prepare(
    config: TrainConfig, sampling: SamplingConfig, color_fix: str, records: int, output: Path, *, latents: bool = True
) -> None:
    """Write `records` records below `output`; of prepared ones at most all.

    Raises:
        InputError: the configuration degrades nothing, or lacks a network; its prepared records hold no pairs; `output`
            holds records that other settings made.
    """
    size, seed_of_noise = config.batch_size, seed_key(config.seed)
    prepared = _open_prepared(config, output)
    if prepared is not None:
        records = min(records, len(prepared))
    elif config.data.preset is None:
        raise InputError(f"data.preset is null, expected one of {', '.join(PRESETS)}: pairs are degraded pictures")
    networks = Networks()
    for kind in ("vae", "unet", "text_encoder", "scedit", "rrdbnet"):
        if kind in config.components:
            networks = networks.with_read(kind, config.components[kind], config.dtype)
    make = make_maker(networks, config, sampling, color_fix, latents=latents)
    mesh = mesh_for(size)
    make_share = over(mesh, networks, make) if make is not None else None
    params = jax.device_put(networks.params, NamedSharding(mesh, PartitionSpec()))

    def complete(batch: Batch, number: int) -> dict[str, np.ndarray]:
        made = {name: batch[name] for name in _KEPT}
        if make_share is None:
            return made
        given = {name: batch[name] for name in ("lr", "hr")}
        side = batch["hr"].shape[1]
        if networks.configs.keys() & {"scedit", "rrdbnet"}:
            given["lq"] = np.stack([io.bicubic(lr, (side, side)) for lr in batch["lr"]])
        if "scedit" in networks.configs:
            vae = networks.configs["vae"]
            shape = (size, side // vae.factor, side // vae.factor, vae.latent_channels)
            given["noise"] = jax.random.normal(jax.random.fold_in(seed_of_noise, number), shape, jnp.float32)
        given = jax.device_put(given, NamedSharding(mesh, PartitionSpec("data")))
        found = jax.device_get(make_share(params, given))
        if "reference" in found:
            found["reference"] = to_uint8(found["reference"])
        return made | found

    streams = None if prepared is not None else open_records(config.data)
    _check_made_with(output / MADE_WITH, config, sampling, color_fix, latents=latents)
    per_file = math.ceil(RECORDS_PER_FILE / size)
    for index in tqdm(range(math.ceil(records / size / per_file)), unit="file"):
        path, first = output / f"{index:05d}{SUFFIX}", index * per_file
        count = min(per_file * size, records - first * size)
        # Fewer records than now asked for: it was the last file of a smaller set.
        if path.exists() and count_records(path) >= count:
            continue
        # Every file has a stream of its own, so that making it needs none of the files before.
        numbers = range(first, first + math.ceil(count / size))
        if prepared is not None:
            stream = (_batched(prepared, number, size) for number in numbers)
        else:
            seed = config.seed * 1_000_003 + first
            stream = batches(config.data, batch_size=size, seed=seed, records=streams)
        made = (complete(batch, number) for number, batch in zip(numbers, stream, strict=False))
        write_records(path, islice(_unbatched(made), count))
        stream.close()


def _open_prepared(config: TrainConfig, output: Path) -> PreparedSource | None:
    """The records that are to be completed; None where the data are pictures."""
    paths = [path for path in config.data.weights() if record_files(Path(path))]
    if not paths:
        return None
    if config.data.mixture:
        raise InputError(f"data.mixture: {paths[0]} holds prepared records, which are completed one set at a time")
    if output.resolve() == Path(config.data.path).resolve():
        raise InputError(f"--output is data.path, {output}, expected another folder than that of the records it reads")
    source = PreparedSource(config.data.path)
    if missing := [name for name in _KEPT if name not in source[0]]:
        raise InputError(
            f"{config.data.path}: the records hold {', '.join(source[0])} and no {', '.join(missing)}, "
            f"expected {', '.join(_KEPT)}"
        )
    return source


def _batched(source: PreparedSource, number: int, size: int) -> Batch:
    """Batch `number` of the records, the last one filled up with its last record."""
    chosen = [source[min(index, len(source) - 1)] for index in range(number * size, (number + 1) * size)]
    if len(shapes := {record["hr"].shape for record in chosen}) > 1:
        raise InputError(f"{source.files[0].parent}: holds hr of {', '.join(map(str, shapes))}, expected one size")
    return {name: np.stack([record[name] for record in chosen]) for name in _KEPT}


def _unbatched(batches_made: Iterator[dict[str, np.ndarray]]) -> Iterator[dict[str, np.ndarray]]:
    for batch in batches_made:
        for i in range(len(batch["record"])):
            yield {name: value[i] for name, value in batch.items()}


def _check_made_with(
    file: Path, config: TrainConfig, sampling: SamplingConfig, color_fix: str, *, latents: bool
) -> None:
    """Write what the records are made with, or refuse to go on with what was made with something else."""
    data = {name: value for name, value in to_json(config.data).items() if name not in _SPEED}
    names = ("components", "schedule", "batch_size", "seed", "dtype")
    settings = {"data": data, **{name: to_json(config)[name] for name in names}}
    settings |= {"sampling": to_json(sampling), "color_fix": color_fix, "latents": latents}
    if not file.is_file():
        write_json(file, settings)
        return
    before, now = (_flat(found) for found in (json.loads(file.read_text("utf-8")), settings))
    for name in {**before, **now}:
        if before.get(name) != now.get(name):
            raise InputError(
                f"{file}: made with {name} {before.get(name)!r}, expected it again and not {now.get(name)!r}, "
                "or another --output"
            )


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found = {}
    for name, value in settings.items():
        found |= _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {prefix + name: value}
    return found


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m cassr_jax.commands.references",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", required=True, type=Path, help="a training configuration: its data and components")
    parser.add_argument("--records", required=True, type=int, help="how many records to make")
    parser.add_argument("--output", required=True, type=Path, help="folder for the *.array_record files")
    parser.add_argument("--sampler", default="dpmpp_2m", help="of the references (default %(default)s)")
    parser.add_argument("--sampling-steps", type=int, default=10, help="of the references (default %(default)s)")
    parser.add_argument("--guidance", type=float, default=1.0, help="of the references (default %(default)s: none)")
    parser.add_argument("--strength", type=float, default=1.0, help="of their start from the LR image (default: full)")
    parser.add_argument(
        "--color-fix", choices=COLOR_FIXES, help="of the references (default: wavelet; an RRDBNet's: none)"
    )
    parser.add_argument(
        "--no-latents",
        action="store_true",
        help="store no latents: training encodes the targets in every step",
    )
    parser.add_argument("--set", nargs="+", default=[], metavar="FIELD=VALUE", help="changes to the configuration")
    arguments = parser.parse_args(argv)
    try:
        config = override(read_config(arguments.config), arguments.set)
        sampling = SamplingConfig(
            sampler=arguments.sampler,
            num_steps=arguments.sampling_steps,
            guidance_scale=arguments.guidance,
            strength=arguments.strength,
        )
        if arguments.records < 1:
            raise InputError(f"--records is {arguments.records}, expected at least 1")
        prepare(
            config,
            sampling,
            arguments.color_fix or ("none" if "rrdbnet" in config.components else "wavelet"),
            arguments.records,
            arguments.output,
            latents=not arguments.no_latents,
        )
    except InputError as error:
        print(f"references: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
