"""Folders of pictures as the evaluation's commands take them, and the options that name them."""

from pathlib import Path

import cv2
import numpy as np


def write(folder: Path, name: str, image: np.ndarray) -> Path:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(folder / name), image[..., ::-1])
    return folder


def arguments(folders: Path, *more: str) -> list[str]:
    given = {"--lr": "lr", "--hr": "hr", "--output": "out"}
    return [*(part for option, name in given.items() for part in (option, str(folders / name))), *more]
