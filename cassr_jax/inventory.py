"""What a source of weights holds: its networks, opened and not yet read, and what comes with them."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from cassr_jax.config_files import resolve, resolve_loras
from cassr_jax.errors import InputError
from cassr_jax.files import Json, is_file, is_folder, read_json
from cassr_jax.gathering import TOKENIZER, gather
from cassr_jax.kinds import KINDS, UNET_FILES, holds_pixel_attention, kind_of
from cassr_jax.loading import CASCADE_FILE, embedded_names, read_cascade
from cassr_jax.schedules import agreed, described
from cassr_jax.weights.files import SUFFIXES, read_tensors
from cassr_jax.weights.hub import PIPELINE, is_hub_id
from cassr_jax.weights.lora import LoRA, open_loras, with_loras
from cassr_jax.weights.published import Published
from cassr_jax.weights.single_file import belongs, kinds_in_file
from cassr_jax.weights.tensors import Weights
from cassr_jax.weights.tokenizer import tokenizer_files

_CHECKPOINTS = "checkpoints"  # the folder of a run in which its training states lie
_BESIDE = ("scheduler", "tokenizer")  # parts of a pipeline that are no networks, and are used
_ATTENTION = "pixel_attention"  # the kind that PASD publishes within its U-Net


@dataclass(frozen=True)
class Inventory:
    """What a source holds.

    Attributes:
        what: what the source is, in a few words.
        networks: kind -> the weights, known to fit and not yet read.
        refused: kind -> why a network that is there cannot be used.
        tokenizer: its files.
        scheduler: the fields of a `scheduler_config.json`, and where they are from; None if there are none.
        ignored: what else is there, and is not used.
        loras: the files of LoRAs that are added.
    """

    what: str
    networks: Mapping[str, Weights]
    refused: Mapping[str, str] = field(default_factory=dict)
    tokenizer: Sequence[Path] = ()
    scheduler: tuple[Json, str] | None = None
    ignored: Sequence[str] = ()
    loras: Sequence[Path] = ()

    def read(self) -> list[Path]:
        """The files and folders that are read."""
        return [*(weights.path for weights in self.networks.values()), *self.tokenizer, *self.loras]


def take_inventory(source: str, kinds: Sequence[str] = (), step: int | None = None, last: bool = False) -> Inventory:
    """What `source` holds; no weights are read.

    Args:
        source: a folder (a pipeline's, a cascade's, one network's, or the working folder of a training run), a Python
            file that defines a cascade, the name of an embedded one, a single file of weights, or a hub id.
        kinds: the networks that are wanted; by default all. A hub id needs them.
        step: the checkpoint of a run; by default the newest.
        last: of a run, take the last weights, not their average.

    Raises:
        InputError: there is no such source, it holds no network, or not all that are wanted.
    """
    for kind in kinds:
        kind_of(kind)
    path, whole = Path(source), not kinds
    if is_folder(path / _CHECKPOINTS):
        found = _run(path, step, last)
    elif step is not None or last:
        raise InputError(f"{source}: holds no {_CHECKPOINTS}, expected a run's working folder, whose step was chosen")
    elif path.suffix == ".py":
        found = _cascade(source, kinds)
    elif is_file(path):
        found = _single_file(path, kinds)
    elif is_file(path / CASCADE_FILE) or source in embedded_names():
        found = _cascade(source, kinds)
    elif is_folder(path):
        found = _folder(path, kinds)
    elif is_hub_id(source):
        if whole:
            raise InputError(f"{source}: is a hub id, expected --kind and the networks to fetch from there")
        found = _repository(source, kinds)
    else:
        raise InputError(
            f"{source}: no such file or folder, and no hub id either (`owner/name` or `owner/name:folder`)"
        )
    if missing := [kind for kind in kinds if kind not in found.networks]:
        reason = found.refused.get(missing[0], f"{source}: holds no {missing[0]}, expected one")
        raise InputError(reason)
    return found


def _opened(
    what: str,
    sources: Mapping[str, str],
    tokenizer: Sequence[Path] = (),
    ignored: Callable[[], Iterable[str]] = tuple,
    loras: Sequence[LoRA] = (),
) -> Inventory:
    """The inventory of networks at known places: kind -> what `Kind.open` takes; LoRAs are added to them."""
    networks: dict[str, Weights] = {}
    refused: dict[str, str] = {}
    for kind, source in sources.items():
        try:
            networks[kind] = with_loras(kind_of(kind).open(source), kind, loras)
        except InputError as error:
            refused[kind] = str(error)
    scheduler = described(sources["unet"]) if "unet" in networks else None
    return Inventory(what, networks, refused, tokenizer, scheduler, [*ignored()])


def _repository(source: str, kinds: Sequence[str]) -> Inventory:
    places, _ = gather(dict.fromkeys(kinds, source), {}, source)
    tokenizer: list[Path] = []
    if "text_encoder" in kinds:
        with suppress(InputError):  # a repository of one network has none
            tokenizer = tokenizer_files(gather({TOKENIZER: source}, {}, source)[0][TOKENIZER])
    return _opened("a repository of the hub", places, tokenizer)


def _single_file(path: Path, kinds: Sequence[str]) -> Inventory:
    names = list(read_tensors(path))
    held = kinds_in_file(names)
    if not held and not kinds:
        raise InputError(f"{path}: holds no network known here ({len(names)} tensors), expected --kind if it is one")
    found = _opened("a single file", {kind: str(path) for kind in (kinds or held)})
    # The names of each of several networks begin in their own way; a single network is checked name by name.
    others = [name for name in names if not any(belongs(name, kind) for kind in held)] if len(held) > 1 else []
    counts = Counter(name.split(".")[0] for name in others)
    ignored = [f"{name} ({count} tensors)" if count > 1 else name for name, count in counts.items()]
    return Inventory(found.what, found.networks, found.refused, (), found.scheduler, ignored)


def _cascade(source: str, kinds: Sequence[str]) -> Inventory:
    config, base = read_cascade(source)
    sources = {kind: resolve(component, base) for kind, component in config.components.items()}
    wanted = {kind: source for kind, source in sources.items() if kind in KINDS and (not kinds or kind in kinds)}
    given = wanted | ({TOKENIZER: sources[TOKENIZER]} if TOKENIZER in sources else {})
    files = resolve_loras(config.loras, base)
    try:
        given, files = gather(given, files, source)
    except InputError:
        if kinds:
            raise
        # Each network's own fault is listed, and what is on this disk is shown.
    wanted = {kind: given[kind] for kind in wanted}
    tokenizer = [file for file in tokenizer_files(given[TOKENIZER]) if is_file(file)] if TOKENIZER in given else []
    loras = open_loras(files)
    what = f"a cascade, with its LoRAs {', '.join(config.loras)} added" if loras else "a cascade"
    found = replace(_opened(what, wanted, tokenizer, loras=loras), loras=[lora.path for lora in loras])
    if config.schedule is None or "unet" not in found.networks:
        return found
    schedule = agreed(config.schedule, sources["unet"], source)
    return replace(found, scheduler=(schedule.to_diffusers(), source))


def _folder(path: Path, kinds: Sequence[str]) -> Inventory:
    published = {kind.name: kind.files for kind in KINDS.values() if isinstance(kind.files, Published)}
    alone = [kind for kind, files in published.items() if files.config.describes(path / "config.json")]
    if alone:
        # A ControlNet may be either stage's; what is wanted decides.
        first = [*alone[:1], *([_ATTENTION] if _has_attention(path) else [])]
        return _opened("one network", {kind: str(path) for kind in [k for k in alone if k in kinds] or first})
    places = {}
    for kind, files in published.items():
        for place in (path / folder for folder in files.folders):
            if str(place) not in places.values() and files.config.describes(place / "config.json"):
                places.setdefault(kind, str(place))
    if "unet" in places and _has_attention(Path(places["unet"])):
        places.setdefault(_ATTENTION, places["unet"])
    if not places:
        loose = sorted(file.name for file in path.glob("*") if file.suffix in SUFFIXES)
        meant = f"; if {', '.join(loose)} is meant, give that file" if loose else ""
        raise InputError(f"{path}: holds no network known here, expected a config.json in it or in its folders{meant}")
    tokenizer = tokenizer_files(str(path)) if is_file(path / "tokenizer" / "vocab.json") else []
    index = read_json(path / PIPELINE) if is_file(path / PIPELINE) else {}
    what = f"a pipeline ({index['_class_name']})" if "_class_name" in index else "a folder of networks"

    def ignored() -> Iterable[str]:
        names = {name for name, entry in index.items() if isinstance(entry, list) and any(entry)}
        names |= {folder.name for folder in path.iterdir() if is_folder(folder)}
        return sorted(names - {Path(place).name for place in places.values()} - {*_BESIDE})

    return _opened(what, {k: place for k, place in places.items() if not kinds or k in kinds}, tokenizer, ignored)


def _has_attention(unet: Path) -> bool:
    """Whether the folder of a U-Net holds PASD's attention too."""
    try:
        return holds_pixel_attention(read_tensors(UNET_FILES.locate(unet)))
    except InputError:  # which opening the U-Net says
        return False


def _run(path: Path, step: int | None, last: bool) -> Inventory:
    from cassr_jax.training.stored import open_checkpoint  # Orbax takes seconds to import

    step, networks, schedule, averaged = open_checkpoint(path, step, last)
    which = "averaged weights" if averaged else "last weights"
    scheduler = (schedule.to_diffusers(), str(path)) if "unet" in networks else None
    return Inventory(f"a training run at step {step}, its {which}", networks, scheduler=scheduler)
