"""Strategies of sharding, as data: the axes of a mesh, and ordered rules that lay parameters out on it."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

AXES = ("data", "fsdp", "spatial", "tensor")


@dataclass(frozen=True)
class MeshConfig:
    """The number of devices along each axis; one axis may be -1, which takes all devices that the others leave.

    `data` and `fsdp` divide the examples of a batch, and `fsdp` divides the stored parameters too. `spatial` divides
    the rows of pictures, and `tensor` divides the channels of the layers that the rules name.
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
    """How parameters with certain names are divided.

    Attributes:
        pattern: a regular expression that is found in the names of these parameters.
        spec: an axis or None for each of the last dimensions; the dimensions before them are not divided.
    """

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
    """A mesh, and the rules by which parameters are divided on it.

    The first rule that matches a parameter's name and fits its shape decides. It fits if every axis divides its
    dimension. A parameter without such a rule lies whole on every device.
    """

    mesh: MeshConfig = field(default_factory=MeshConfig)
    rules: tuple[Rule, ...] = ()


# Output channels come first, because they can be divided evenly in all layers but the last of a network.
_STORED = (Rule(r"\.kernel$", ("fsdp", None)), Rule(r"\.kernel$", (None, "fsdp")), Rule(r"embedding$", ("fsdp", None)))

# Pairs of layers, as in Megatron-LM (arXiv 1909.08053). The first layer of a pair divides its output channels, so that
# what follows works on a share of them; the second divides its input channels, and one sum over the devices ends the
# pair. `attn` matches only the transformers, whose heads can be divided; the autoencoder's attention has a single head.
_FIRST = r"(attn\d?\.to_[qkv]|self_attn\.[qkv]_proj|ff\.net\.0\.proj|mlp\.fc1|conv1|time_emb_proj|tuner_op\.ln1)"
_SECOND = r"(attn\d?\.to_out\.0|self_attn\.out_proj|ff\.net\.2|mlp\.fc2|conv2|tuner_op\.ln2)"
_TENSOR = (
    Rule(rf"{_FIRST}\.kernel$", ("fsdp", "tensor")),
    Rule(rf"{_FIRST}\.bias$", ("tensor",)),
    Rule(r"resnets\.\d+\.norm2\.", ("tensor",)),
    Rule(rf"{_SECOND}\.kernel$", ("tensor", "fsdp")),
    # All other layers divide their output channels, which are gathered again before they are read.
    Rule(r"\.kernel$", ("fsdp", "tensor")),
    Rule(r"\.kernel$", (None, "tensor")),
    Rule(r"\.kernel$", ("tensor", None)),
)

DP = Strategy()
FSDP = Strategy(MeshConfig(data=1, fsdp=-1), _STORED)
FSDP_TP = Strategy(MeshConfig(data=1, fsdp=-1, tensor=2), _TENSOR + _STORED)
STRATEGIES: Mapping[str, Strategy] = {"dp": DP, "fsdp": FSDP, "fsdp_tp": FSDP_TP}
