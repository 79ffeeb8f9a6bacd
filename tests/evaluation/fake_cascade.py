"""A cascade that the evaluation can run, made of a function."""

from collections.abc import Callable, Iterable, Iterator
from types import SimpleNamespace

import numpy as np

from cassr_jax.config import CascadeConfig
from cassr_jax.restoration import Restoration


def fake_cascade(restore: Callable[..., Restoration], **more: object) -> SimpleNamespace:
    """A cascade that restores each picture by `restore(picture, **options)`, and gives an error that this raises."""
    loaded = SimpleNamespace(restore=restore, check=lambda **_: None, config=CascadeConfig(), **more)

    def restore_many(pictures: Iterable[np.ndarray], **options: object) -> Iterator[Restoration | Exception]:
        for picture in pictures:
            try:
                yield loaded.restore(picture, **options)
            except Exception as error:
                yield error

    loaded.restore_many = restore_many
    return loaded
