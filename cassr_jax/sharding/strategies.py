"""Strategies as data: the axes of a mesh, and an ordered list of rules that lay parameters out on it."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

AXES = ("data", "fsdp", "spatial", "tensor")


@dataclass(frozen=True)
class MeshConfig:
    """Devices along each axis; -1, at most once, is all that the others leave.

    `data` and `fsdp` divide the examples of a batch, and `fsdp` also the stored parameters. `spatial` divides the rows
    of the pictures, `tensor` the channels of the layers that the rules name.
    """

    data: int = -1
    fsdp: int = 1
    spatial: int = 1
    tensor: int = 1

    def __post_init__(self) -> None:
        sizes = [getattr(self, axis) for axis in AXES]
        if sizes.count(-1) > 1 or any(size < 1 and size != -1 for size in sizes):
            raise ValueError(f"mesh sizes {dict(zip(AXES, sizes, strict=True))}, expected at least 1, or -1 once")


@dataclass(frozen=True)
class Rule:
    """Parameters whose name `pattern` is found in are divided by `spec`: an axis or None for each of the last
    dimensions. The dimensions before them are not divided."""

    pattern: str
    spec: tuple[str | None, ...]

    def __post_init__(self) -> None:
        try:
            re.compile(self.pattern)
        except re.error as error:
            raise ValueError(f"pattern {self.pattern!r} is no regular expression: {error}") from error
        if unknown := [axis for axis in self.spec if axis is not None and axis not in AXES]:
            raise ValueError(f"spec names the axis {unknown[0]!r}, expected some of {', '.join(AXES)}")


@dataclass(frozen=True)
class Strategy:
    """The first rule that is found in a parameter's name and fits its shape decides; without one it lies whole on every
    device. A rule fits where every axis divides its dimension."""

    mesh: MeshConfig = field(default_factory=MeshConfig)
    rules: tuple[Rule, ...] = ()


# Output channels first: they are divided evenly in all layers but the last of a network.
_STORED = (Rule(r"\.kernel$", ("fsdp", None)), Rule(r"\.kernel$", (None, "fsdp")), Rule(r"embedding$", ("fsdp", None)))

# Pairs of layers as in Megatron-LM (arXiv 1909.08053): the first divides its output channels and what follows works on
# a share of them, the second its input channels, and one sum over the devices ends the pair. `attn` keeps to the
# transformers, whose heads divide; the autoencoder's attention has one.
_FIRST = r"(attn\d?\.to_[qkv]|self_attn\.[qkv]_proj|ff\.net\.0\.proj|mlp\.fc1|conv1|time_emb_proj|tuner_op\.ln1)"
_SECOND = r"(attn\d?\.to_out\.0|self_attn\.out_proj|ff\.net\.2|mlp\.fc2|conv2|tuner_op\.ln2)"
_TENSOR = (
    Rule(rf"{_FIRST}\.kernel$", ("fsdp", "tensor")),
    Rule(rf"{_FIRST}\.bias$", ("tensor",)),
    Rule(r"resnets\.\d+\.norm2\.", ("tensor",)),
    Rule(rf"{_SECOND}\.kernel$", ("tensor", "fsdp")),
    # All other layers: their output channels, gathered again by what reads them.
    Rule(r"\.kernel$", ("fsdp", "tensor")),
    Rule(r"\.kernel$", (None, "tensor")),
    Rule(r"\.kernel$", ("tensor", None)),
)

DP = Strategy()
FSDP = Strategy(MeshConfig(data=1, fsdp=-1), _STORED)
FSDP_TP = Strategy(MeshConfig(data=1, fsdp=-1, tensor=2), _TENSOR + _STORED)
STRATEGIES: Mapping[str, Strategy] = {"dp": DP, "fsdp": FSDP, "fsdp_tp": FSDP_TP}
