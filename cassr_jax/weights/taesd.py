"""TAESD's weights as its author publishes them: two files, `taesd_encoder` and `taesd_decoder`.

Their names number the layers of a sequence. That of the decoder begins with the function that squashes the latents,
which diffusers has outside of its sequence.
"""

from pathlib import Path

from cassr_jax.errors import InputError
from cassr_jax.files import is_file
from cassr_jax.models.parameters import Shapes
from cassr_jax.weights.convert import torch_name
from cassr_jax.weights.files import Tensors, read_tensors
from cassr_jax.weights.layouts import Layout

_FIRST = {"encoder": 0, "decoder": 1}  # the number of diffusers' first layer in the author's sequence
FILES = [[f"taesd_decoder{suffix}", f"taesd_encoder{suffix}"] for suffix in (".safetensors", ".pth")]
"""The names of the two files; see `weight_names`. The decoder's is the one to read."""


def read_halves(path: Path) -> Tensors:
    """The tensors of a file; of one that is the author's, those of both halves: `taesd_decoder.1.weight`.

    Raises:
        InputError: the file or the other half beside it is absent or damaged.
    """
    halves = {half: path.with_name(f"taesd_{half}{path.suffix}") for half in _FIRST}
    if path not in halves.values():
        return read_tensors(path)
    for half, file in halves.items():
        if not is_file(file):
            raise InputError(f"{file}: no such file, expected TAESD's {half} beside {path.name}")
    return {f"{file.stem}.{name}": tensor for file in halves.values() for name, tensor in read_tensors(file).items()}


def taesd_layout(names: set[str], shapes: Shapes, source: str) -> Layout:
    """diffusers' names, or the author's in one file, each half under the name of its own: `taesd_decoder.1.weight`."""
    published = {name: torch_name(name) for name in shapes}
    if not any(name.startswith("taesd_") for name in names):
        return Layout(published)
    return Layout({name: _original(theirs) for name, theirs in published.items()})


def _original(name: str) -> str:
    """`decoder.layers.0.weight` -> `taesd_decoder.1.weight`."""
    half, _, number, rest = name.split(".", 3)
    return f"taesd_{half}.{int(number) + _FIRST[half]}.{rest}"
