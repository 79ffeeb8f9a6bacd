"""The fingerprint of a cascade, which tells whether its configuration or its weights have changed."""

import hashlib
import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from cassr_jax.files import Json, files_below, is_file, is_folder
from cassr_jax.imaging.manifest import sha256

if TYPE_CHECKING:
    from cassr_jax.config import CascadeConfig

_LATER = {"control": "cassr", "decoder": "vae", "process_size": 1, "merged_loras": {}}
_UNSET = ("eta", "added_noise_level")


def fingerprint(source: str | Path, change: Callable[["CascadeConfig"], "CascadeConfig"] | None = None) -> str:
    """SHA-256 of a cascade's configuration, its weight files and the schedule beside them; a hub id counts by its name.

    LoRAs count by their scales and their content, wherever they lie. Links to folders are followed. A file in the
    folders of several networks is read once.

    Args:
        source: a cascade, as `cassr_jax.load` accepts it.
        change: applied to its configuration first, as in an ablation.

    Raises:
        InputError: the configuration cannot be read, or a LoRA is not there.
    """
    from cassr_jax.config_files import resolve, resolve_loras, to_json
    from cassr_jax.loading import read_cascade
    from cassr_jax.schedules import scheduler_file
    from cassr_jax.weights.lora import lora_files

    config, base = read_cascade(source)
    config = config if change is None else change(config)
    content = _established(to_json(config))
    del content["loras"]
    digest, digest_of = hashlib.sha256(json.dumps(content, sort_keys=True).encode()), cache(sha256)
    for kind, component in sorted(config.components.items()):
        path = Path(resolve(component, base))
        files = [*files_below(path)] if is_folder(path) else [path]
        if kind == "unet" and (scheduler := scheduler_file(str(path))) is not None:
            files.append(scheduler)
        for file in filter(is_file, files):
            digest.update(digest_of(file).encode())
    loras = resolve_loras(config.loras, base).items()
    for lora in sorted(f"{float(scale)} {[*map(digest_of, lora_files(path))] or path}" for path, scale in loras):
        digest.update(lora.encode())
    return digest.hexdigest()


def _established(content: Json) -> Json:
    """A configuration without the fields that were added since manifests exist, where they have no effect."""
    sampling = ("sampling", "activation_sampling")
    kept = {name: value for name, value in content.items() if _LATER.get(name, value) != value or name not in _LATER}
    for name in sampling:
        kept[name] = {key: value for key, value in content[name].items() if value is not None or key not in _UNSET}
    return kept
