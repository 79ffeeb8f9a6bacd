"""Programs that are kept between runs, so that the next start neither traces nor lowers them again.

JAX keeps what XLA has compiled, but it traces and lowers every function at each start, which takes longer than reading
the compiled ones. Here a function is exported once, as StableHLO (`jax.export`), and the next run reads that. Its key
holds everything that affects tracing: the function, the networks, the shapes of the arguments, the devices, the
versions of the libraries, and this package's own source. An entry that is damaged or has another key is made anew.
"""

import hashlib
import json
import os
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import jax
from jax import export
from jax.sharding import Mesh
from jax.stages import Wrapped

from cassr_jax.compiled import PROGRAMS
from cassr_jax.errors import InputError
from cassr_jax.files import parse_json, replaced
from cassr_jax.printing import complain

MOST = 200  # entries in the folder; those that were not used for longest make room

_SUFFIX = ".program"
_PACKAGES = ("jax", "jaxlib", "flax", "libtpu", "nvidia-cudnn-cu12", "nvidia-cudnn-cu13")  # the last three have kernels
_SETTINGS = ("jax_enable_x64", "jax_default_matmul_precision")  # JAX's own that change what is traced


def register(*structures: type) -> None:
    """Gives named tuples a lasting name, without which no program can take or return them."""
    for structure in structures:
        name = f"{structure.__module__}.{structure.__qualname__}"
        export.register_namedtuple_serialization(structure, serialized_name=name)


@dataclass(frozen=True)
class Store:
    """A folder of kept programs, for some networks on some devices.

    Attributes:
        folder: holds one file for each program.
        context: everything besides a program's own key on which it depends.
    """

    folder: Path
    context: str

    @classmethod
    def of(cls, mesh: Mesh, networks: object) -> "Store | None":
        """The store that the environment names; None if it names none.

        Args:
            networks: describes the networks by its `repr`.
        """
        folder = os.environ.get(PROGRAMS)
        if not folder:
            return None
        device = mesh.devices.flat[0]
        settings = [getattr(jax.config, name) for name in _SETTINGS]
        versions = (*map(_version, _PACKAGES), _source())
        return cls(Path(folder), repr((versions, settings, device.platform, device.device_kind, mesh.shape, networks)))

    def wrapped(self, key: tuple[Hashable, ...], function: Wrapped, donate: tuple[int, ...]) -> "Wrapped | Kept":
        """The jitted `function`, which is kept; it is returned as it is if its key has no lasting description."""
        described = _described(key)
        return function if described is None else Kept(self, f"{self.context} {described}", function, donate)

    def read(self, key: str) -> export.Exported | None:
        """The program of that key, if there is a sound one."""
        path = self._path(key)
        try:
            header, _, program = path.read_bytes().partition(b"\n")
            os.utime(path)
            if parse_json(header, path) == _header(key, program):
                return export.deserialize(bytearray(program))
        except FileNotFoundError:
            return None
        except (OSError, InputError) as error:
            complain(f"{path}: cannot be used, so the function is traced again ({error})", "programs")
            return None
        complain(f"{path}: damaged, so the function is traced again", "programs")
        return None

    def write(self, key: str, exported: export.Exported) -> None:
        """Keeps a program if the folder can be written; a run does not need it."""
        program = bytes(exported.serialize())
        try:
            with replaced(self._path(key)) as file:
                file.write(json.dumps(_header(key, program)).encode() + b"\n" + program)
            by_age = sorted(self.folder.glob(f"*{_SUFFIX}"), key=lambda path: path.stat().st_mtime)
            for path in by_age[:-MOST]:
                path.unlink(missing_ok=True)
        except (InputError, OSError):
            return

    def _path(self, key: str) -> Path:
        return self.folder / f"{hashlib.sha256(key.encode()).hexdigest()[:40]}{_SUFFIX}"


class Kept:
    """A jitted function whose programs, one for each set of argument shapes, are read from a store or put into it."""

    def __init__(self, store: Store, key: str, function: Wrapped, donate: tuple[int, ...]):
        self._store, self._key, self._function, self._donate = store, key, function, donate
        self._programs: dict[Hashable, Callable[..., Any]] = {}

    def __call__(self, *args: Any) -> Any:
        leaves, structure = jax.tree.flatten(args)
        signature = (structure, *((x.shape, x.dtype) for x in leaves))
        if signature not in self._programs:
            self._programs[signature] = self._program(f"{self._key} {signature}", args)
        return self._programs[signature](*args)

    def _cache_size(self) -> int:
        return len(self._programs)

    def _program(self, key: str, args: Sequence[Any]) -> Callable[..., Any]:
        exported = self._store.read(key)
        if exported is None:
            exported = export.export(self._function)(*args)
            self._store.write(key, exported)
        return jax.jit(exported.call, donate_argnums=self._donate)


def _header(key: str, program: bytes) -> dict[str, str]:
    digest = hashlib.sha256(program).hexdigest()
    return {"key": hashlib.sha256(key.encode()).hexdigest(), "program": digest}


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


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


@cache
def _source() -> str:
    """SHA-256 of this package's modules."""
    root, digest = Path(__file__).parents[1], hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(f"{path.relative_to(root)} {path.stat().st_size}\n".encode() + path.read_bytes())
    return digest.hexdigest()
