"""Files of prompts, which give each picture a description of its own."""

import json
import unicodedata
from collections.abc import Collection, Iterable
from pathlib import Path

from cassr_jax.errors import InputError
from cassr_jax.files import parse_json


def read_prompts(file: Path, names: Collection[str], others: Collection[str] = ()) -> dict[str, str]:
    """Read the prompts of pictures: a JSON object of names and prompts (`.json`), or lines of NAME, a tab, PROMPT.

    A name may be written in another Unicode normal form than the picture's: file systems differ in theirs.

    Args:
        file: the file; text in UTF-8.
        names: the pictures that need a prompt, by their names without suffix.
        others: pictures that may have one.

    Raises:
        InputError: the file cannot be read, is not of this form, names a picture twice or one that is not there, or has
            no prompt for one of `names`.
    """
    try:
        text = file.read_bytes().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file}: cannot be read ({getattr(error, 'strerror', None) or error})") from error
    pairs = _from_json(text, file) if file.suffix.lower() == ".json" else _from_lines(text, file)
    prompts = _unique(_as_spelled(pairs, {*names, *others}), file)
    example = min(names, default="")
    if not prompts:
        raise InputError(f"{file}: holds no prompt, expected one for every picture, such as {example}")
    if unknown := sorted(prompts.keys() - {*names, *others}):
        raise InputError(
            f"{file}: names {unknown[0]}, which is no picture here, expected names without suffix, such as {example}"
        )
    if missing := sorted(set(names) - prompts.keys()):
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise InputError(f"{file}: has no prompt for {missing[0]}{more}, expected one for every picture")
    return prompts


def _from_json(text: str, file: Path) -> list[tuple[str, object]]:
    parse_json(text, file)  # an object, and not too deep to be read once more
    objects: list[list[tuple[str, object]]] = []
    # The mapping that `json` makes keeps only the last of two entries with the same name.
    json.loads(text, object_pairs_hook=lambda pairs: objects.append(pairs) or dict(pairs))
    return objects[-1]  # the outermost object ends last


def _from_lines(text: str, file: Path) -> list[tuple[str, str]]:
    pairs = []
    for number, line in enumerate(text.split("\n"), 1):  # not `splitlines`: U+2028 and form feeds are text
        line = line.removesuffix("\r")
        name, tab, prompt = line.partition("\t")
        if line.strip() and not tab:
            raise InputError(f"{file}, line {number}: has no tab, expected a picture's name, a tab and its prompt")
        if tab:
            pairs.append((name, prompt))
    return pairs


def _as_spelled(pairs: Iterable[tuple[str, object]], names: Collection[str]) -> list[tuple[str, object]]:
    """The pairs with each name spelled as among `names`, where only the normal form differs."""
    spelled = {unicodedata.normalize("NFC", name): name for name in names}
    return [
        (name if name in names else spelled.get(unicodedata.normalize("NFC", name), name), prompt)
        for name, prompt in pairs
    ]


def _unique(pairs: Iterable[tuple[str, object]], file: Path) -> dict[str, str]:
    prompts: dict[str, str] = {}
    for name, prompt in pairs:
        if name in prompts:
            raise InputError(f"{file}: names {name} twice, expected one prompt for each picture")
        if not isinstance(prompt, str):
            raise InputError(f"{file}: the prompt for {name} is {str(prompt)[:40]!r}, expected text")
        prompts[name] = prompt
    return prompts
