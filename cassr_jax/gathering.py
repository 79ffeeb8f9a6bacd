"""Finding every part of a cascade before the first is read: on this disk, or on the hub, from which it is fetched."""

from collections.abc import Callable, Mapping
from functools import partial

from cassr_jax.errors import InputError
from cassr_jax.files import same_place
from cassr_jax.kinds import kind_of
from cassr_jax.weights.hub import Part, fetch_all
from cassr_jax.weights.lora import lora_file, lora_part
from cassr_jax.weights.tokenizer import tokenizer_part

TOKENIZER = "tokenizer"  # the part of a cascade that is no network


def gather(
    components: Mapping[str, str], loras: Mapping[str, float], where: str
) -> tuple[dict[str, str], dict[str, float]]:
    """The same components with a folder on this disk in place of each hub id, which is fetched, and the LoRAs' files.

    Args:
        components: kind of network, or the tokenizer -> a folder, a file or a hub id.
        loras: the same of each LoRA -> its scale.
        where: the name of the configuration in errors.

    Raises:
        InputError: parts are neither on this disk nor on the hub, or the hub cannot be reached; all are named, and
            nothing is fetched.
    """
    wanted: dict[str, Callable[[], Part | None]] = {
        kind: partial(tokenizer_part if kind == TOKENIZER else kind_of(kind).part, source)
        for kind, source in components.items()
    }
    of_lora = {lora: f"lora {lora}" for lora in loras}  # no kind of network has such a name
    wanted |= {name: partial(lora_part, lora) for lora, name in of_lora.items()}
    parts, missing = {}, {}
    for name, part_of in wanted.items():
        try:
            part = part_of()
        except InputError as error:
            missing[name] = str(error)
        else:
            parts |= {} if part is None else {name: part}
    places = fetch_all(parts, missing, where)
    found = {kind: str(places.get(kind, source)) for kind, source in components.items()}
    files: dict[str, float] = {}
    for lora, scale in loras.items():
        file = str(lora_file(lora, places.get(of_lora[lora])))
        if any(same_place(file, other) for other in files):
            raise InputError(f"{where}: loras name {file} twice, expected each once; its scales may be added")
        files[file] = scale
    return found, files
