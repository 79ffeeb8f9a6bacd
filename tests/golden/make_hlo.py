#!/usr/bin/env python
"""Writes hlo_v5e.txt and hlo_h200.txt: a program of known costs, compiled for eight TPU chips and for eight GPUs.

    python -m tests.golden.make_hlo

This needs the extra `tpu`, and JAX's plug-in for CUDA.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from cassr_jax.sharding.topologies import topology_devices

FOLDER = Path(__file__).parent
AXES = ("data", "tensor")  # of 2 and 4 devices
STEPS, SIDE, CHANNELS = 3, 16, 128


def program(mesh: Mesh):
    """The program, (w, images) -> numbers.

    Each device computes STEPS times a product, whose result is summed over `tensor` and gathered over `data`; then a
    convolution, and one sum over all devices.
    """

    def on_each(w: jax.Array, images: jax.Array) -> jax.Array:
        def step(x: jax.Array, _: None) -> tuple[jax.Array, None]:
            summed = jax.lax.psum(x @ w, "tensor")
            whole = jax.lax.all_gather(summed, "data", tiled=True)
            return x + whole[: len(x)], None

        x, _ = jax.lax.scan(step, jnp.ones((256, CHANNELS), jnp.bfloat16), length=STEPS)
        kernel = x[:9].reshape(3, 3, 1, CHANNELS) * jnp.ones((1, 1, CHANNELS, 1), jnp.bfloat16)
        numbers = ("NHWC", "HWIO", "NHWC")
        made = jax.lax.conv_general_dilated(images, kernel, (2, 2), ((1, 1), (1, 1)), dimension_numbers=numbers)
        return jax.lax.psum(made.astype(jnp.float32), AXES)

    specs = (P(), P(AXES))
    return jax.jit(jax.shard_map(on_each, mesh=mesh, in_specs=specs, out_specs=P(), check_vma=False))


def lowered(devices: list) -> jax.stages.Lowered:
    mesh = Mesh(np.asarray(devices).reshape(2, 4), AXES)
    w = jax.ShapeDtypeStruct((CHANNELS, CHANNELS), jnp.bfloat16, sharding=NamedSharding(mesh, P()))
    images = jax.ShapeDtypeStruct((8, SIDE, SIDE, CHANNELS), jnp.bfloat16, sharding=NamedSharding(mesh, P(AXES)))
    return program(mesh).lower(w, images)


def main() -> None:
    jax.config.update("jax_platforms", "cpu")
    for name, on in (("v5e", "v5e:2x4"), ("h200", "h200:8")):
        text = lowered(list(topology_devices(on))).compile().as_text()
        assert text is not None
        here = str(FOLDER.parents[1])
        (FOLDER / f"hlo_{name}.txt").write_text(text.replace(here, "").replace(str(Path(jax.__file__).parent), "jax"))


if __name__ == "__main__":
    main()
