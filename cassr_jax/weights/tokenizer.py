"""CLIP's tokenizer, read from the `tokenizer` folder of a diffusers checkpoint.

It is built on the `tokenizers` library, as transformers' own fast tokenizer is, because importing transformers takes
seconds and imports torch if that is installed. The ids equal those of transformers' `CLIPTokenizer`, except for Chinese
characters if that runs without ftfy: it then splits them, which CLIP's own tokenizer never did.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cassr_jax.errors import InputError
from cassr_jax.files import Json, exists, is_file, is_folder, parse_json
from cassr_jax.ranges import LARGEST
from cassr_jax.weights.hub import Part, fetch, is_hub_id

if TYPE_CHECKING:
    from tokenizers import Tokenizer

START, END = "<|startoftext|>", "<|endoftext|>"
LEAST_LENGTH, MAX_LENGTH = 3, 77  # tokens, of which the first and the last are marks

_VOCAB, _MERGES = "vocab.json", "merges.txt"
_SETTINGS = ("tokenizer_config.json", "special_tokens_map.json")  # the later ones go before the earlier

# A word in CLIP's published tokenizer (Radford et al. 2021): contractions, letters, single digits, signs.
WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+"
CONTROLS = r"[[\p{Cc}\p{Cf}]&&[^\t\n\r]]"


def tokenize(tokenizer: "Tokenizer", prompts: Sequence[str]) -> np.ndarray:
    """Prompts as ids (B, 77) int32: start, tokens, end, padding; a longer prompt is cut before its end token."""
    if isinstance(prompts, str) or not prompts:
        raise TypeError(f"prompts is {prompts!r}, expected a sequence of at least one string")
    # One by one, because encode_batch starts threads, and a data loader that forks afterwards would cause a warning.
    return np.asarray([tokenizer.encode(prompt).ids for prompt in prompts], np.int32)


def load_tokenizer(source: str | Path) -> "Tokenizer":
    """The tokenizer of a checkpoint: a diffusers folder, its `tokenizer` folder itself, or a hub id.

    It needs `vocab.json` and `merges.txt`, and raises `InputError` if they are absent or unusable. Optionally
    `tokenizer_config.json` and `special_tokens_map.json` name the padding token (Stable Diffusion 1.5 pads with the end
    token, which is also the default).
    """
    folder = _tokenizer_folder(source)
    vocab = _read_vocab(folder / _VOCAB)
    merges = _read_merges(folder / _MERGES, vocab)
    settings: Json = {}
    for name in _SETTINGS:
        settings |= _read_json(folder / name)
    pad = settings.get("pad_token") or END
    if isinstance(pad, dict):  # some files hold a special token in an object
        pad = pad.get("content")
    if not isinstance(pad, str) or pad not in vocab:
        raise InputError(f"{folder}: the padding token is {pad!r}, expected one in vocab.json")
    length = settings.get("model_max_length", MAX_LENGTH)
    if not isinstance(length, int | float) or not length >= LEAST_LENGTH:
        raise InputError(f"{folder}: model_max_length is {length!r}, expected a number of at least {LEAST_LENGTH}")
    return _build(vocab, merges, pad, int(min(length, MAX_LENGTH)))


def tokenizer_files(source: str) -> list[Path]:
    """The files that `load_tokenizer` reads of a tokenizer on this disk; none for a hub id."""
    if not exists(source):
        return []
    folder = _tokenizer_folder(source)
    settings = [folder / name for name in _SETTINGS if is_file(folder / name)]
    return [folder / _VOCAB, folder / _MERGES, *settings]


def _build(vocab: dict[str, int], merges: list[tuple[str, str]], pad: str, length: int) -> "Tokenizer":
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors

    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges, unk_token=END, end_of_word_suffix="</w>"))
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.Replace(Regex(CONTROLS), ""),
            normalizers.NFC(),
            normalizers.Replace(Regex(r"\s+"), " "),
            normalizers.Lowercase(),
        ]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{START} $A {END}", special_tokens=[(START, vocab[START]), (END, vocab[END])]
    )
    tokenizer.add_special_tokens([START, END])
    tokenizer.enable_truncation(length)
    tokenizer.enable_padding(length=length, pad_id=vocab[pad], pad_token=pad)
    return tokenizer


def tokenizer_part(source: str) -> Part | None:
    """What is to be fetched from the hub; None if the tokenizer lies on this disk.

    Raises:
        InputError: it is neither on this disk nor a hub id.
    """
    if is_folder(source):
        for file in tokenizer_files(source):
            if not is_file(file):
                raise InputError(_absent(file))
        return None
    if exists(source) or not is_hub_id(source):
        raise InputError(f"{source}: is neither a folder nor a hub id, expected a checkpoint folder or owner/name")
    return Part(source, "tokenizer", ("tokenizer",), [[_VOCAB, _MERGES]], _SETTINGS)


def _tokenizer_folder(source: str | Path) -> Path:
    path = Path(source)
    if not is_folder(path) and (part := tokenizer_part(str(source))) is not None:
        return fetch(part)
    return path / "tokenizer" if is_folder(path / "tokenizer") else path


def _read_vocab(path: Path) -> dict[str, int]:
    vocab = _read_json(path, required=True)
    for token, index in vocab.items():
        if isinstance(index, bool) or not isinstance(index, int) or not 0 <= index <= LARGEST:
            raise InputError(f"{path}: the id of {token!r} is {index!r}, expected a whole number of at least 0")
    for token in (START, END):
        if token not in vocab:
            raise InputError(f"{path}: holds no token {token}, expected CLIP's vocabulary")
    return vocab


def _read_merges(path: Path, vocab: dict[str, int]) -> list[tuple[str, str]]:
    lines = _read_text(path).strip("\n").split("\n")
    merges = []
    for number, line in enumerate(lines, start=1):
        if number == 1 and line.startswith("#version"):
            continue
        match line.split(" "):
            case [left, right] if left in vocab and right in vocab and left + right in vocab:
                merges.append((left, right))
            case _:
                raise InputError(f"{path}: line {number} is {line!r}, expected two tokens whose union is in vocab.json")
    return merges


def _read_json(path: Path, *, required: bool = False) -> Json:
    if not required and not exists(path):
        return {}
    return parse_json(_read_text(path), path)


def _absent(path: Path) -> str:
    return f"{path}: no such file; a CLIP tokenizer needs vocab.json and merges.txt"


def _read_text(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except FileNotFoundError as error:
        raise InputError(_absent(path)) from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text ({error})") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error
