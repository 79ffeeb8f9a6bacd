"""CLIP's tokenizer: on a small made vocabulary always, on the real one where a package that ships it is installed."""

import gzip
import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cassr_jax.errors import InputError
from cassr_jax.weights.tokenizer import END, START, load_tokenizer, tokenize


def byte_symbols() -> list[str]:
    """The printable stand-ins of the 256 bytes, in the order of CLIP's vocabulary."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) for byte in printable] + [chr(256 + i) for i in range(len(others))]


def write_tokenizer(folder: Path, merges: list[str]) -> Path:
    symbols = byte_symbols()
    tokens = [*symbols, *(s + "</w>" for s in symbols), *("".join(m.split()) for m in merges), START, END]
    folder.mkdir(parents=True)
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n", "utf-8")
    return folder


@pytest.fixture
def small(tmp_path) -> Path:
    """A checkpoint folder whose tokenizer knows the words `cat` and `ca`; 517 tokens."""
    write_tokenizer(tmp_path / "checkpoint" / "tokenizer", ["c a", "ca t</w>", "a t</w>"])
    return tmp_path / "checkpoint"


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory) -> Path:
    spec = importlib.util.find_spec("clip")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("needs clip-anytorch, which ships CLIP's vocabulary")
    with gzip.open(
        Path(spec.submodule_search_locations[0]) / "bpe_simple_vocab_16e6.txt.gz", "rt", encoding="utf-8"
    ) as f:
        merges = f.read().split("\n")[1 : 49152 - 256 - 2 + 1]
    return write_tokenizer(tmp_path_factory.mktemp("clip") / "tokenizer", merges)


def test_small_vocabulary(small):
    ids = tokenize(load_tokenizer(small), ["CAT  cat's 7", ""])
    vocab = json.loads((small / "tokenizer" / "vocab.json").read_text())
    words = [vocab[token] for token in (START, "cat</w>", "cat</w>", "'", "s</w>", "7</w>", END)]
    assert ids.dtype == np.int32
    assert ids.shape == (2, 77)
    np.testing.assert_array_equal(ids[0], words + [vocab[END]] * (77 - len(words)))
    np.testing.assert_array_equal(ids[1], [vocab[START]] + [vocab[END]] * 76)


def test_folder_itself_and_padding_token(small):
    folder = small / "tokenizer"
    np.testing.assert_array_equal(
        tokenize(load_tokenizer(folder), ["a cat"]), tokenize(load_tokenizer(str(small)), ["a cat"])
    )
    (folder / "special_tokens_map.json").write_text(json.dumps({"pad_token": {"content": "!"}}))
    (folder / "tokenizer_config.json").write_text(json.dumps({"pad_token": END, "model_max_length": 20}))
    ids = tokenize(load_tokenizer(small), ["cat"])
    assert ids.shape == (1, 20)
    assert (ids[0, 3:] == 0).all()


def test_long_prompt_keeps_its_end(small):
    ids = tokenize(load_tokenizer(small), ["cat " * 100])
    assert ids.shape == (1, 77)
    assert ids[0, 0] == 515
    assert ids[0, -1] == 516
    assert (ids[0, 1:-1] == ids[0, 1]).all()


def test_no_prompts_and_one_string(small):
    tokenizer = load_tokenizer(small)
    for prompts in ([], "cat"):
        with pytest.raises(TypeError, match="expected a sequence of at least one string"):
            tokenize(tokenizer, prompts)


@pytest.fixture(scope="module")
def ours(clip_folder):
    return load_tokenizer(clip_folder)


def test_clip_vocabulary(ours):
    ids = tokenize(ours, ["clean, high-resolution"])
    np.testing.assert_array_equal(ids[0, :7], [49406, 3772, 267, 1400, 268, 9977, 49407])
    assert (ids[0, 7:] == 49407).all()


PROMPTS = [
    "dotted, noise, blur, lowres, smooth",
    "A  photo\tof 2024's   naïve café — “quoted” it'll don't WE'RE\n50%!!! (best:1.3)",
    "Ünïcödé ½ √ ñ привет soft\u00adhyphen \x7f\x85 🙂",
    "say <|endoftext|> twice",
    "word " * 90,
    "",
]


@pytest.fixture(scope="module")
def theirs(clip_folder):
    transformers = pytest.importorskip("transformers")
    return transformers.CLIPTokenizer(clip_folder / "vocab.json", clip_folder / "merges.txt")


def test_equals_transformers(ours, theirs):
    expected = theirs(PROMPTS, padding="max_length", truncation=True, max_length=77)["input_ids"]
    np.testing.assert_array_equal(tokenize(ours, PROMPTS), expected)


def test_chinese_is_not_split(ours):
    tokens = ours.encode("東京").tokens
    *inner, last = tokens[1 : tokens.index(END)]
    assert last.endswith("</w>")
    assert not any(token.endswith("</w>") for token in inner)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.text(st.characters(min_codepoint=32, max_codepoint=0x24F), max_size=60), min_size=8, max_size=8))
def test_equals_transformers_on_any_latin_text(ours, theirs, prompts):
    expected = theirs(prompts, padding="max_length", truncation=True, max_length=77)["input_ids"]
    np.testing.assert_array_equal(tokenize(ours, prompts), expected)


def break_merges(folder: Path) -> None:
    (folder / "merges.txt").write_text("#version: 0.2\nc a\nd o g\n")


def break_merge_of_unknown(folder: Path) -> None:
    (folder / "merges.txt").write_text("#version: 0.2\nd o\n")


def other_vocabulary(folder: Path) -> None:
    (folder / "vocab.json").write_text('{"a": 0}')


def with_id(wrong: object) -> Callable[[Path], object]:
    def damage(folder: Path) -> None:
        vocab = json.loads((folder / "vocab.json").read_text())
        (folder / "vocab.json").write_text(json.dumps(vocab | {"x": wrong}))

    return damage


def with_settings(settings: dict[str, object]) -> Callable[[Path], object]:
    return lambda folder: (folder / "tokenizer_config.json").write_text(json.dumps(settings))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "vocab.json").unlink(), "vocab.json: no such file; a CLIP tokenizer needs"),
        (lambda folder: (folder / "merges.txt").unlink(), "merges.txt: no such file"),
        (lambda folder: (folder / "vocab.json").write_text("{"), "vocab.json: not JSON"),
        (
            lambda folder: (folder / "vocab.json").write_text("[]"),
            "vocab.json: holds list .*, expected an object",
        ),
        (lambda folder: (folder / "vocab.json").write_bytes(b"\xff\xfe{"), "vocab.json: not UTF-8"),
        (other_vocabulary, "expected CLIP's vocabulary"),
        *((with_id(wrong), rf"the id of 'x' is {wrong}, expected a whole number") for wrong in (-1, True, 1.5, 2**64)),
        (break_merges, "line 3 is 'd o g'"),
        (break_merge_of_unknown, "line 2 is 'd o'"),
        (lambda folder: (folder / "vocab.json").write_text("[" * 100_000), "vocab.json: nested too deep"),
        (with_settings({"pad_token": "<pad>"}), "padding token is '<pad>', expected"),
        (with_settings({"pad_token": {"lstrip": False}}), "padding token is None, expected one in vocab.json"),
        (with_settings({"pad_token": ["<pad>"]}), r"padding token is \['<pad>'\], expected one in vocab.json"),
        (with_settings({"model_max_length": "long"}), "model_max_length is 'long', expected a number of at least 3"),
        (with_settings({"model_max_length": 0}), "model_max_length is 0, expected a number of at least 3"),
    ],
)
def test_damaged_folders(small, damage, message):
    damage(small / "tokenizer")
    with pytest.raises(InputError, match=message):
        load_tokenizer(small)


def test_absent_sources(tmp_path, monkeypatch):
    with pytest.raises(InputError, match="is neither a folder nor a hub id"):
        load_tokenizer(tmp_path / "nowhere")
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(InputError, match=r"cannot be fetched from the hub .* give that folder"):
        load_tokenizer("someone/absent")


def test_imports_neither_torch_nor_transformers(small):
    program = (
        "import sys; from cassr_jax.weights.tokenizer import load_tokenizer, tokenize\n"
        f"tokenize(load_tokenizer({str(small)!r}), ['cat'])\n"
        "print([name for name in ('torch', 'transformers') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
