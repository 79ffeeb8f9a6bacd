"""Published networks: config.json and weights in a folder, a single file, or a repository of the hub.

Names and layouts on disk are torch's. Torch diffusers loads the folders of U-Nets, ControlNets and autoencoders that
are written here, transformers those of text encoders.
"""

import logging
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike, DTypeLike

from cassr_jax.errors import InputError
from cassr_jax.files import Json, exists, is_file, read_json, write_json
from cassr_jax.models.parameters import Shapes
from cassr_jax.models.vae import VAEConfig
from cassr_jax.weights.configs import Config, ConfigFormat
from cassr_jax.weights.convert import to_torch, torch_name
from cassr_jax.weights.families import refuse_pipeline, refuse_tensors
from cassr_jax.weights.files import STATE, STATE_LIST, SUFFIXES, Tensors, find_weights, read_tensors, weight_names
from cassr_jax.weights.hub import PIPELINE, Part, fetch, is_hub_id
from cassr_jax.weights.layouts import Detect, is_float, match, plain_layout
from cassr_jax.weights.safetensors import write_safetensors
from cassr_jax.weights.single_file import held_configs
from cassr_jax.weights.tensors import Shape, Weights

logger = logging.getLogger(__name__)

ShapesOf = Callable[[Config], Shapes]

# Published as 1x1 convolutions, linear layers here.
_PROJECTION = re.compile(r"attentions\.\d+\.proj_(in|out|in_plus)\.kernel$")


@dataclass(frozen=True)
class Published:
    """How one kind of network is published.

    Attributes:
        sd15: the config assumed for a file without one.
        config: the format of its config.json.
        folders: its possible folders in a whole pipeline; the first is the one written here.
        layout: recognises the known names of its tensors.
        harmless: matches the names of tensors beside its parameters that may be ignored.
        stem: the stem of its weight file's name.
        old_stem: the stem for torch.save's files, if it differs.
        flax_name: the name of its file in Flax's format.
        projections: whether its transformers' projections are published as 1x1 convolutions.
        check_assumption: checks the tensors of a file that comes without a config.
        completed: completes a config by what the names in the file say and the config does not.
        originals: the names of its files where its author publishes them under others; see `weight_names`.
        read: reads the tensors of a file.
        scheduled: whether a pipeline's scheduler says how it was trained.
    """

    sd15: Config
    config: ConfigFormat
    folders: tuple[str, ...]
    layout: Detect = plain_layout
    harmless: re.Pattern[str] | None = None
    stem: str = "diffusion_pytorch_model"
    old_stem: str = ""
    flax_name: str = "diffusion_flax_model.msgpack"
    projections: bool = False
    check_assumption: Callable[[Tensors, str], None] | None = None
    completed: Callable[[Any, Collection[str]], Config] | None = None
    originals: Sequence[list[str]] = ()
    read: Callable[[Path], Tensors] = read_tensors
    scheduled: bool = False

    @property
    def name(self) -> str:
        return self.folders[0]

    @property
    def file(self) -> str:
        """The name of the weight file that is written."""
        return f"{self.stem}.safetensors"

    @property
    def files(self) -> list[list[str]]:
        """The names of weight files that can be read, best first; see `weight_names`."""
        return [*weight_names([self.stem, *filter(None, [self.old_stem])], self.flax_name), *self.originals]

    def open(self, source: str | Path, shapes_of: ShapesOf, config: Config | None = None) -> Weights:
        """The weights of a source, checked against the network.

        A source is a folder with config.json and weights, a folder that contains such a folder (`controlnet/`), a
        weight file in diffusers', Flax's or an original layout, or a hub id (`owner/name` or `owner/name:folder`). If a
        folder has both, float32 files are preferred to half precision.

        Args:
            shapes_of: gives the shapes of a network's parameters, from its config.
            config: replaces config.json, and the config in a file written here. Without any of them, the widths are
                assumed to be Stable Diffusion 1.5's.

        Raises:
            InputError: nothing usable is there, the config describes a network not built here, or tensors are missing,
                unexpected or wrongly shaped; the message lists them by name.
        """
        path = self.locate(source)
        beside = path.parent / "config.json"
        # A folder's config belongs to it, but a config.json beside a single file may be that of another network.
        described = self.config.describes(beside) if Path(source) == path else is_file(beside)
        tensors = self.read(path)
        hint = ""
        held = None if config is not None else self._held_config(path)
        if held is not None:
            config = held
        elif config is None and described:
            config = self.config.read(beside)
        elif config is None:
            config = self.sd15
            refuse_tensors(self.folders[-1], tensors, str(path))
            hint = (
                f"without a config.json of a {self.name} beside it, it should have the widths of Stable Diffusion 1.5"
            )
            if self.check_assumption is not None:
                self.check_assumption(tensors, str(path))
        if self.completed is not None:
            config = self.completed(config, tensors.keys())
        shapes = shapes_of(config)
        layout = match(self.layout, tensors, shapes, str(path), harmless=self.harmless, hint=hint)

        def read(name: str) -> np.ndarray:
            return layout.convert(name, tensors[layout[name]].read(), len(shapes[name].shape))

        return Weights(path, config, shapes, {name: tensors[layout[name]].dtype for name in shapes}, read)

    def _held_config(self, path: Path) -> Config | None:
        """The config in the metadata of a file that `write_original` wrote; None for any other file."""
        held = held_configs(path)
        return next((self.config.read_fields(held[name], str(path)) for name in self.folders if name in held), None)

    def configuration(self, source: str | Path) -> Config:
        """The config of a network, read without its weights; Stable Diffusion 1.5's if there is no config.json."""
        if is_file(source):
            return self._held_config(Path(source)) or self.sd15
        files = [Path(source, folder, "config.json") for folder in ("", *self.folders)]
        file = next((file for file in files if self.config.describes(file)), None)
        config = self.sd15 if file is None else self.config.read(file)
        weights = find_weights(file.parent, self.files) if file is not None and self.completed is not None else None
        return config if weights is None or self.completed is None else self.completed(config, read_tensors(weights))

    def locate(self, source: str | Path) -> Path:
        """The weight file of a network: `source` itself, or the best one in or below that folder or hub id."""
        path = Path(source)
        if is_file(path):
            return path
        return self._locate_in(path if exists(path) else fetch(self._part(str(source))))

    def part(self, source: str) -> Part | None:
        """What is to be fetched from the hub; None if the network lies on this disk.

        Raises:
            InputError: it is neither on this disk nor a hub id.
        """
        if not exists(source):
            return self._part(source)
        self.locate(source)
        return None

    def _part(self, source: str) -> Part:
        if not is_hub_id(source):
            raise InputError(
                f"{source}: no such file or folder, and no hub id either (`owner/name` or `owner/name:folder`)"
            )
        groups = [*self.files, [f"{STATE}/{STATE_LIST}", f"{STATE}/*"]]
        return Part(source, f"weights of a {self.name}", self.folders, groups, ("config.json",), self.scheduled)

    def _locate_in(self, folder: Path) -> Path:
        candidates = [folder, *(folder / name for name in self.folders)]
        described = [place for place in candidates if self.config.describes(place / "config.json")]
        for place in [*described, *candidates]:
            if weights := find_weights(place, self.files):
                return weights
        if is_file(index := folder / PIPELINE):
            refuse_pipeline(str(read_json(index).get("_class_name")), str(folder))
        wanted = " or ".join(first for first, *_ in self.files[:2])
        places = f"in it or in its folder {self.name}"
        loose = sorted(file.name for file in folder.glob("*") if file.suffix in SUFFIXES)
        if loose:
            raise InputError(f"{folder}: there is no {wanted} {places}; if {', '.join(loose)} is meant, give that file")
        raise InputError(f"{folder}: there are no weights of a {self.name}, expected {wanted} {places}")

    def write(
        self,
        folder: Path | str,
        config: Config,
        shapes: Shapes,
        params: Mapping[str, ArrayLike],
        dtype: DTypeLike | None = None,
    ) -> None:
        """Write config.json and a safetensors file into `folder`; floats are cast to `dtype` if it is given.

        Each file is replaced whole, never left half written.

        Raises:
            ValueError: the parameters do not fit.
            InputError: the folder or a file cannot be written, or a number is too large for `dtype`.
        """
        found = {name: np.shape(value) for name, value in params.items()}
        if wrong := sorted(
            name for name in shapes.keys() | found if name not in shapes or found.get(name) != shapes[name].shape
        ):
            raise ValueError(f"parameters do not fit the {self.name}: {', '.join(wrong)}")
        dtypes = {name: np.dtype(getattr(params[name], "dtype", np.float32)) for name in shapes}
        self.copy(folder, Weights(Path(folder), config, shapes, dtypes, lambda name: np.asarray(params[name])), dtype)

    def copy(self, folder: Path | str, weights: Weights, dtype: DTypeLike | None = None) -> None:
        """Write config.json and a safetensors file into `folder`, one parameter after the other.

        Each file is replaced whole, never left half written.

        Args:
            dtype: the type of the floats; by default each keeps its own, and every bit.

        Raises:
            InputError: the folder or a file cannot be written, or a number is too large for `dtype`.
        """
        types, read = self.published_tensors(weights, dtype)
        write_json(Path(folder, "config.json"), self.config_json(weights.config))
        write_safetensors(Path(folder, self.file), types, read)

    def copy_state(self, folder: Path | str, weights: Weights, dtype: DTypeLike | None = None) -> None:
        """Write config.json and the parameters as an Orbax state into `folder`, which holds none; `dtype` as above.

        The whole network is held in memory.

        Raises:
            InputError: the folder or a file cannot be written, or a number is too large for `dtype`.
        """
        from cassr_jax.weights.orbax_state import write_state  # Orbax takes seconds to import

        types = {name: stored_type(own, dtype) for name, own in weights.dtypes.items()}
        write_json(Path(folder, "config.json"), self.config_json(weights.config))
        read = {name: _cast(weights.fetch(name), types[name], f"{weights.path}: {name}") for name in weights.shapes}
        write_state(Path(folder, STATE), read)

    def config_json(self, config: Config) -> Json:
        """The content of the network's config.json."""
        return dict(sorted(self.config.write(config).items()))

    def published_tensors(
        self, weights: Weights, dtype: DTypeLike | None = None
    ) -> tuple[dict[str, tuple[Shape, np.dtype]], Callable[[str], np.ndarray]]:
        """The shapes and types of a network's tensors under their published names, and what reads one of them."""
        names = {torch_name(name): name for name in weights.shapes}
        types = {name: stored_type(own, dtype) for name, own in weights.dtypes.items()}

        def read(theirs: str) -> np.ndarray:
            name = names[theirs]
            return self._to_torch(name, _cast(weights.fetch(name), types[name], f"{weights.path}: {name}"))

        # Broadcasting gives the shapes of the published layout without using memory.
        views = {
            theirs: self._to_torch(name, np.broadcast_to(np.zeros((), types[name]), weights.shapes[name].shape))
            for theirs, name in names.items()
        }
        return {name: (view.shape, view.dtype) for name, view in views.items()}, read

    def _to_torch(self, name: str, array: np.ndarray) -> np.ndarray:
        array = to_torch(name, array)
        return array[:, :, None, None] if self.projections and _PROJECTION.search(name) else array


def stored_type(own: np.dtype, dtype: DTypeLike | None) -> np.dtype:
    """The type in which a tensor is written: `dtype` for floats if it is given, or else its own."""
    return own if dtype is None or not is_float(own) else jnp.dtype(dtype)


def _cast(array: np.ndarray, dtype: np.dtype, what: str) -> np.ndarray:
    with np.errstate(over="ignore"):  # said below, with the tensor's name
        cast = array.astype(dtype, copy=False)
    if dtype != array.dtype and (lost := np.isfinite(array) & ~np.isfinite(cast)).any():
        raise InputError(f"{what} holds {array[lost][0]}, which is too large for {dtype}, expected a wider type")
    return cast


def check_scaling_factor(tensors: Tensors, source: str) -> None:
    """Checks the assumed scaling factor, which is not among the weights; a wrong one distorts all colours."""
    if any(name.startswith("cond_stage_model.transformer.") for name in tensors):
        return
    factor = VAEConfig().scaling_factor
    if any(name.startswith("conditioner.embedders.") for name in tensors):
        raise InputError(
            f"{source}: is Stable Diffusion XL's and has no config.json, expected one, since its scaling_factor is not "
            f"{factor}"
        )
    logger.warning("%s: no config.json is beside it, so a scaling_factor of %s is assumed", source, factor)
