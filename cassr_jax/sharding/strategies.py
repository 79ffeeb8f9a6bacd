"""Strategies of sharding, as data: the axes of a mesh, and ordered rules that lay out arrays on it."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

AXES = ("data", "fsdp", "spatial", "tensor")
BATCH_AXES = ("data", "fsdp")  # divide the examples of a batch


@dataclass(frozen=True)
class MeshConfig:
    """The number of devices along each axis; one axis may be -1, which takes all devices that the others leave.

    `data` and `fsdp` divide the examples of a batch, `spatial` the rows of pictures. Rules divide parameters over any
    of the axes: over `data` and `fsdp` they are only stored divided, over `tensor` they are used divided too.
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
    """How the arrays with certain names are divided.

    Attributes:
        pattern: a regular expression that is found in these names.
        spec: an axis or None for each of the last dimensions; "data+fsdp" stands for both axes. A parameter's other
            dimensions are not divided. An activation's first one, its examples, lies on `data` and `fsdp`, and those
            between as the compiler chooses.
    """

    pattern: str
    spec: tuple[str | None, ...]

    def __post_init__(self) -> None:
        try:
            re.compile(self.pattern)
        except re.error as error:
            raise ValueError(f"pattern {self.pattern!r} is no regular expression: {error}") from error
        named = [axis for each in self.axes for axis in each]
        if unknown := [axis for axis in named if axis not in AXES]:
            raise ValueError(f"spec names the axis {unknown[0]!r}, expected some of {', '.join(AXES)}")
        if len(set(named)) < len(named):
            raise ValueError(f"spec is {self.spec}, expected every axis at most once")

    @property
    def axes(self) -> tuple[tuple[str, ...], ...]:
        """The axes of each of the last dimensions."""
        return tuple(() if entry is None else tuple(entry.split("+")) for entry in self.spec)


@dataclass(frozen=True)
class Strategy:
    """A mesh, and the rules by which arrays are divided on it.

    The first rule that matches an array's name and fits its shape decides. It fits if its axes divide their dimensions.
    A parameter without such a rule lies whole on every device; an activation without one lies as the compiler chooses.

    Attributes:
        rules: for parameters, by their names (`unet.up_blocks.1.resnets.0.conv1.kernel`).
        activations: for the values between layers, by the names of their places (`unet.up_blocks.1.resnets.0.hidden`);
            docs/sharding.md lists them.
        zero: what the rules divide besides the computation, as in ZeRO (arXiv 1910.02054): 1, the optimizer's state and
            the average; 2, the gradients too; 3, the parameters too.
        gather: whether parameters that are stored divided are gathered `once`, and kept until the backward pass has
            ended, or `again` for the backward pass of each block. The second takes `remat`.
    """

    mesh: MeshConfig = field(default_factory=MeshConfig)
    rules: tuple[Rule, ...] = ()
    activations: tuple[Rule, ...] = ()
    zero: Literal[1, 2, 3] = 3
    gather: Literal["once", "again"] = "once"


# Output channels come first, because they can be divided evenly in all layers but the last of a network.
_STORED = (Rule(r"\.kernel$", ("fsdp", None)), Rule(r"\.kernel$", (None, "fsdp")), Rule(r"embedding$", ("fsdp", None)))
# Hundreds of devices divide few dimensions alone, but both channels of nearly all kernels together.
_STORED_TWICE = (
    Rule(r"\.kernel$", ("data", "fsdp")),
    Rule(r"\.kernel$", ("fsdp", "data")),
    Rule(r"embedding$", ("data", "fsdp")),
    *_STORED,
)

# Pairs of layers, as in Megatron-LM (arXiv 1909.08053). The first layer of a pair divides its output channels, so that
# what follows works on a share of them; the second divides its input channels, and one sum over the devices ends the
# pair. `attn` matches only the transformers, whose heads can be divided; the autoencoder's attention has a single head.
_FIRST = r"(attn\d?\.to_[qkv]|conv1|time_emb_proj|tuner_op\.ln1)"
_SECOND = r"(attn\d?\.to_out\.0|ff\.net\.2|conv2|tuner_op\.ln2)"
_TENSOR = (
    # These divide their examples further instead, or have few.
    Rule(r"^(vae|text_encoder)\..*\.kernel$", ("fsdp", None)),
    Rule(r"^(vae|text_encoder)\.", ()),
    Rule(rf"{_FIRST}\.kernel$", ("fsdp", "tensor")),
    Rule(rf"{_FIRST}\.bias$", ("tensor",)),
    Rule(r"resnets\.\d+\.norm2\.", ("tensor",)),
    Rule(rf"{_SECOND}\.kernel$", ("tensor", "fsdp")),
    # Wide convolutions alone: their outputs are gathered. All other layers are small, and cheaper to repeat.
    Rule(r"samplers\.0\.conv\.kernel$", ("fsdp", "tensor")),
    Rule(r"samplers\.0\.conv\.bias$", ("tensor",)),
)
_TENSOR_PLACES = (
    Rule(r"^vae\.encoder\.", ("data+fsdp+tensor", None, None, None)),
    Rule(r"^vae\.", (None,)),
    Rule(r"\.(hidden|queries|keys|values)$", ("tensor",)),
    Rule(r"\.(branch|output|tokens)$", (None,)),
)

# Rows of pictures, and with them the tokens of transformers. Attention gathers the keys and values of all rows itself.
_ROWS = (
    Rule(r"(resnets\.\d+\.(hidden|branch|output)|(samplers|attentions)\.\d+\.output)$", ("spatial", None, None)),
    Rule(r"\.(tokens|queries|hidden|branch)$", ("spatial", None)),
)

DP = Strategy()
FSDP = Strategy(MeshConfig(data=1, fsdp=-1), _STORED)
STRATEGIES: Mapping[str, Strategy] = {
    "dp": DP,
    "zero1": replace(FSDP, zero=1),
    "zero2": replace(FSDP, zero=2),
    "fsdp": FSDP,
    # Divided within a host of eight GPUs or a part of a slice, copied between them.
    "hybrid": Strategy(MeshConfig(fsdp=8), _STORED),
    "fsdp_2d": Strategy(MeshConfig(fsdp=8), _STORED_TWICE),
    "spatial": Strategy(MeshConfig(data=1, fsdp=-1, spatial=2), _STORED, _ROWS),
    "fsdp_tp": Strategy(MeshConfig(data=1, fsdp=-1, tensor=2), _TENSOR + _STORED, _TENSOR_PLACES),
}
