"""A reader of compiled programs: the text of an optimised HLO module, as `jax.stages.Compiled.as_text` gives it.

Only what a plan needs is read: the instructions of each computation, the arrays they take and make, the computations
they call and how often, and the line of Python that each came from.
"""

import json
import math
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

_NAME = re.compile(r"%([\w.\-]+)")
_ARRAY = re.compile(r"\b(pred|token|opaque|[suf]\d+\w*|bf16|c64|c128)\[([\d,]*)\](?:\{([^}]*)\})?")
_BITS = re.compile(r"\d+")
_COMPUTATION = re.compile(r"^(?P<entry>ENTRY )?%(?P<name>[\w.\-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"^\s+(?P<root>ROOT )?%(?P<name>[\w.\-]+) = ")
_CALLED = re.compile(
    r"\b(?P<role>calls|to_apply|body|condition|true_computation|false_computation|branch_computations|"
    r"called_computations)=(?:\{(?P<many>[^}]*)\}|%(?P<one>[\w.\-]+))"
)
_ROW = re.compile(r'^(?P<id>\d+) (?:"(?P<text>.*)"|\{(?P<fields>.*)\})$')
_ROOT = Path(__file__).parents[2].as_posix()
_TABLES = ("FileNames", "FunctionNames", "FileLocations", "StackFrames")


@dataclass(frozen=True)
class Array:
    """The type and the shape of an array, and whether it lies within a TPU, not in its memory."""

    dtype: str
    shape: tuple[int, ...]
    on_chip: bool = False

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        if self.dtype in ("token", "opaque"):
            return 0
        bits = 8 if self.dtype == "pred" else int(_BITS.findall(self.dtype)[0])
        return -(-self.size * bits // 8)

    @property
    def moved(self) -> int:
        """The bytes of memory that are read or written with it."""
        return 0 if self.on_chip else self.nbytes


@dataclass(frozen=True)
class Instruction:
    """One instruction.

    Attributes:
        name: its name, without the percent sign.
        opcode: such as "dot", "fusion" or "all-gather-start".
        results: the arrays that it makes; several for a tuple.
        operands: the names of the instructions whose results it takes.
        attributes: the text after the operands.
        called: role ("body", "calls", ...) -> the names of the computations that it runs.
    """

    name: str
    opcode: str
    results: tuple[Array, ...]
    operands: tuple[str, ...]
    attributes: str

    @cached_property
    def called(self) -> Mapping[str, tuple[str, ...]]:
        found = {}
        for match in _CALLED.finditer(self.attributes):
            found[match["role"]] = (match["one"],) if match["one"] else tuple(_NAME.findall(match["many"]))
        return found

    def attribute(self, name: str) -> str | None:
        """The value of `name=value`, up to the next comma outside braces and brackets; None if there is none."""
        start = re.search(rf"(?:^|[ ,]){re.escape(name)}=", self.attributes)
        if start is None:
            return None
        end = _end(self.attributes, start.end(), ",")
        if self.attributes.startswith("mesh[", start.end()):  # a mesh, perhaps its devices, then axes in braces
            end = self.attributes.index("}", start.end()) + 1
        return self.attributes[start.end() : end]


@dataclass(frozen=True)
class Computation:
    """Instructions in the order of the schedule; the last one of them that is marked as root gives the result."""

    name: str
    instructions: tuple[Instruction, ...]
    root: str

    @cached_property
    def by_name(self) -> Mapping[str, Instruction]:
        return {instruction.name: instruction for instruction in self.instructions}


@dataclass(frozen=True)
class Unstated:
    """What decides how often a program's instructions run and is not in its text, because it is data.

    Attributes:
        trips: of a loop that runs to a number among the arguments; None if that is unknown.
        shares: the scope of a condition (`jax.named_scope`) -> the share of its runs in which it holds.
    """

    trips: int | None = None
    shares: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Module:
    """A program: its computations by name, the name of the first one, and where its instructions came from."""

    computations: Mapping[str, Computation]
    entry: str
    frames: Mapping[int, str]

    @cached_property
    def chains(self) -> Mapping[tuple[str, str], tuple[str, str]]:
        """(computation, fusion) -> the first and the last fusion of the chain that it is a link of.

        A TPU sends while it computes in a chain of fusions: the first one starts a collective, those in between have
        work of their own, and the last one waits. All of them name the collective and its channel.
        """
        found = {}
        for computation in self.computations.values():
            links: dict[str, list[str]] = defaultdict(list)
            for each in computation.instructions:
                if each.opcode == "fusion":
                    inside = self.computations[each.called["calls"][0]].instructions
                    for channel in {inner.attribute("channel_id") for inner in inside} - {None}:
                        links[str(channel)].append(each.name)
            for names in links.values():
                if len(names) > 1:
                    found |= {(computation.name, name): (names[0], names[-1]) for name in names}
        return found

    def runs(self, unstated: Unstated | None = None) -> "Iterator[Run]":
        """Every instruction that is scheduled by itself, with the number of times that it runs.

        Loops and conditionals are entered. Of a conditional's branches all are taken to run unless `unstated` has the
        share of each. Fusions are not entered: they are one instruction of the schedule.
        """
        yield from self._runs(self.entry, 1, True, unstated or Unstated())

    def _runs(self, name: str, times: float, known: bool, unstated: Unstated) -> "Iterator[Run]":
        computation = self.computations[name]
        for instruction in computation.instructions:
            yield from self.entered(Run(computation, instruction, times, known), unstated)

    def entered(self, run: "Run", unstated: Unstated) -> "Iterator[Run]":
        """What is scheduled within a loop, a conditional or a call; any other instruction itself."""
        computation, instruction = run.computation, run.instruction
        if instruction.opcode == "while":
            trips = self.trips(computation, instruction)
            trips = unstated.trips if trips is None else trips
            for body in instruction.called["body"]:
                often = run.times * (1 if trips is None else trips)
                yield from self._runs(body, often, run.known and trips is not None, unstated)
        elif instruction.opcode in ("conditional", "call"):
            for each, share in _branches(instruction, unstated.shares):
                yield from self._runs(each, run.times * share, run.known, unstated)
        else:
            yield run

    def trips(self, computation: Computation, loop: Instruction) -> int | None:
        """How often a loop runs, if it counts from a constant to a constant, as all of JAX's do; None if not."""
        if stated := re.search(r'"known_trip_count":\{"n":"(\d+)"\}', loop.attributes):
            return int(stated[1])
        condition = self.computations[loop.called["condition"][0]]
        root = condition.by_name[condition.root]
        if root.opcode == "fusion":  # a comparison of the fusion's two arguments
            inner = self.computations[root.called["calls"][0]]
            compare = inner.by_name[inner.root]
            arguments = [inner.by_name[name] for name in compare.operands]
            sides = [
                condition.by_name[root.operands[int(_parameter(each))]] if each.opcode == "parameter" else each
                for each in arguments
            ]
        else:
            compare = root
            sides = [condition.by_name[name] for name in compare.operands]
        if compare.opcode != "compare" or compare.attribute("direction") != "LT" or len(sides) != 2:
            return None
        counter, limit = sides
        end, index = _constant(limit), counter.attribute("index")
        if end is None or counter.opcode != "get-tuple-element" or index is None:
            return None
        state = computation.by_name[loop.operands[0]]
        first = None
        if state.opcode == "tuple":
            first = _constant(_source(computation, computation.by_name[state.operands[int(index)]]))
        return None if first is None else max(end - first, 0)

    def source(self, instruction: Instruction) -> str:
        """The line of Python that an instruction came from, "file:line", and "" if the compiler made it."""
        if found := re.search(r"stack_frame_id=(\d+)", instruction.attributes):
            return _from_root(self.frames.get(int(found[1]), ""))
        file = re.search(r'source_file="([^"]*)"', instruction.attributes)
        line = re.search(r"source_line=(\d+)", instruction.attributes)
        return _from_root(f"{file[1]}:{line[1]}") if file and line else ""


def _from_root(path: str) -> str:
    """A path from this repository's root, or from the folder of packages, so that it is the same on every machine."""
    return path.removeprefix(f"{_ROOT}/").rpartition("site-packages/")[2]


@dataclass(frozen=True)
class Run:
    """An instruction of the schedule.

    Attributes:
        computation: the computation it is in.
        times: how often it runs in one call of the program; a mean where a condition decides.
        known: whether the trips of all loops around it are known; an unknown loop counts once.
    """

    computation: Computation
    instruction: Instruction
    times: float
    known: bool

    @property
    def operands(self) -> list[Array]:
        """The arrays that it takes."""
        taken = (self.computation.by_name.get(name) for name in self.instruction.operands)
        return [array for each in taken if each is not None for array in each.results]


def parse(text: str) -> Module:
    """Read a module's text.

    Raises:
        ValueError: the text is no HLO module.
    """
    computations: dict[str, Computation] = {}
    tables: dict[str, dict[int, re.Match[str]]] = {name: {} for name in _TABLES}
    entry, name, root, instructions, table = "", "", "", [], ""
    for line in text.splitlines():
        if name:
            if line.startswith("}"):  # on TPU7x the name of a core of another kind may follow
                computations[name] = Computation(name, tuple(instructions), root)
                name = ""
            elif found := _INSTRUCTION.match(line):
                instructions.append(_instruction(found["name"], line[found.end() :]))
                root = found["name"] if found["root"] else root
        elif found := _COMPUTATION.match(line):
            name, root, instructions = found["name"], "", []
            entry = name if found["entry"] else entry
        elif line in _TABLES:
            table = line
        elif table and (found := _ROW.match(line)):
            tables[table][int(found["id"])] = found
    if not entry:
        raise ValueError("the text has no entry computation, expected an HLO module")
    return Module(computations, entry, _frames(tables))


def _instruction(name: str, rest: str) -> Instruction:
    """An instruction from the text after its name: TYPE opcode(operands), attributes."""
    kind = rest[: _end(rest, 0, " ")]
    opcode, _, _ = rest[len(kind) + 1 :].partition("(")
    start = len(kind) + 1 + len(opcode) + 1
    end = _end(rest, start, ")")
    operands = rest[start:end]
    results = tuple(
        # Only a TPU's layouts have tiles, and only there is the memory of this number within the chip.
        Array(dtype, tuple(int(size) for size in shape.split(",") if size), "S(1)" in layout and "T(" in layout)
        for dtype, shape, layout in _ARRAY.findall(kind)
    )
    # What a constant or a parameter has in its brackets is a value, and is kept before the attributes.
    value = f"value={operands}, " if opcode in ("constant", "parameter") else ""
    return Instruction(name, opcode, results, tuple(_NAME.findall(operands)), value + rest[end + 1 :].lstrip(", "))


def _end(text: str, start: int, stop: str) -> int:
    """The place of the first `stop` from `start` on that is outside brackets and quotes; the end if there is none."""
    depth, quoted = 0, False
    for place in range(start, len(text)):
        letter = text[place]
        if letter == '"' and text[place - 1] != "\\":
            quoted = not quoted
        elif quoted:
            continue
        elif letter == stop and depth == 0:
            return place
        elif letter in "([{":
            depth += 1
        elif letter in ")]}":
            depth -= 1
    return len(text)


def _branches(instruction: Instruction, shares: Mapping[str, float]) -> Iterator[tuple[str, float]]:
    """The computations that a call or a conditional may run, and the share of its runs in which it runs each."""
    scope = re.search(r'op_name="[^"]*?([^"/]+)/cond"', instruction.attributes)
    holds = shares.get(scope[1]) if scope else None
    for role, names in instruction.called.items():
        for place, name in enumerate(names):
            if holds is None or instruction.opcode != "conditional":
                yield name, 1.0
            else:
                # JAX numbers the branches: 0 if the condition does not hold, 1 if it does.
                yield name, holds if role == "true_computation" or (role[0] == "b" and place == 1) else 1.0 - holds


def _parameter(instruction: Instruction) -> str:
    return instruction.attribute("value") or "0"


def _constant(instruction: Instruction | None) -> int | None:
    """The value of an integer constant; None for anything else."""
    if instruction is None or instruction.opcode != "constant":
        return None
    value = instruction.attribute("value") or ""
    return int(value) if re.fullmatch(r"-?\d+", value) else None


def _source(computation: Computation, instruction: Instruction) -> Instruction | None:
    """What a copy is a copy of."""
    while instruction.opcode in ("copy", "bitcast", "convert"):
        instruction = computation.by_name[instruction.operands[0]]
    return instruction


def _frames(tables: Mapping[str, Mapping[int, re.Match[str]]]) -> dict[int, str]:
    """The innermost place, "file:line", of each stack frame."""
    files = {number: row["text"] for number, row in tables["FileNames"].items()}
    places = {}
    for number, row in tables["FileLocations"].items():
        fields = _fields(row["fields"])
        places[number] = f"{files.get(fields['file_name_id'], '')}:{fields['line']}"
    return {
        number: places.get(_fields(row["fields"])["file_location_id"], "")
        for number, row in tables["StackFrames"].items()
    }


def _fields(text: str) -> dict[str, int]:
    return {key: int(value) for key, value in re.findall(r"(\w+)=(\d+)", text)}


def config_of(instruction: Instruction) -> dict[str, object]:
    """The compiler's own notes on an instruction; empty if there are none."""
    text = instruction.attribute("backend_config")
    try:
        found = json.loads(text) if text else {}
    except json.JSONDecodeError:
        return {}
    return found if isinstance(found, dict) else {}
