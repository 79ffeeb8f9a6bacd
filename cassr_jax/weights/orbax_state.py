"""Orbax's states: trees of arrays by the parameters' names, of which a part is read at a time.

A network's own state is the folder `state` beside its config.json. It has one tree, `params`, with each parameter under
this program's name and in its axes (a convolution's kernel is HWIO), as the state of a training run has it.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from cassr_jax.errors import InputError
from cassr_jax.weights.convert import to_torch, torch_name
from cassr_jax.weights.quiet import quieten_readers

PARAMS = "params"
_MOST = 256 * 2**20  # bytes that are read at once, unless one array is larger

Check = Callable[[str, np.ndarray], None]


class StoredArray(NamedTuple):
    """An array as its state lists it."""

    shape: tuple[int, ...]
    dtype: np.dtype


@dataclass(frozen=True)
class StateTree:
    """The arrays of one tree of a state, by the parameters' names.

    Attributes:
        expected: what should be there in place of a damaged state, for messages.
        check: called with each array that was read; raises an InputError if it is not what was saved.
    """

    folder: Path
    tree: str
    arrays: Mapping[str, StoredArray]
    expected: str
    check: Check = lambda name, array: None

    def reader(self, names: Sequence[str]) -> Callable[[str], np.ndarray]:
        """What reads one of `names`.

        Neighbours are read together and kept until one of others is wanted: every read opens the state anew, which
        takes a while.
        """
        group_of = {name: group for group in map(tuple, self._groups(names)) for name in group}
        read = lru_cache(maxsize=1)(self._read)
        return lambda name: read(group_of[name])[name]

    def _read(self, names: Sequence[str]) -> dict[str, np.ndarray]:
        restore = ocp.args.PyTreeRestore(
            item={self.tree: dict.fromkeys(names, 0)},
            restore_args={self.tree: {name: ocp.RestoreArgs(restore_type=np.ndarray) for name in names}},
            partial_restore=True,
        )
        quieten_readers()
        try:
            found = ocp.PyTreeCheckpointer().restore(self.folder, args=restore)[self.tree]
        except Exception as error:  # Orbax's readers have errors of many classes for a damaged file
            raise _damaged(self.folder, f"{self.tree} cannot be read", error, self.expected) from error
        for name, array in found.items():
            self.check(name, array)
        return found

    def _groups(self, names: Sequence[str]) -> Iterator[list[str]]:
        group, size = [], 0
        for name in names:
            nbytes = math.prod(self.arrays[name].shape) * self.arrays[name].dtype.itemsize
            if group and size + nbytes > _MOST:
                yield group
                group, size = [], 0
            group.append(name)
            size += nbytes
        yield group


def open_state(folder: Path, tree: str, expected: str) -> StateTree:
    """One tree of a state; its arrays are not read.

    Args:
        expected: what should be there in place of a damaged state, for messages.

    Raises:
        InputError: the state is damaged, or has no such tree.
    """
    quieten_readers()
    try:
        trees = ocp.StandardCheckpointHandler().metadata(epath.Path(folder)).tree
    except Exception as error:  # as for the arrays
        raise _damaged(folder, "its list of arrays cannot be read", error, expected) from error
    found = trees.get(tree) if isinstance(trees, Mapping) else None
    if not isinstance(found, Mapping) or not all(hasattr(leaf, "shape") for leaf in found.values()):
        raise InputError(f"{folder}: has no tree {tree} of arrays by the parameters' names, expected {expected}")
    arrays = {name: StoredArray(tuple(leaf.shape), np.dtype(leaf.dtype)) for name, leaf in found.items()}
    return StateTree(folder, tree, arrays, expected)


def _damaged(folder: Path, what: str, error: Exception, expected: str) -> InputError:
    return InputError(f"{folder}: {what} ({' '.join(str(error).split())[:200]}), expected {expected}")


@dataclass(frozen=True)
class _StateTensor:
    """An array of a state in the axes of torch, as a `Tensor`."""

    name: str
    array: StoredArray
    fetch: Callable[[str], np.ndarray]

    @property
    def shape(self) -> tuple[int, ...]:
        return to_torch(self.name, np.broadcast_to(np.zeros((), self.dtype), self.array.shape)).shape

    @property
    def dtype(self) -> np.dtype:
        return self.array.dtype

    def read(self) -> np.ndarray:
        return to_torch(self.name, self.fetch(self.name))


def read_state(folder: Path) -> dict[str, _StateTensor]:
    """The tensors of a network's own state by the names that torch has for them, each to be read on demand.

    Raises:
        InputError: the state is damaged, or that of something else.
    """
    state = open_state(folder, PARAMS, "a network's state as `convert --layout orbax` writes it")
    fetch = state.reader([*state.arrays])
    return {torch_name(name): _StateTensor(name, array, fetch) for name, array in state.arrays.items()}


def write_state(folder: Path, params: Mapping[str, np.ndarray]) -> None:
    """Write a network's own state; nothing may be at `folder`.

    Raises:
        InputError: it cannot be written.
    """
    try:
        with ocp.PyTreeCheckpointer() as checkpointer:
            checkpointer.save(folder.absolute(), args=ocp.args.PyTreeSave({PARAMS: dict(params)}))
    except (OSError, ValueError) as error:
        raise InputError(f"{folder}: cannot be written ({' '.join(str(error).split())[:200]})") from error
