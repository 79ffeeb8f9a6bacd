"""A step of Stable Diffusion's U-Net, here and in torch: one prediction for a batch of latents."""

from dataclasses import asdict, replace
from functools import cache, partial
from importlib.util import find_spec
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from benchmarks.on_gpu.running import LeftOut
from benchmarks.on_gpu.sizes import TOKENS, sizes, with_random
from benchmarks.on_gpu.timing import Compiled, Figures, compiled, peak_bytes, rates, timed
from cassr_jax.models.parameters import Params, merge, select
from cassr_jax.networks import Networks
from cassr_jax.training.flops import step_work

_TIMESTEP = 500


def step(narrow: bool, side: int, batch: int) -> Figures:
    """The step on the latents of `batch` pictures of `side` px."""
    given = sizes(narrow)
    arguments = (network(narrow)[1], *inputs(narrow, side, batch))
    run, figures = compile_step(narrow, side, batch)
    timing = timed(lambda: run(*arguments), given.runs)
    made = rates(timing, batch, batch * flops(narrow, side), jax.devices()[0].device_kind)
    return {"times": {"step": timing | figures}, **made, "peak_bytes": peak_bytes()}


def compile_step(narrow: bool, side: int, batch: int) -> Compiled:
    graphdef, params = network(narrow)

    @jax.jit
    def predict(params: Params, latents: jax.Array, timesteps: jax.Array, text: jax.Array) -> jax.Array:
        return merge(graphdef, params)(latents, timesteps, text)

    return compiled(predict, params, *inputs(narrow, side, batch))


@cache
def network(narrow: bool) -> tuple[nnx.GraphDef, Params]:
    """The U-Net with random weights, on the device."""
    made = with_random(Networks(), "unet", sizes(narrow).kinds["unet"], sizes(narrow).dtype)
    return made.graphdefs["unet"], jax.device_put(select(made.params, "unet"))


def inputs(narrow: bool, side: int, batch: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Latents (B, h, w, C), timesteps (B,) and the embeddings of a prompt (B, L, C)."""
    latents, text = (jnp.asarray(array, sizes(narrow).dtype) for array in _arrays(narrow, side, batch))
    return latents, jnp.full(batch, _TIMESTEP, jnp.int32), text


def flops(narrow: bool, side: int) -> float:
    """The FLOPs of one example, by the count that training uses."""
    given = sizes(narrow)
    config = replace(given.train, data=replace(given.train.data, crop_size=side))
    parts = step_work(config, given.kinds, latents=True)
    return sum(work.forward for name, work in parts.items() if name.startswith("U-Net"))


def step_in_torch(narrow: bool, side: int, batch: int, compile: bool = False) -> Figures:
    """The same step in torch, of diffusers' U-Net in the layout that suits it best.

    JAX must not look for its devices here, since it would take most of their memory.
    """
    torch, unet = _torch_unet(narrow, compile)
    weight = next(unet.parameters())
    latents, text = (torch.from_numpy(x).to(weight) for x in _arrays(narrow, side, batch))
    on_gpu = weight.device.type == "cuda"
    latents = latents.movedim(-1, 1)  # the values lie in memory as before, which is torch's channels_last
    timesteps = torch.full((batch,), _TIMESTEP, device=weight.device)

    def wait(_: object) -> None:
        if on_gpu:
            torch.cuda.synchronize()

    with torch.inference_mode():
        timing = timed(partial(unet, latents, timesteps, text, return_dict=False), sizes(narrow).runs, wait)
    peak = torch.cuda.max_memory_allocated() if on_gpu else None
    kind = torch.cuda.get_device_name() if on_gpu else "cpu"
    made = rates(timing, batch, batch * flops(narrow, side), kind)
    return {"times": {"step": timing}, **made, "peak_bytes": peak, "torch": torch.__version__}


@cache
def _torch_unet(narrow: bool, compile: bool) -> tuple[Any, Any]:
    """Torch itself, and the U-Net on the device that JAX has, or on the CPU for narrow ones."""
    for package in ("torch", "diffusers"):
        if find_spec(package) is None:
            raise LeftOut(f"{package} is not installed")
    import torch
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

    if not (narrow or torch.cuda.is_available()):
        raise LeftOut("torch has no CUDA here")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with torch.device(device):
        unet: Any = UNet2DConditionModel(**asdict(sizes(narrow).kinds["unet"]))
    unet = unet.to(getattr(torch, sizes(narrow).dtype), memory_format=torch.channels_last).eval()
    return torch, torch.compile(unet, fullgraph=True) if compile else unet


def _arrays(narrow: bool, side: int, batch: int) -> tuple[np.ndarray, np.ndarray]:
    kinds, rng = sizes(narrow).kinds, np.random.default_rng(1)
    rows, unet = side // kinds["vae"].factor, kinds["unet"]
    latents = rng.standard_normal((batch, rows, rows, unet.in_channels), np.float32)
    return latents, rng.standard_normal((batch, TOKENS, unet.cross_attention_dim), np.float32)
