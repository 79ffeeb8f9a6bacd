"""Make training pairs once: crops, their degraded versions, the targets' latents, and stage 1's references.

    python -m cassr_jax.data.references --config configs/tiny_scedit.py --records 6000 --output runs/pairs

takes the data and the networks of a training configuration. Where these include a vae, the target's latents are
stored with each record; where they include a trained `scedit`, or an `rrdbnet`, the image that it restores, rounded to
8 bit as it will be at inference.
Data that are prepared records already are completed, in their order. The same command again goes on where it stopped:
files are complete or not there.
"""

import argparse
import math
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from cassr_jax.config import SamplingConfig, TrainConfig
from cassr_jax.config_files import override, read_config
from cassr_jax.data.degradation import PRESETS
from cassr_jax.data.pipeline import Batch, batches
from cassr_jax.data.prepared import SUFFIX, PreparedSource, count_records, record_files, write_records
from cassr_jax.errors import InputError
from cassr_jax.imaging import io, tiling
from cassr_jax.imaging.color import COLOR_FIXES
from cassr_jax.imaging.pixels import to_float, to_uint8
from cassr_jax.models.denoisers import SCEditDenoiser
from cassr_jax.models.parameters import Params
from cassr_jax.networks import Networks, merge_all
from cassr_jax.prompts import prompt_ids
from cassr_jax.stage import Canvas, make_method, make_plan, run

RECORDS_PER_FILE = 512
_KEPT = ("record", "lr", "hr")


def make_references(
    networks: Networks, config: TrainConfig, sampling: SamplingConfig, color_fix: str
) -> Callable[[Params, np.ndarray, jax.Array], jax.Array]:
    """Jitted: parameters, lq images (B, S, S, 3) in [-1, 1], a key -> restored images of the same shape and range."""
    vae = networks.configs["vae"]
    plan, method = make_plan(config.schedule, sampling), make_method(sampling)
    prompts = (sampling.negative_prompt, sampling.prompt)
    ids = prompt_ids(networks.configs["text_encoder"], config.components.get("tokenizer"), prompts, sampling.prompt)

    @jax.jit
    def restore(params: Params, lq: jax.Array, key: jax.Array) -> jax.Array:
        modules = merge_all(networks.graphdefs, params)
        batch, side = lq.shape[0], lq.shape[1] // vae.factor
        tiles = tiling.plan(side, side, side, 0)
        canvas = Canvas(tiles, vae.factor, batch)
        noise = jax.random.normal(key, (batch, side, side, vae.latent_channels), jnp.float32)
        denoiser = SCEditDenoiser(modules["unet"], modules["scedit"])
        scale = jnp.float32(sampling.guidance_scale)
        text = modules["text_encoder"](ids)
        start = None if sampling.start == "noise" else lq
        images = run(modules["vae"], denoiser, text, (lq,), start, noise, plan, scale, canvas, method)
        return COLOR_FIXES[color_fix](images, lq)

    return restore


def prepare(config: TrainConfig, sampling: SamplingConfig, color_fix: str, records: int, output: Path) -> None:
    """Write `records` records, rounded up to whole batches, below `output`; of prepared ones at most all.

    Raises:
        InputError: the configuration degrades nothing, or lacks a network.
    """
    prepared = PreparedSource(config.data.path) if record_files(Path(config.data.path)) else None
    if prepared is not None:
        records = min(records, len(prepared) // config.batch_size * config.batch_size)
    elif config.data.preset is None:
        raise InputError(f"data.preset is null, expected one of {', '.join(PRESETS)}: pairs are degraded pictures")
    networks = Networks()
    for kind in ("vae", "unet", "text_encoder", "scedit", "rrdbnet"):
        if kind in config.components:
            networks = networks.with_read(kind, config.components[kind], config.dtype)
    needed = ("vae", "unet", "text_encoder") if "scedit" in networks.configs else ()
    if missing := [kind for kind in needed if kind not in networks.configs]:
        raise InputError(f"the components lack {', '.join(missing)}, expected {', '.join(needed)}")
    restore = make_references(networks, config, sampling, color_fix) if "scedit" in networks.configs else None
    enlarge = jax.jit(lambda params, lr: merge_all(networks.graphdefs, params)["rrdbnet"](lr / 255.0) * 2 - 1)
    encode = jax.jit(lambda params, hr: merge_all(networks.graphdefs, params)["vae"].encode(to_float(hr)))

    def complete(batch: Batch, number: int) -> dict[str, np.ndarray]:
        made = {name: batch[name] for name in _KEPT}
        if "vae" in networks.configs:
            made["latents"] = np.asarray(encode(networks.params, batch["hr"]), np.float16)
        if "rrdbnet" in networks.configs:
            made["reference"] = to_uint8(enlarge(networks.params, batch["lr"]))
        elif restore is not None:
            lq = np.stack([io.bicubic(lr, batch["hr"].shape[1:3]) for lr in batch["lr"]])
            key = jax.random.fold_in(jax.random.key(config.seed), number)
            made["reference"] = to_uint8(restore(networks.params, to_float(lq), key))
        return made

    per_file = math.ceil(RECORDS_PER_FILE / config.batch_size)
    total = math.ceil(records / config.batch_size)
    for first in tqdm(range(0, total, per_file), unit="file"):
        path = output / f"{first // per_file:05d}{SUFFIX}"
        numbers = range(first, min(first + per_file, total))
        # Fewer records than now asked for: it was the last file of a smaller set.
        if path.exists() and count_records(path) >= len(numbers) * config.batch_size:
            continue
        # Every file has a stream of its own, so that making it needs none of the files before.
        if prepared is not None:
            stream = (_batched(prepared, number, config.batch_size) for number in numbers)
        else:
            stream = batches(config.data, batch_size=config.batch_size, seed=config.seed * 1_000_003 + first)
        write_records(path, _unbatched(complete(next(stream), number) for number in numbers))


def _batched(source: PreparedSource, number: int, size: int) -> Batch:
    chosen = [source[index] for index in range(number * size, (number + 1) * size)]
    return {name: np.stack([record[name] for record in chosen]) for name in _KEPT}


def _unbatched(batches_made: Iterator[dict[str, np.ndarray]]) -> Iterator[dict[str, np.ndarray]]:
    for batch in batches_made:
        for i in range(len(batch["record"])):
            yield {name: value[i] for name, value in batch.items()}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m cassr_jax.data.references",
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
    parser.add_argument("--color-fix", default="wavelet", choices=COLOR_FIXES, help="of the references")
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
        prepare(config, sampling, arguments.color_fix, arguments.records, arguments.output)
    except InputError as error:
        print(f"references: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
