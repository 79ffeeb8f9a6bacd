"""The parts in the order of their worth for the time that they take, since the time may be cut."""

import platform
from collections.abc import Callable
from functools import partial

import jax

from benchmarks.on_gpu import attention, cascade, start, training, unet
from benchmarks.on_gpu.running import Part
from benchmarks.on_gpu.sizes import sizes
from cassr_jax.compiled import version_of
from cassr_jax.config import Remat
from cassr_jax.files import Json

_PACKAGES = ("jax", "jaxlib", "flax", "torch")


def parts(narrow: bool) -> list[Part]:
    given = sizes(narrow)
    tile, large = given.sides
    few, *_, many = given.batches

    def ladder(kind: str, measure: Callable[..., Json], side: int, batches: tuple[int, ...], **options: bool):
        """Rising batches, in one process."""
        for batch in batches:
            name = f"{kind} {side} px, batch {batch}"
            yield Part(name, f"{kind} {side}", partial(measure, narrow, side, batch, **options))

    def train(remat: Remat, batch: int) -> Part:
        """In a process of its own, which counts the peak of its memory."""
        name = f"train remat {remat}, batch {batch}"
        return Part(name, name, partial(training.step, narrow, batch, remat))

    usual = min(given.train.batch_size, many)
    larger = [] if narrow else [train("blocks", 16), train("all", 16), train("all", 32)]
    return [
        *(
            Part(
                f"attention {channels} channels, {tokens} tokens",
                "attention",
                partial(attention.kernels, narrow, channels, tokens),
            )
            for channels, tokens in given.attention
        ),
        *ladder("unet", unet.step, tile, given.batches),
        *ladder("torch", unet.step_in_torch, tile, given.batches),
        train("none", usual),
        train("blocks", usual),
        Part("start to the first step", "start", partial(start.starts, narrow)),
        *ladder("cascade", cascade.pictures, tile, given.batches),
        *ladder("compiled", unet.step_in_torch, tile, (few, many), compile=True),
        train("all", usual),
        *larger,
        *ladder("unet", unet.step, large, given.batches),
        *ladder("torch", unet.step_in_torch, large, given.batches),
        *ladder("cascade", cascade.pictures, large, given.batches[:2]),
    ]


def described() -> Json:
    """The device that parts run on, and the versions of what takes part."""
    device = jax.devices()[0]
    return {
        "kind": device.device_kind,
        "platform": " ".join(device.client.platform_version.split()),
        "python": platform.python_version(),
        **{package: version_of(package) for package in _PACKAGES},
    }
