"""Contact sheets: rows of pictures side by side, for people to look at."""

from collections.abc import Sequence

import cv2
import numpy as np

_CELL, _GAP = 256, 4  # px


def contact_sheet(rows: Sequence[Sequence[np.ndarray]]) -> np.ndarray:
    """A white sheet with each picture shrunk to fit into a square cell of 256 px; uint8 (H, W, 3)."""
    pitch = _CELL + _GAP
    sheet = np.full((len(rows) * pitch - _GAP, len(rows[0]) * pitch - _GAP, 3), 255, np.uint8)
    for i, row in enumerate(rows):
        for j, picture in enumerate(row):
            shrink = min(_CELL / max(picture.shape[:2]), 1)
            if shrink < 1:
                size = tuple(max(1, round(side * shrink)) for side in picture.shape[1::-1])
                picture = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
            height, width = picture.shape[:2]
            sheet[i * pitch : i * pitch + height, j * pitch : j * pitch + width] = picture
    return sheet
