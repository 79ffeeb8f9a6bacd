"""A quick stand-in for the networks, and what the tests of `sample.py` look at."""

import json
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image

import sample
from cassr_jax.imaging import resizing
from cassr_jax.progress import Preview
from cassr_jax.restoration import Restoration

COLORS = {"red": (255, 0, 0), "green": (0, 128, 0), "blue": (0, 0, 255), "grey": (128, 128, 128)}


def batched(items, count):
    iterator = iter(items)
    while group := list(islice(iterator, count)):
        yield group


class BicubicCascade:
    """Both stages are bicubic; the reference is recognisable by being darker."""

    def __init__(self):
        self.calls: list[dict] = []

    def check(self, **settings):
        """This cascade takes any settings."""

    def restore(self, rgb, *, scale, seed, progress, show=None, **settings):
        self.calls.append({"size": rgb.shape[:2], "scale": scale, "seed": seed, **settings})
        for stage in ("reference", "result") if progress else ():
            for step in range(3):
                progress(stage, step + 1, 3)
        for stage in ("reference", "result") if show else ():
            show(stage, 2, 3, rgb)
        result = resizing.bicubic(rgb, resizing.output_size(*rgb.shape[:2], scale))
        return Restoration(bicubic=result, reference=result // 2, result=result, seconds=0.1)

    def restore_many(self, pictures, *, preview=None, preview_every=None, **settings):
        self.preview_every = preview_every
        for group in batched(enumerate(pictures), 2):  # as the cascade does, some together
            yield from [self._outcome(rgb, settings | _showing(preview, number)) for number, rgb in group]

    def _outcome(self, rgb, settings):
        try:
            return rgb if isinstance(rgb, Exception) else self.restore(rgb, **settings)
        except Exception as error:
            return error


def _showing(preview, number):
    return {"show": lambda stage, *rest: preview(Preview(stage, number, *rest))} if preview else {}


def run(*arguments):
    return sample.main([str(argument) for argument in arguments])


def color_of(path):
    with Image.open(path) as image:
        return tuple(np.asarray(image.convert("RGB")).reshape(-1, 3).mean(0).round().astype(int))


def close(color, expected, tolerance=4):
    return max(abs(a - b) for a, b in zip(color, expected, strict=True)) <= tolerance


def flat(path, color, size=(12, 8), **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, color).save(path, **options)


def outputs(folder="out"):
    return sorted(path.relative_to(folder).as_posix() for path in Path(folder).rglob("*.*") if path.suffix != ".json")


def manifest(folder="out"):
    content = json.loads((Path(folder) / "manifest.json").read_text())
    return {entry["outputs"]["result"]: entry for entry in content["pictures"]}


def four_of_one_name(folder):
    flat(folder / "a.jpg", "red", quality=95)
    flat(folder / "a.png", "green")
    flat(folder / "x" / "a.png", "blue")
    flat(folder / "y" / "a.png", "grey")
    return {"a_jpg.png": "red", "a_png.png": "green", "x/a.png": "blue", "y/a.png": "grey"}
