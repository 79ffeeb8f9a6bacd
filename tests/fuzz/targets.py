"""Every reader of foreign bytes: how it is called, what it is given at first, and what must hold of what it reads.

A reader may refuse with `InputError`, and with nothing else.
"""

import json
import pickle
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path

import numpy as np
from flax import serialization
from PIL import Image, ImageCms

from cassr_jax.commands.prompts import read_prompts
from cassr_jax.config import CascadeConfig, TrainConfig
from cassr_jax.config_files import from_json, override, to_json
from cassr_jax.data import index
from cassr_jax.data.config import DataConfig
from cassr_jax.data.prepared import PreparedSource, write_records
from cassr_jax.diffusion.schedule import Schedule
from cassr_jax.files import parse_json
from cassr_jax.imaging import io as pictures_io
from cassr_jax.imaging.manifest import Entry, Manifest
from cassr_jax.imaging.protection import read_mask
from cassr_jax.kinds import KINDS
from cassr_jax.schedules import agreed, write_schedule
from cassr_jax.weights.flax_msgpack import read_flax_msgpack
from cassr_jax.weights.hub import SCHEDULER
from cassr_jax.weights.ncnn import read_ncnn
from cassr_jax.weights.perceptual import read_numpy_pickle
from cassr_jax.weights.safetensors import read_metadata, read_safetensors, write_safetensors
from cassr_jax.weights.tensors import ForeignTensor, Tensor
from cassr_jax.weights.tokenizer import load_tokenizer, tokenize
from cassr_jax.weights.torch_pickle import read_torch
from tests.imaging import pictures
from tests.weights.test_ncnn import random_convolution, write_ncnn
from tests.weights.test_torch_pickle import _good_files as torch_files

Read = Callable[[bytes, Path], None]

TINY = Path(str(resources.files("cassr_jax") / "assets" / "tiny"))
PLAIN = TrainConfig("vae", DataConfig("photographs"))


@dataclass(frozen=True)
class Target:
    """A reader under attack.

    Attributes:
        read: reads bytes, for which it may use an empty folder.
        seeds: sound files, written in a folder.
        cost: relative to the cheapest; costly targets get fewer inputs.
    """

    read: Read
    seeds: Callable[[Path], Sequence[bytes]]
    cost: int = 1


def _read_all(tensors: Mapping[str, Tensor], size: int) -> None:
    """Reads tensors but those of a foreign type; none may hold more than the file does."""
    for tensor in tensors.values():
        if not isinstance(tensor, ForeignTensor):
            found = tensor.read()
            assert found.shape == tensor.shape
            assert found.nbytes <= size


def _safetensors(data: bytes, folder: Path) -> None:
    file = folder / "a.safetensors"
    file.write_bytes(data)
    read_metadata(file)
    _read_all(read_safetensors(file), len(data))


def _safetensors_seeds(folder: Path) -> Sequence[bytes]:
    arrays = {"a.weight": np.ones((2, 3), np.float32), "b": np.zeros((4,), np.float16), "c": np.zeros((), np.int64)}
    shapes = {name: (array.shape, array.dtype) for name, array in arrays.items()}
    write_safetensors(folder / "a.safetensors", shapes, arrays.__getitem__)
    return [(folder / "a.safetensors").read_bytes()]


def _msgpack(data: bytes, folder: Path) -> None:
    (folder / "a.msgpack").write_bytes(data)
    _read_all(read_flax_msgpack(folder / "a.msgpack"), len(data))


def _torch(data: bytes, folder: Path) -> None:
    (folder / "a.pt").write_bytes(data)
    _read_all(read_torch(folder / "a.pt"), 1 << 27)  # archives may be compressed, a thousandfold at most


def _numpy_pickle(data: bytes, folder: Path) -> None:
    (folder / "a.pickle").write_bytes(data)
    read_numpy_pickle(folder / "a.pickle")


def _ncnn(data: bytes, folder: Path) -> None:
    """The first half of the bytes, up to a mark, are the layers; the rest are the weights."""
    param, _, weights = data.partition(b"\n====\n")
    (folder / "a.param").write_bytes(param)
    (folder / "a.bin").write_bytes(weights)
    for found in read_ncnn(folder / "a.param"):
        assert found.weight.size <= len(weights)


def _ncnn_seeds(folder: Path) -> Sequence[bytes]:
    made = []
    for tag in (0x01306B47, 0):
        write_ncnn(folder / "a.param", [random_convolution(np.random.default_rng(0), 2, 3, 3, 3)], tag)
        made.append((folder / "a.param").read_bytes() + b"\n====\n" + (folder / "a.bin").read_bytes())
    return made


def _picture(data: bytes, folder: Path) -> None:
    picture = pictures_io.decoded(data, folder / "a")
    height, width, channels = picture.rgb.shape
    assert min(height, width) >= 1
    assert channels == 3
    assert picture.rgb.dtype in (np.uint8, np.uint16)
    assert picture.alpha is None or picture.alpha.shape[:2] == (height, width)


def _picture_seeds(folder: Path) -> Sequence[bytes]:
    photograph = Image.fromarray(pictures.photograph(12, 16))
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "a bee"
    made = [
        pictures.encoded(photograph, format, **options)
        for format, options in (
            ("PNG", {"icc_profile": profile, "exif": exif}), ("JPEG", {"exif": exif, "comment": "a word"}),
            ("JPEG", {"progressive": True}), ("WEBP", {"exif": exif}), ("WEBP", {"lossless": True}),
            ("TIFF", {"compression": "tiff_lzw"}), ("TIFF", {"compression": "tiff_adobe_deflate"}), ("GIF", {}),
            ("BMP", {}), ("PPM", {}), ("AVIF", {}), ("JPEG2000", {}), ("TIFF", {}),
        )
    ]  # fmt: skip
    deep = np.arange(12 * 16 * 3, dtype=np.uint16).reshape(12, 16, 3) * 100
    for suffix in (".png", ".tif"):
        pictures_io.write(folder / f"deep{suffix}", pictures_io.Picture(deep))
        made.append((folder / f"deep{suffix}").read_bytes())
    modes = [photograph.convert("L").convert(mode) for mode in ("P", "LA", "RGBA", "1")]
    made += [pictures.encoded(image, "PNG") for image in (*modes, Image.new("I;16", (5, 4), 999))]
    return [*made, *(pictures.encoded(photograph.convert("CMYK"), format) for format in ("JPEG", "TIFF"))]


def _mask(data: bytes, folder: Path) -> None:
    (folder / "mask.png").write_bytes(data)
    read_mask(folder / "mask.png", np.zeros((16, 12, 3), np.uint8))


def _records(data: bytes, folder: Path) -> None:
    (folder / "a.array_record").write_bytes(data)
    source = PreparedSource(folder)
    for place in range(min(len(source), 3)):
        source[place]


def _records_seeds(folder: Path) -> Sequence[bytes]:
    write_records(folder / "a.array_record", [{"lr": np.zeros((4, 4, 3), np.uint8), "n": np.arange(3)}] * 2)
    return [(folder / "a.array_record").read_bytes()]


def _record(data: bytes, folder: Path) -> None:
    """One record whose checksum is right."""

    class Sound(PreparedSource):
        def __init__(self):
            self.files, self._sources, self._bounds = [folder / "a"], [[data]], [0, 1]

    Sound()[0]


def _json(data: bytes, folder: Path) -> None:
    parse_json(data, "a.json", object)  # pyright: ignore


def _cascade(data: bytes, folder: Path) -> None:
    from_json(CascadeConfig, parse_json(data, "cassr.json"), "cassr.json")


def _train(data: bytes, folder: Path) -> None:
    from_json(TrainConfig, parse_json(data, "config.json"), "config.json")


def _set(data: bytes, folder: Path) -> None:
    override(PLAIN, data.decode("utf-8", "replace").split("\n"))


def _networks(data: bytes, folder: Path) -> None:
    """A network's description; the first byte chooses the kind."""
    if not data:
        return
    kind = list(KINDS)[data[0] % len(KINDS)]
    (folder / "config.json").write_bytes(data[1:])
    KINDS[kind].configuration(str(folder))


def _networks_seeds(folder: Path) -> Sequence[bytes]:
    plain = {"_class_name": "UNet2DConditionModel", "block_out_channels": [32, 64], "cross_attention_dim": 32}
    files = [TINY / kind / "config.json" for kind in KINDS]
    made = [file.read_bytes() if file.is_file() else json.dumps(plain).encode() for file in files]
    return [bytes([number]) + text for number, text in enumerate(made)]


UNET = (TINY / "unet" / "config.json").read_bytes()


def _scheduler(data: bytes, folder: Path) -> None:
    for name, content in (("unet/config.json", UNET), (SCHEDULER, data)):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)
    agreed(None, str(folder / "unet"), "cassr.json")


def _scheduler_seeds(folder: Path) -> Sequence[bytes]:
    write_schedule(folder, Schedule())
    (file,) = [path for path in folder.rglob("*.json")]
    return [file.read_bytes()]


def _tokenizer(data: bytes, folder: Path) -> None:
    """The vocabulary, a mark, and the merges."""
    vocab, _, merges = data.partition(b"\n====\n")
    (folder / "vocab.json").write_bytes(vocab)
    (folder / "merges.txt").write_bytes(merges)
    found = tokenize(load_tokenizer(folder), ["a bee", ""])
    assert found.shape[0] == 2


def _tokenizer_seeds(folder: Path) -> Sequence[bytes]:
    words = ["<|startoftext|>", "<|endoftext|>", "a</w>", "b", "e", "e</w>", "be", "bee</w>", "a"]
    vocab = json.dumps({word: number for number, word in enumerate(words)})
    return [vocab.encode() + b"\n====\n#version: 0.2\nb e\nbe e</w>\n"]


def _manifest(data: bytes, folder: Path) -> None:
    """The manifest, a mark, and its journal."""
    whole, _, journal = data.partition(b"\n====\n")
    manifest = Manifest(folder)
    manifest.path.write_bytes(whole)
    manifest.journal.write_bytes(journal)
    Manifest(folder).compact()


def _manifest_seeds(folder: Path) -> Sequence[bytes]:
    manifest = Manifest(folder)
    entry = Entry(input="a.jpg", outputs={"result": "a.png"}, settings={"seed": 1}, sha256="0" * 64)
    manifest.put(entry)
    journal = manifest.journal.read_bytes()
    manifest.compact()
    return [manifest.path.read_bytes() + b"\n====\n" + journal, b"{}\n====\n" + json.dumps(asdict(entry)).encode()]


def _prompts(data: bytes, folder: Path) -> None:
    file = folder / ("a.json" if data[:1] == b"{" else "a.txt")
    file.write_bytes(data)
    read_prompts(file, ["a", "b"])


def _index(data: bytes, folder: Path) -> None:
    (folder / "index.npz").write_bytes(data)
    kind = index.Kind("sizes", lambda found: {"n": np.array(found)}, lambda arrays: arrays["n"].tolist())
    index._read(folder / "index.npz", kind)


def _index_seeds(folder: Path) -> Sequence[bytes]:
    kind = index.Kind("sizes", lambda found: {"n": np.array(found)}, lambda arrays: arrays["n"].tolist())
    index._write(folder / "index.npz", kind, {"a.png": ((1, 2, 3), 5), "b.png": ((4, 5, 6), 7)})
    return [(folder / "index.npz").read_bytes()]


def _texts(*texts: str) -> Callable[[Path], Sequence[bytes]]:
    return lambda folder: [text.encode() for text in texts]


def _msgpack_seeds(folder: Path) -> Sequence[bytes]:
    tree = {"params": {"conv": {"kernel": np.ones((2, 2), np.float32), "bias": np.zeros(2, np.float16)}}}
    return [serialization.msgpack_serialize(tree)]


def _record_seeds(folder: Path) -> Sequence[bytes]:
    return [serialization.msgpack_serialize({"lr": np.zeros((2, 2, 3), np.uint8), "n": np.int64(3)})]


def _numpy_pickle_seeds(folder: Path) -> Sequence[bytes]:
    tree = {"conv": {"w": np.ones((2, 3), np.float32), "b": np.zeros(2)}}
    return [pickle.dumps(tree, protocol) for protocol in (4, 5)]


TARGETS = {
    "safetensors": Target(_safetensors, _safetensors_seeds),
    "msgpack": Target(_msgpack, _msgpack_seeds),
    "torch": Target(_torch, torch_files),
    "numpy_pickle": Target(_numpy_pickle, _numpy_pickle_seeds),
    "ncnn": Target(_ncnn, _ncnn_seeds),
    "picture": Target(_picture, _picture_seeds, cost=4),
    "mask": Target(_mask, _picture_seeds, cost=4),
    "records": Target(_records, _records_seeds, cost=8),
    "record": Target(_record, _record_seeds),
    "json": Target(_json, _texts('{"a": [1, 2.5, null, true, "x"]}', "[[[[]]]]")),
    "cascade": Target(_cascade, lambda folder: [json.dumps(to_json(CascadeConfig())).encode()]),
    "train": Target(_train, lambda folder: [json.dumps(to_json(PLAIN)).encode()]),
    "set": Target(_set, _texts("batch_size=2\ndata.path=x", "optimizer.learning_rate=1e-4\nnew.scedit=null")),
    "networks": Target(_networks, _networks_seeds),
    "scheduler": Target(_scheduler, _scheduler_seeds),
    "tokenizer": Target(_tokenizer, _tokenizer_seeds, cost=2),
    "manifest": Target(_manifest, _manifest_seeds, cost=8),
    "prompts": Target(_prompts, _texts('{"a": "x", "b": "y"}', "a\tx\nb\ty\n")),
    "index": Target(_index, _index_seeds),
}
"""By name, as `python -m tests.fuzz` takes them."""


def seeds_of(target: Target) -> list[bytes]:
    """The sound files that a target begins with."""
    with tempfile.TemporaryDirectory() as folder:
        return list(target.seeds(Path(folder)))
