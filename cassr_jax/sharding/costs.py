"""What a compiled program costs one device: products, bytes of memory, and collectives, counted from its text.

XLA's own account counts the body of a loop once, leaves out library calls, and is missing for GPUs that are not here.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from cassr_jax.sharding.groups import axes_of, groups_of
from cassr_jax.sharding.hlo import Array, Computation, Instruction, Module, Run, config_of

COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute", "ragged-all-to-all")
SLICES = "slices"
"""In place of an axis of the mesh: what is sent between TPU slices."""

# What libtpu calls the collectives between slices, which its programs hold as transfers to and from the host.
_BETWEEN_SLICES = {
    "ALL_REDUCE": "all-reduce",
    "ALL_GATHER": "all-gather",
    "REDUCE_SCATTER": "reduce-scatter",
    "ALL_TO_ALL": "all-to-all",
    "ONE_TO_ONE": "collective-permute",
}
# These move no data, or are counted elsewhere.
_FREE = {
    "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "partition-id", "replica-id", "iota",
    "opt-barrier", "domain", "add-dependency", "async-update", "send", "recv",
}  # fmt: skip
_FREE_CALLS = ("ConcatBitcast", "AssumeGatherIndicesInBound")  # of a TPU
_SAME = ("bitcast", "reshape", "transpose", "copy", "convert", "get-tuple-element")
PREFETCHES = ("copy-start", "slice-start")
"""Copies and cuts that run beside other work until their end."""

_CUDNN = {
    "__cudnn$convForward": "forward",
    "__cudnn$convBiasActivationForward": "forward",
    "__cudnn$convBackwardInput": "input",
    "__cudnn$convBackwardFilter": "filter",
}


@dataclass(frozen=True)
class Work:
    """The work of an instruction on one device.

    Attributes:
        flops: two for each multiplication of products and convolutions; nothing else counts.
        float32: whether these products take float32.
        nbytes: read from and written to memory.
    """

    flops: float = 0.0
    float32: bool = False
    nbytes: float = 0.0


@dataclass(frozen=True)
class Collective:
    """One collective of a program.

    Attributes:
        kind: its name in HLO, such as "all-reduce".
        axes: the axes of the mesh along which its groups lie; `SLICES` if they lie across slices; None if they follow
            no axes.
        members: the devices of one of its groups, numbered row by row in the mesh.
        group: the number of devices in a group.
        nbytes: the size of what one device gives or gets, whichever is larger, in one call.
        times: how often it runs in one call of the program; a mean where a condition decides.
        known: whether the trips of all loops around it are known.
        source: the line of Python that it came from.
        name: the name of the instruction, and `done` that of the one that waits for it; the same where nothing else can
            run in between.
    """

    kind: str
    axes: tuple[str, ...] | None
    members: tuple[int, ...]
    group: int
    nbytes: int
    times: float
    known: bool
    source: str
    name: str
    done: str


def collective(module: Module, run: Run, mesh: Mapping[str, int]) -> Collective | None:
    """The collective that an instruction starts, if it starts one.

    Args:
        mesh: the sizes of the mesh by axis, whose devices are numbered row by row; of several TPU slices, that of one.
    """
    instruction, inner = run.instruction, run.instruction
    if instruction.opcode == "send":
        return _between_slices(module, run)
    first, last = module.chains.get((run.computation.name, instruction.name), ("", ""))
    if first != (instruction.name if last else ""):
        return None  # a later link of a chain
    if instruction.opcode in ("async-start", "fusion"):
        inner = next((each for each in _inside(module, instruction) if each.opcode in COLLECTIVES), instruction)
    kind = inner.opcode.removesuffix("-start")
    if kind not in COLLECTIVES:
        return None
    if instruction.opcode == "fusion" and kind == "all-reduce" and _is_scattered(module, instruction):
        kind = "reduce-scatter"
    devices = math.prod(mesh.values())
    groups = _groups(inner, devices)
    within = inner is not instruction and bool(last)
    taken = _operands(module, instruction, inner) if within else run.operands
    given, made = sum(array.nbytes for array in taken), sum(array.nbytes for array in inner.results)
    if inner.opcode.endswith("-start") and kind in ("all-gather", "collective-permute"):
        made -= given  # the start returns what it was given, in front of its result
    done = last or ended_by(run.computation, instruction)
    members, axes = max(groups, key=len), axes_of(groups, mesh)
    return Collective(
        kind,
        axes,
        members,
        len(members),
        max(given, made),
        run.times,
        run.known,
        module.source(inner),
        instruction.name,
        done,
    )


def _between_slices(module: Module, run: Run) -> Collective | None:
    """The collective whose data a program sends to other TPU slices, by way of the host."""
    sent = run.instruction
    kind = _BETWEEN_SLICES.get(_marked(sent, "_xla_megascale_transfer_type"))
    found = re.match(r"\{([\d,]+)\}", _marked(sent, "_xla_megascale_target"))
    if kind is None or found is None:
        return None
    word = "_xla_host_transfer_rendezvous"
    beside = run.computation.instructions
    got = next((x for x in beside if x.opcode == "recv" and _marked(x, word) == _marked(sent, word)), sent)
    done = ended_by(run.computation, got)
    done = sent.name if done == got.name else done
    given, made = run.operands[0].nbytes, got.results[0].nbytes
    group = len(found[1].split(","))
    return Collective(
        kind, (SLICES,), (), group, max(given, made), run.times, run.known, module.source(sent), sent.name, done
    )


def _marked(instruction: Instruction, name: str) -> str:
    """The value of one of an instruction's frontend attributes; empty without it."""
    found = re.search(rf'{name}="([^"]*)"', instruction.attributes)
    return found[1] if found else ""


def ended_by(computation: Computation, instruction: Instruction) -> str:
    """The name of the instruction that waits for this one's end; its own if none does."""
    ends = (each.name for each in computation.instructions if _ends(each) and instruction.name in each.operands)
    return next(ends, instruction.name)


def _operands(module: Module, fusion: Instruction, inner: Instruction) -> list[Array]:
    """What an instruction within a fusion takes."""
    by_name = module.computations[fusion.called["calls"][0]].by_name
    return [array for name in inner.operands for array in by_name[name].results]


def _is_scattered(module: Module, fusion: Instruction) -> bool:
    """Whether a TPU's fusion sums over devices, and leaves each of them its part of the sum."""
    sums: set[str] = set()
    for each in _inside(module, fusion):
        if each.opcode == "all-reduce" or (each.opcode in _SAME and sums & set(each.operands)):
            sums.add(each.name)
        elif each.opcode == "dynamic-slice" and each.operands[0] in sums:
            return True
    return False


def _ends(instruction: Instruction) -> bool:
    return instruction.opcode.endswith("-done")


def _groups(instruction: Instruction, devices: int) -> list[tuple[int, ...]]:
    pairs = instruction.attribute("source_target_pairs")
    if pairs is None:
        return groups_of(instruction.attribute("replica_groups") or "", devices)
    # The devices that pass data to each other, in a circle or in a row.
    groups: list[set[int]] = []
    for pair in groups_of(pairs, devices):
        joined = [group for group in groups if group & set(pair)]
        groups = [group for group in groups if group not in joined] + [set(pair).union(*joined)]
    return [tuple(sorted(group)) for group in groups]


def work(module: Module, run: Run) -> Work:
    """The work of one instruction, without what it sends to other devices."""
    instruction = run.instruction
    if instruction.opcode in _FREE or instruction.opcode.removesuffix("-start") in COLLECTIVES:
        return Work()
    if _ends(instruction) or instruction.opcode == "async-start" or _target(instruction) in _FREE_CALLS:
        return Work()
    flops, float32 = _flops(module, run.computation, instruction)
    nbytes = _bytes(module, run)
    if (run.computation.name, instruction.name) in module.chains:  # what it only hands on is not touched
        handed_on = re.findall(r"\{\d+\}: \((\d+), \{\}\)", instruction.attribute("output_to_operand_aliasing") or "")
        by_name = run.computation.by_name
        passed = (by_name[instruction.operands[int(number)]] for number in handed_on)
        nbytes -= 2.0 * sum(array.moved for each in passed for array in each.results)
    return Work(flops, float32, max(nbytes, 0.0))


def _inside(module: Module, instruction: Instruction) -> list[Instruction]:
    """The instructions of the computations that one runs inside itself."""
    names = [name for role in ("calls", "called_computations") for name in instruction.called.get(role, ())]
    return [each for name in names for each in module.computations[name].instructions]


def _flops(module: Module, computation: Computation, instruction: Instruction) -> tuple[float, bool]:
    if instruction.opcode == "fusion":
        inner = module.computations[instruction.called["calls"][0]]
        found = [_flops(module, inner, each) for each in inner.instructions]
        return sum(flops for flops, _ in found), any(wide for flops, wide in found if flops)
    operands = [array for name in instruction.operands for array in computation.by_name[name].results[:1]]
    wide = bool(operands) and operands[0].dtype == "f32"
    if instruction.opcode == "dot":
        return _dot(instruction, operands[0]), wide
    if instruction.opcode == "convolution":
        return _convolution(instruction, operands[0], operands[1], instruction.results[0]), wide
    if instruction.opcode == "custom-call":
        return _library(instruction, operands), wide
    return 0.0, False


def _dot(instruction: Instruction, left: Array) -> float:
    contracted = re.findall(r"\d+", instruction.attribute("lhs_contracting_dims") or "")
    return 2.0 * instruction.results[0].size * math.prod(left.shape[int(axis)] for axis in contracted)


def _convolution(instruction: Instruction, source: Array, kernel: Array, result: Array) -> float:
    """Only products of values count, not those with the zeros of a padding or a dilation."""
    labels = re.split(r"_|->", instruction.attribute("dim_labels") or "")
    window = dict(re.findall(r"(\w+)=([\dx_\-]+)", instruction.attribute("window") or ""))
    groups = int(instruction.attribute("batch_group_count") or 1)
    features = kernel.shape[labels[1].index("i")]  # of one group
    total = 2.0 * features * result.shape[labels[2].index("f")] * source.shape[labels[0].index("b")] / groups
    for axis in range(len(labels[0]) - 2):
        size, out = source.shape[labels[0].index(str(axis))], result.shape[labels[2].index(str(axis))]
        taps = kernel.shape[labels[1].index(str(axis))]
        stride, spread, holes = (
            int(window[key].split("x")[axis]) if key in window else 1 for key in ("stride", "rhs_dilate", "lhs_dilate")
        )
        low = int(window["pad"].split("x")[axis].split("_")[0]) if "pad" in window else 0
        total *= taps_on_values(size, out, taps, stride, spread, holes, low)
    return total


def taps_on_values(size: int, out: int, taps: int, stride: int, spread: int, holes: int, low: int) -> int:
    """How often a tap of a kernel meets a value along one axis of a convolution, not a zero around or between values.

    Args:
        size, out, taps: the lengths of the input, the result and the kernel.
        stride: the step between two results.
        spread, holes: the steps between the taps and between the values, 1 where they are neighbours.
        low: the zeros before the first value.
    """
    places = (o * stride + k * spread - low for o in range(out) for k in range(taps))
    return sum(0 <= place <= (size - 1) * holes and place % holes == 0 for place in places)


def _library(instruction: Instruction, operands: list[Array]) -> float:
    """The products of a library's call: cuDNN's convolutions and attention, cuBLAS's products, Pallas's attention."""
    target = _target(instruction)
    if target in _CUDNN:
        (source, kernel), made = operands[:2], instruction.results[0]
        if _CUDNN[target] == "input":
            source, made = made, source
        elif _CUDNN[target] == "filter":
            kernel, made = made, kernel
        return _convolution(instruction, source, kernel, made)
    if target.startswith("__cublas$"):
        config = config_of(instruction).get("gemm_backend_config")
        numbers = config.get("dot_dimension_numbers", {}) if isinstance(config, dict) else {}
        axes = [int(axis) for axis in numbers.get("lhs_contracting_dimensions", [])]
        return 2.0 * instruction.results[0].size * math.prod(operands[0].shape[axis] for axis in axes)
    if target.startswith("__cudnn$fmha"):  # (batch, length, heads, channels)
        products = 5 if "Backward" in target else 2
        return 2.0 * products * operands[0].size * operands[1].shape[1]
    if target == "tpu_custom_call" and "flash" in instruction.attributes:  # (batch, heads, length, channels)
        backward = {"flash_mha_bwd_dkv": 4, "flash_mha_bwd_dq": 3}
        products = next((count for name, count in backward.items() if name in instruction.attributes), 2)
        return 2.0 * products * operands[0].size * operands[1].shape[2]
    return 0.0


def _target(instruction: Instruction) -> str:
    return (instruction.attribute("custom_call_target") or "").strip('"')


def _bytes(module: Module, run: Run) -> float:
    """What an instruction reads and writes; of an array from which it cuts a part, that part."""
    instruction, by_name = run.instruction, run.computation.by_name
    inner = module.computations[instruction.called["calls"][0]] if instruction.opcode == "fusion" else None
    if instruction.opcode in ("dynamic-slice", "slice", "gather", *PREFETCHES):
        made, taken = instruction.results[0], by_name[instruction.operands[0]].results
        return made.moved + (0 if all(array.on_chip for array in taken) else made.nbytes)
    if instruction.opcode == "dynamic-update-slice":
        part, whole = by_name[instruction.operands[1]].results, instruction.results
        return sum(array.moved for array in part) + (0 if whole[0].on_chip else sum(array.nbytes for array in part))
    written = sum(array.moved for array in instruction.results)
    if inner is not None and written and (update := _update(inner)) is not None:
        written = update
    read = 0.0
    for number, name in enumerate(instruction.operands):
        whole = sum(array.moved for array in by_name[name].results) if name in by_name else 0
        read += whole if inner is None else min(whole, _read(inner, number, whole))
    return written + read


def _update(fusion: Computation) -> int | None:
    """The bytes that a fusion writes if all it does is to change a part of an array in place."""
    root = fusion.by_name[fusion.root]
    while root.opcode in ("bitcast", "copy"):
        root = fusion.by_name[root.operands[0]]
    if root.opcode != "dynamic-update-slice":
        return None
    return sum(array.nbytes for array in fusion.by_name[root.operands[1]].results)


def _read(fusion: Computation, number: int, whole: int) -> float:
    """The bytes that a fusion reads of one of its arguments."""
    names = {
        each.name
        for each in fusion.instructions
        if each.opcode == "parameter" and each.attribute("value") == str(number)
    }
    grown = True
    while grown:  # a bitcast of an argument is the argument
        more = {
            each.name for each in fusion.instructions if each.opcode == "bitcast" and set(each.operands) <= names
        } - names
        names, grown = names | more, bool(more)
    users = [each for each in fusion.instructions if names & set(each.operands) and each.opcode != "bitcast"]
    read = 0.0
    for each in users:
        if each.opcode in ("dynamic-slice", "slice", "gather") and each.operands[0] in names:
            read += sum(array.nbytes for array in each.results)
        elif each.opcode == "dynamic-update-slice" and each.operands[0] in names:
            read += 0  # what is changed in place is not read
        else:
            return whole
    return read
