"""TFDS builders that turn local folders of pictures into training sets, without TensorFlow.

The published sets may not be redistributed, so nothing is downloaded: each builder takes the folder into which its
archive was unpacked. A record has `image`, an upright 8-bit RGB PNG, and `key`, the file's path in that folder.
"""

import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import cv2
import grain
import numpy as np
import tensorflow_datasets as tfds

from cassr_jax.data.sources import picture_files, read_rgb
from cassr_jax.errors import InputError
from cassr_jax.files import is_folder
from cassr_jax.imaging.pixels import size_text
from cassr_jax.printing import complain

MIN_SIDE = 64  # px; smaller pictures are left out. Those between this and the crop size are enlarged when cropped.
THREADS = 4


class Folder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """A set of any folder of pictures and its subfolders, with one split, `train`.

    Args:
        images: the folder. If it holds a folder `subfolder`, only the pictures below that are taken.
        min_side: pictures with a shorter side, in px, are left out.
        settings: arguments of `tfds.core.DatasetBuilder`.

    Attributes:
        left_out: each file that cannot be read or is too small, and why; also in `info.metadata["left_out"]`.
    """

    name = "folder"
    VERSION = tfds.core.Version("1.0.0")
    homepage = ""
    subfolder = ""
    limit: int | None = None  # only so many files are taken, in the order of their names
    # A set has no files beside its code. Without this, tfds looks for some, with a package that it does not depend on.
    code_path = None

    def __init__(self, *, images: str | Path, min_side: int = MIN_SIDE, **settings: Any) -> None:
        self.images = Path(images)
        if self.subfolder and is_folder(self.images / self.subfolder):
            self.images = self.images / self.subfolder
        self.min_side = min_side
        self.left_out: list[str] = []
        super().__init__(**({"file_format": "array_record"} | settings))

    def _info(self) -> tfds.core.DatasetInfo:
        features = {"image": tfds.features.Image(shape=(None, None, 3)), "key": tfds.features.Text()}
        return tfds.core.DatasetInfo(
            builder=self,
            description=self.__class__.__doc__,
            homepage=self.homepage,
            features=tfds.features.FeaturesDict(features),
            metadata=tfds.core.MetadataDict(left_out=self.left_out),  # filled while the records are made
        )

    def _split_generators(self, dl_manager: object) -> dict[str, Iterator[tuple[str, dict[str, object]]]]:
        return {"train": self._generate_examples()}

    def _generate_examples(self) -> Iterator[tuple[str, dict[str, object]]]:
        keys = picture_files(self.images)[: self.limit]
        options = grain.ReadOptions(num_threads=THREADS, prefetch_buffer_size=2 * THREADS)
        found = False
        for key, made in grain.MapDataset.source(keys).map(self._encode).to_iter_dataset(options):
            if isinstance(made, bytes):
                found = True
                # A file that is encoded already is stored as it is; encoding an array would need TensorFlow.
                yield key, {"image": io.BytesIO(made), "key": key}
            else:
                self.left_out.append(made)
                complain(f"left out: {made}")
        if not found:
            raise InputError(f"{self.images}: none of its {len(keys)} pictures can be used, expected at least one")

    def _encode(self, key: str) -> tuple[str, bytes | str]:
        """The key, and the picture as a PNG or the reason why it is left out."""
        try:
            rgb = read_rgb(self.images / key)
        except InputError as error:
            return key, str(error)
        if min(rgb.shape[:2]) < self.min_side:
            return key, f"{self.images / key}: {size_text(rgb)}, expected sides of at least {self.min_side}"
        _, data = cv2.imencode(".png", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_PNG_COMPRESSION, 4])
        return key, np.asarray(data).tobytes()


class Div2k(Folder, skip_registration=True):
    """DIV2K: 800 training pictures of about 2040 px."""

    name = "div2k"
    homepage = "https://data.vision.ee.ethz.ch/cvl/DIV2K/"
    subfolder = "DIV2K_train_HR"


class Div8k(Folder, skip_registration=True):
    """DIV8K: 1500 training pictures of up to 7680 px."""

    name = "div8k"
    homepage = "https://competitions.codalab.org/competitions/22217"


class Flickr2k(Folder, skip_registration=True):
    """Flickr2K: 2650 pictures of about 2040 px."""

    name = "flickr2k"
    homepage = "https://github.com/LimBee/NTIRE2017"
    subfolder = "Flickr2K_HR"


class Ost(Folder, skip_registration=True):
    """OutdoorSceneTraining: 10324 pictures of seven kinds of outdoor scenes, each in a folder of its own."""

    name = "ost"
    homepage = "https://github.com/xinntao/SFTGAN"
    subfolder = "OutdoorSceneTrain_v2"


class Ffhq(Folder, skip_registration=True):
    """FFHQ: the first 10000 faces, of 1024 px."""

    name = "ffhq"
    homepage = "https://github.com/NVlabs/ffhq-dataset"
    subfolder = "images1024x1024"
    limit = 10_000


BUILDERS: Mapping[str, type[Folder]] = {
    builder.name: builder for builder in (Div2k, Div8k, Flickr2k, Ost, Ffhq, Folder)
}
