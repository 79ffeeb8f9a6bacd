"""Programs that are kept between runs, so that the next start neither traces nor lowers them again.

JAX keeps what XLA has compiled, but it traces and lowers every function at each start, which takes longer than reading
the compiled ones. Here a function is exported once, as StableHLO (`jax.export`), and the next run reads that. Its key
holds everything that affects tracing: the function, the networks, the shapes of the arguments, the devices, the
versions of the libraries, and this package's own source. An entry that is damaged or has another key is made anew.
A thread reads the programs that were used last, while the first ones run.
"""

import atexit
import hashlib
import json
import os
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from threading import Event, Thread
from typing import Any
from weakref import WeakSet

import jax
from jax import export
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jax.stages import Compiled, Wrapped

from cassr_jax.compiled import COMPILERS, PROGRAMS, source_digest, version_of
from cassr_jax.errors import InputError
from cassr_jax.files import Json, parse_json, replaced
from cassr_jax.printing import complain

MOST = 200  # entries in the folder; the least recently used make room

_AHEAD = 16  # programs that are read in the background
_PATIENCE = 2  # seconds that the end of the process waits for the program that is being read
_SUFFIX = ".program"
_BY_VERSION = [export.DisabledSafetyCheck.custom_call("__cudnn$fmhaSoftmax")]  # the key holds cuDNN's version
_SETTINGS = ("jax_enable_x64", "jax_default_matmul_precision")  # JAX's own that change what is traced


_ending = Event()
_reading: WeakSet[Thread] = WeakSet()


@atexit.register
def _end_reading() -> None:
    """Python must not end while a thread compiles, but it need not wait for a long one."""
    _ending.set()
    for thread in tuple(_reading):
        thread.join(_PATIENCE)


def register(*structures: type) -> None:
    """Gives named tuples a lasting name, without which no program can take or return them."""
    for structure in structures:
        name = f"{structure.__module__}.{structure.__qualname__}"
        export.register_namedtuple_serialization(structure, serialized_name=name)


class Store:
    """A folder of kept programs, for some networks on some devices.

    Args:
        folder: holds one file for each program.
        context: everything besides a program's own key on which it depends.
        mesh: the devices.
    """

    def __init__(self, folder: Path, context: str, mesh: Mesh):
        self._folder, self._context, self._mesh = folder, _digest(context.encode()), mesh
        self._ahead: dict[str, Future[Compiled | None]] | None = None

    @classmethod
    def of(cls, mesh: Mesh, networks: object) -> "Store | None":
        """The store that the environment names; None if it names none.

        Args:
            networks: describes the networks by its `repr`.
        """
        folder = os.environ.get(PROGRAMS)
        if not folder:
            return None
        if files := [path for path in (Path(folder), *Path(folder).parents) if os.path.isfile(path)]:
            complain(f"{files[0]}: a file, expected a folder; no programs are kept", "programs")
            return None
        device = mesh.devices.flat[0]
        settings = [getattr(jax.config, name) for name in _SETTINGS]
        versions = (*map(version_of, COMPILERS), source_digest())
        context = repr((versions, settings, device.platform, device.device_kind, mesh.shape, networks))
        return cls(Path(folder), context, mesh)

    def wrapped(self, key: tuple[Hashable, ...], function: Wrapped, call: "Call") -> "Wrapped | Kept":
        """The jitted `function`, which is kept; it is returned as it is if its key has no lasting description."""
        described = _described(key)
        return function if described is None else Kept(self, described, function, call)

    def get(self, key: str, function: Wrapped, args: Sequence[Any], call: "Call") -> Compiled:
        """The program of that key; if there is no sound one, it is exported and kept."""
        path = self._folder / f"{self._context}_{_digest(key.encode())}{_SUFFIX}"
        if self._ahead is None:
            self._ahead = self._begun()
        ahead = self._ahead.pop(path.name, None)
        found = self._read(path) if ahead is None or ahead.cancel() else ahead.result()
        if found is None:
            program = exported(function)(*shapes_of(args, call, self._mesh))
            self._write(path, program, call)
            return self._compiled(program, call)
        with suppress(OSError):  # a folder of somebody else
            os.utime(path)
        return found

    def _begun(self) -> "dict[str, Future[Compiled | None]]":
        """Starts to read the programs of this context that were used last, in the order of their use."""
        names = [path.name for path in _by_last_use(self._folder, f"{self._context}_*")[-_AHEAD:]]
        ahead = {name: Future() for name in names}
        thread = Thread(target=self._read_ahead, args=(tuple(ahead.items()),), daemon=True)
        _reading.add(thread)
        thread.start()
        return ahead

    def _read_ahead(self, ahead: "Sequence[tuple[str, Future[Compiled | None]]]") -> None:
        for name, future in ahead:
            if _ending.is_set():
                return
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(self._read(self._folder / name))
                except Exception as error:  # whoever needs this program is told
                    future.set_exception(error)

    def _read(self, path: Path) -> Compiled | None:
        """The program in a file; None if there is no sound one."""
        try:
            first, _, stored = path.read_bytes().partition(b"\n")
            header = parse_json(first, path)
            call: Any = header.get("call")
            if header == _header(path.name, stored, call):
                return self._compiled(export.deserialize(bytearray(stored)), Call(**call))
        except FileNotFoundError:
            return None
        except (OSError, InputError) as error:
            complain(f"{path}: cannot be used, so the function is traced again ({error})", "programs")
            return None
        complain(f"{path}: damaged, so the function is traced again", "programs")
        return None

    def _write(self, path: Path, program: export.Exported, call: "Call") -> None:
        """Keeps a program if the folder can be written; a run does not need it."""
        stored = bytes(program.serialize())
        try:
            with replaced(path) as file:
                file.write(json.dumps(_header(path.name, stored, asdict(call))).encode() + b"\n" + stored)
            for old in _by_last_use(self._folder)[:-MOST]:
                old.unlink(missing_ok=True)
        except (InputError, OSError):
            return

    def _compiled(self, program: export.Exported, call: "Call") -> Compiled:
        args, _ = jax.tree.unflatten(program.in_tree, program.in_avals)
        shapes = shapes_of(args, call, self._mesh)
        return jax.jit(program.call, donate_argnums=call.donate).lower(*shapes).compile()


@dataclass(frozen=True)
class Call:
    """How a program is called.

    Attributes:
        arguments: the axis of the mesh that divides each argument along its first axis; None for a whole copy on every
            device.
        donate: the numbers of the donated arguments.
    """

    arguments: Sequence[str | None]
    donate: Sequence[int] = ()


def shapes_of(args: Sequence[Any], call: Call, mesh: Mesh) -> list[Any]:
    """The shapes and places of arguments; what an array itself says of its place may differ from run to run."""

    def placed(argument: Any, axis: str | None) -> Any:
        sharding = NamedSharding(mesh, PartitionSpec() if axis is None else PartitionSpec(axis))
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), argument)

    return [placed(argument, axis) for argument, axis in zip(args, call.arguments, strict=True)]


def exported(function: Wrapped, platforms: Sequence[str] | None = None) -> Callable[..., export.Exported]:
    """Gives the program of a jitted function for arguments of given shapes, by default for this machine's devices."""
    return export.export(function, platforms=platforms, disabled_checks=_BY_VERSION)


class Kept:
    """A jitted function whose programs, one for each set of argument shapes, come from a store."""

    def __init__(self, store: Store, key: str, function: Wrapped, call: Call):
        self._store, self._key, self._function, self._call = store, key, function, call
        self._programs: dict[Hashable, Compiled] = {}

    def __call__(self, *args: Any) -> Any:
        leaves, structure = jax.tree.flatten(args)
        signature = (structure, *((x.shape, x.dtype) for x in leaves))
        if signature not in self._programs:
            key = f"{self._key} {self._call} {signature}"
            self._programs[signature] = self._store.get(key, self._function, args, self._call)
        return self._programs[signature](*args)

    def _cache_size(self) -> int:
        return len(self._programs)


def _by_last_use(folder: Path, names: str = "*") -> list[Path]:
    """The programs in a folder, those that were used last at the end."""
    found = {}
    for path in folder.glob(names + _SUFFIX):
        with suppress(OSError):  # another process has removed it, for example
            found[path] = path.stat().st_mtime_ns
    return sorted(found, key=found.__getitem__)


def _digest(*parts: bytes) -> str:
    return hashlib.sha256(b"".join(parts)).hexdigest()[:40]


def _header(name: str, program: bytes, call: object) -> Json:
    call = json.loads(json.dumps(call))
    return {"name": name, "call": call, "digest": _digest(json.dumps(call).encode(), program)}


def _described(value: object) -> str | None:
    """A description that is the same in every run; None for what has none, such as a function within another one."""
    if isinstance(value, tuple):
        parts = [_described(part) for part in value]
        return None if None in parts else f"({', '.join(map(str, parts))})"
    if isinstance(value, partial):
        function, rest = _described(value.func), repr((value.args, sorted(value.keywords.items())))
        return None if function is None or " at 0x" in rest else f"{function}{rest}"
    if callable(value):
        name = f"{value.__module__}.{value.__qualname__}"
        return None if "<" in name else name
    text = repr(value)
    return None if " at 0x" in text else text
