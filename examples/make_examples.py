"""Make the degraded example photographs of this folder.

    python examples/make_examples.py --photos FOLDER

Each is a sharp crop of a public-domain photograph that KDE's jigsaw game Palapeli ships. It is degraded as a cheap
camera and a web page would do it: reduced four times with antialiasing, blurred a little, given noise, saved as JPEG.
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

FACTOR = 4
BLUR_SIGMA = 0.6  # pixels of the small picture
NOISE_SIGMA = 3.0  # of 255, each channel on its own
JPEG_QUALITY = 80
SEED = 0

CROPS = (  # example, file of the photograph, (left, top, right, bottom) in it
    ("bee.jpg", "european-honey-bee.jpg", (400, 270, 1040, 782)),
    ("citrus.jpg", "citrus-fruits.jpg", (400, 200, 912, 584)),
    ("bridge.jpg", "cincinnati-bridge.jpg", (320, 20, 704, 532)),
    ("harbour.jpg", "cincinnati-bridge.jpg", (790, 480, 1302, 864)),
)


def degrade(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """RGB, FACTOR times smaller, blurred and noisy."""
    small = image.resize((image.width // FACTOR, image.height // FACTOR), Image.Resampling.BICUBIC)
    blurred = np.asarray(small.filter(ImageFilter.GaussianBlur(BLUR_SIGMA)), np.float64)
    noisy = blurred + rng.normal(scale=NOISE_SIGMA, size=blurred.shape)
    return Image.fromarray(noisy.round().clip(0, 255).astype(np.uint8))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--photos",
        type=Path,
        required=True,
        help="folder with " + ", ".join(dict.fromkeys(photo for _, photo, _ in CROPS)),
    )
    photos = parser.parse_args().photos
    for number, (name, photo, box) in enumerate(CROPS):
        with Image.open(photos / photo) as image:
            small = degrade(image.convert("RGB").crop(box), np.random.default_rng([SEED, number]))
        small.save(Path(__file__).with_name(name), quality=JPEG_QUALITY)


if __name__ == "__main__":
    main()
