"""What a compiled step needs on each device: its memory, FLOPs and collectives, read from XLA's own analysis."""

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import jax
from jaxtyping import PyTree

_KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute", "ragged-all-to-all")
# A call is `name = TYPE kind(`. One that runs beside other work is split into `kind-start(` and an end, which is not
# counted again.
_CALL = re.compile(rf"= (?P<type>\S.*?) (?P<kind>{'|'.join(_KINDS)})(?P<start>-start)?\(")
_ARRAY = re.compile(r"\b(?P<type>pred|[suf]\d+\w*|bf16|c64)\[(?P<shape>[\d,]*)\]")
_BITS = re.compile(r"\d+")


@dataclass(frozen=True)
class Collective:
    """All calls of one kind of collective in a program.

    Attributes:
        kind: its name in HLO, such as "all-reduce".
        count: the number of calls in the program's text; a call inside a loop counts once, however often it runs.
        bytes: the size of their results on one device.
    """

    kind: str
    count: int
    bytes: int


def collectives(text: str) -> list[Collective]:
    """The collectives in the text of an optimised HLO module (`jax.stages.Compiled.as_text`), by kind."""
    found: dict[str, list[int]] = defaultdict(list)
    for call in _CALL.finditer(text):
        arrays = [_bytes(array) for array in _ARRAY.finditer(call["type"])]
        # A call that is split returns its operands too, in front of its results.
        found[call["kind"]].append(sum(arrays[len(arrays) // 2 :] if call["start"] else arrays))
    return [Collective(kind, len(found[kind]), sum(found[kind])) for kind in _KINDS if kind in found]


def _bytes(array: re.Match[str]) -> int:
    count = math.prod(int(size) for size in array["shape"].split(",") if size)
    bits = 8 if array["type"] == "pred" else int(_BITS.findall(array["type"])[0])
    return count * max(bits // 8, 1)


def bytes_per_device(leaves: Iterable[jax.Array | jax.ShapeDtypeStruct]) -> int:
    """The bytes that one device holds of arrays, or of arrays of these shapes, that have a sharding."""
    return sum(math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in leaves)


def describe(compiled: jax.stages.Compiled, held: Mapping[str, PyTree]) -> str:
    """A table of what a step needs on one device: memory, FLOPs and collectives.

    Args:
        compiled: the step.
        held: title -> the arrays of that kind that a device holds between steps.
    """
    memory, costs, text = compiled.memory_analysis(), compiled.cost_analysis(), compiled.as_text()
    if not (memory and costs and text):
        raise NotImplementedError("this backend gives no account of a compiled program")
    rows = [(name, f"{bytes_per_device(jax.tree.leaves(tree)) / 2**20:,.1f} MiB") for name, tree in held.items()]
    rows.append(("activations and gradients", f"{memory.temp_size_in_bytes / 2**20:,.1f} MiB"))
    unshared = memory.output_size_in_bytes - memory.alias_size_in_bytes
    total = memory.argument_size_in_bytes + memory.temp_size_in_bytes + unshared
    rows.append(("together", f"{total / 2**20:,.1f} MiB"))
    rows.append(("FLOPs of a step", f"{costs['flops'] / 1e9:,.2f} G"))
    for found in collectives(text):
        rows.append((found.kind, f"{found.count} calls, {found.bytes / 2**20:,.1f} MiB"))
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name.ljust(width)}  {value}" for name, value in rows)
