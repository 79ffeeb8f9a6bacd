"""The data in a pickle, without running it.

A pickle is a program for a stack machine that may import and call anything. This interpreter knows only the
instructions that assemble data. A global stays a name, only the functions that the caller lists are called, and the
result of any other call is an inert placeholder.
"""

import pickletools
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

from cassr_jax.errors import InputError

_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_LITERALS = {
    *("BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT"),
    *("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BINSTRING", "SHORT_BINSTRING"),
}
_EMPTY = {"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


@dataclass(frozen=True)
class Global:
    """The name of a global in a pickle; nothing is imported."""

    name: str


@dataclass(frozen=True, eq=False)
class Inert:
    """A placeholder for an object that is not plain data: the name of the function that the pickle would call."""

    name: str


class Built:
    """An object whose state the pickle sets after its creation."""

    state: Any = None


def read_pickle(
    stream: BinaryIO,
    what: str,
    calls: Mapping[str, Callable[..., object]],
    persistent: Callable[[Any], object] | None = None,
) -> Any:
    """Read one pickle from `stream`, which is left at the pickle's end.

    `calls` lists, by dotted name (`collections.OrderedDict`), the functions that may be called; `persistent` turns a
    persistent id into an object. The state of a `Built` is stored in it; the state of a dictionary is dropped (torch
    keeps `_metadata` there). Any other call results in an `Inert`, and anything put into that is dropped, as is an
    entry of a dictionary whose key is neither text nor a number.

    Raises:
        InputError: the pickle is damaged, or uses an instruction that torch and NumPy do not. `what` names the file in
            the message.
    """
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[int, object] = {}

    def pop_to_mark() -> list[object]:
        start = marks.pop()
        items = stack[start:]
        del stack[start:]
        return items

    def refuse(request: str) -> InputError:
        return InputError(f"{what}: its pickle asks for {request}, expected only plain data and arrays")

    try:
        argument: Any
        for opcode, argument, _ in _instructions(stream):
            name = opcode.name
            if name in _LITERALS:
                stack.append(argument)
            elif name in _CONSTANTS:
                stack.append(_CONSTANTS[name])
            elif name in _EMPTY:
                stack.append(_EMPTY[name]())
            elif name in _TUPLES:
                items = tuple(stack[-_TUPLES[name] :])
                del stack[-_TUPLES[name] :]
                stack.append(items)
            elif name == "TUPLE":
                stack.append(tuple(pop_to_mark()))
            elif name == "MARK":
                marks.append(len(stack))
            elif name in ("BINPUT", "LONG_BINPUT"):
                memo[argument] = stack[-1]
            elif name == "MEMOIZE":
                memo[len(memo)] = stack[-1]
            elif name in ("BINGET", "LONG_BINGET"):
                stack.append(memo[argument])
            elif name in ("APPEND", "APPENDS"):
                items = [stack.pop()] if name == "APPEND" else pop_to_mark()
                if isinstance(stack[-1], list):
                    stack[-1].extend(items)
                elif not isinstance(stack[-1], Inert):
                    raise refuse("an append to something other than a list")
            elif name == "EMPTY_SET":
                stack.append(Inert("set"))
            elif name in ("ADDITEMS", "FROZENSET"):
                pop_to_mark()
                if name == "FROZENSET":
                    stack.append(Inert("frozenset"))
            elif name in ("SETITEM", "SETITEMS"):
                if name == "SETITEM":
                    marks.append(len(stack) - 2)
                items = pop_to_mark()
                if not isinstance(stack[-1], dict | Inert):
                    raise refuse("an item in something other than a dictionary")
                if isinstance(stack[-1], dict):
                    # Hashing other keys could take for ever: a few bytes can hold deeply nested tuples.
                    pairs = zip(items[::2], items[1::2], strict=True)
                    stack[-1].update((key, value) for key, value in pairs if isinstance(key, str | int))
            elif name == "GLOBAL":
                stack.append(Global(argument.replace(" ", ".")))
            elif name == "STACK_GLOBAL":
                attribute, module = stack.pop(), stack.pop()
                if not (isinstance(attribute, str) and isinstance(module, str)):
                    raise refuse("a global without a name")
                stack.append(Global(f"{module}.{attribute}"))
            elif name == "REDUCE":
                arguments, function = stack.pop(), stack.pop()
                known = calls.get(function.name) if isinstance(function, Global) else None
                stack.append(_inert(function) if known is None else known(*arguments))
            elif name in ("NEWOBJ", "NEWOBJ_EX"):
                del stack[-1 if name == "NEWOBJ" else -2 :]
                stack.append(_inert(stack.pop()))
            elif name == "BUILD":
                state = stack.pop()
                if isinstance(stack[-1], Built):
                    stack[-1].state = state
                elif not isinstance(stack[-1], dict | Inert):
                    raise refuse("the state of an unknown object")
            elif name == "BINPERSID":
                if persistent is None:
                    raise refuse("a persistent object")
                stack.append(persistent(stack.pop()))
            elif name == "STOP":
                return stack.pop()
            elif name not in ("PROTO", "FRAME"):
                raise refuse(f"the instruction {name}")
    except InputError:
        raise
    except (ValueError, TypeError, IndexError, KeyError, OverflowError) as error:
        raise InputError(f"{what}: its pickle is damaged ({error})") from error
    raise InputError(f"{what}: its pickle has no end")


def _inert(function: object) -> Inert:
    return Inert(getattr(function, "name", type(function).__name__))


def _instructions(stream: BinaryIO) -> Iterator[tuple[pickletools.OpcodeInfo, Any, int | None]]:
    """The pickle's instructions, read without warnings about unknown escapes in text.

    An instruction with such text is refused later.
    """
    instructions = pickletools.genops(stream)
    while True:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            instruction = next(instructions, None)
        if instruction is None:
            return
        yield instruction
