"""What the makers publish of accelerators: peaks, memory and links. Rates are per second, sizes in bytes."""

from collections.abc import Mapping
from dataclasses import dataclass

_G, _T = 1e9, 1e12


@dataclass(frozen=True)
class Chip:
    """An accelerator as one of JAX's devices.

    Attributes:
        kinds: the names under which JAX knows it, `jax.Device.device_kind`.
        flops: peak of dense bfloat16 products, FLOP/s.
        flops_float32: the same of float32 products at JAX's default precision: bfloat16 on a TPU, TF32 on a GPU.
        memory: bytes.
        bandwidth: of the memory, bytes/s.
        link: bytes/s of one link in one direction. A TPU has one to each neighbour in the torus; a GPU has one, to the
            switch of its host.
        dimensions: of the torus; 0 for GPUs behind a switch.
        network: bytes/s in one direction for each device, to devices of another host (GPUs) or another slice (TPUs). No
            data sheet says this; 50 GB/s is a card of 400 Gbit/s for each GPU, and a TPU host of 4 chips has about 25.
    """

    kinds: tuple[str, ...]
    flops: float
    flops_float32: float
    memory: float
    bandwidth: float
    link: float
    dimensions: int
    network: float


# Sources: cloud.google.com/tpu/docs/v4, v5e, v5p, v6e and tpu7x; for v4's links jax-ml.github.io/scaling-book; the data
# sheets of NVIDIA's A100 80GB SXM, H100 SXM, H200 SXM and HGX B200, without sparsity. Google states the bandwidth of
# all links in both directions together; a link in one direction has that, divided by twice the number of links. A chip
# of TPU7x is two devices, which have half of it each.
CHIPS: Mapping[str, Chip] = {
    "v4": Chip(("TPU v4",), 275 * _T, 275 * _T, 32 * _G, 1200 * _G, 45 * _G, 3, 6.25 * _G),
    "v5e": Chip(("TPU v5e", "TPU v5 lite"), 197 * _T, 197 * _T, 16 * _G, 819 * _G, 50 * _G, 2, 6.25 * _G),
    "v5p": Chip(("TPU v5p", "TPU v5"), 459 * _T, 459 * _T, 95 * _G, 2765 * _G, 100 * _G, 3, 6.25 * _G),
    "v6e": Chip(("TPU v6e", "TPU v6 lite"), 918 * _T, 918 * _T, 32 * _G, 1638 * _G, 100 * _G, 2, 6.25 * _G),
    "tpu7x": Chip(("TPU7x",), 1153.5 * _T, 1153.5 * _T, 96 * _G, 3690 * _G, 50 * _G, 3, 3.125 * _G),
    "a100": Chip(
        ("NVIDIA A100-SXM4-80GB",), 312 * _T, 156 * _T, 80 * _G, 2039 * _G, 300 * _G, 0, 50 * _G
    ),
    "h100": Chip(("NVIDIA H100 80GB HBM3",), 989 * _T, 494.5 * _T, 80 * _G, 3350 * _G, 450 * _G, 0, 50 * _G),
    "h200": Chip(("NVIDIA H200",), 989 * _T, 494.5 * _T, 141 * _G, 4800 * _G, 450 * _G, 0, 50 * _G),
    "b200": Chip(("NVIDIA B200",), 2250 * _T, 1125 * _T, 180 * _G, 8000 * _G, 900 * _G, 0, 50 * _G),
}  # fmt: skip

# Cards of the same kinds with other memory or fewer links, of which only the peak is used.
_OTHERS = {"NVIDIA A100-SXM4-40GB": 312 * _T, "NVIDIA A100 80GB PCIe": 312 * _T, "NVIDIA H100 PCIe": 756 * _T}

PEAK_FLOPS: Mapping[str, float] = {kind: chip.flops for chip in CHIPS.values() for kind in chip.kinds} | _OTHERS
"""Peak of dense bfloat16 FLOP/s, by `jax.Device.device_kind`."""
