"""Files of prompts: both forms are read, and every mistake in one is a sentence that names the file."""

import json

import pytest

from cassr_jax.commands.prompts import read_prompts
from cassr_jax.errors import InputError

NAMES = ["beach", "holiday/dog"]
PROMPTS = {"beach": "clean, high-resolution, a beach", "holiday/dog": "a dog: große Ohren"}


def test_both_forms_are_read(tmp_path):
    (tmp_path / "p.json").write_text(json.dumps(PROMPTS), "utf-8")
    (tmp_path / "p.tsv").write_text("".join(f"{name}\t{prompt}\n\n" for name, prompt in PROMPTS.items()), "utf-8")
    (tmp_path / "windows.tsv").write_bytes(("\ufeff" + (tmp_path / "p.tsv").read_text("utf-8")).encode())
    for name in ("p.json", "p.tsv", "windows.tsv"):
        assert read_prompts(tmp_path / name, NAMES) == PROMPTS
    (tmp_path / "p.tsv").write_text("beach\t\ndog\ta dog\tand a tab\n")
    assert read_prompts(tmp_path / "p.tsv", ["dog"], others=["beach"]) == {"beach": "", "dog": "a dog\tand a tab"}


def test_only_a_line_feed_ends_a_line(tmp_path):
    prompt = "a\x0bb\x0cc\x1cd\x85e\u2028f\u2029g"
    (tmp_path / "p.tsv").write_bytes(f"beach\t{prompt}\r\n\r\ndog\tb\n".encode())
    assert read_prompts(tmp_path / "p.tsv", ["beach", "dog"]) == {"beach": prompt, "dog": "b"}


COMPOSED, DECOMPOSED = "caf\u00e9", "cafe\u0301"


@pytest.mark.parametrize(("written", "there"), [(COMPOSED, DECOMPOSED), (DECOMPOSED, COMPOSED)])
def test_a_name_may_have_another_normal_form_than_its_picture(tmp_path, written, there):
    (tmp_path / "p.tsv").write_text(f"{written}\ta\n", "utf-8")
    (tmp_path / "p.json").write_text(json.dumps({written: "a"}), "utf-8")
    (tmp_path / "both.tsv").write_text(f"{written}\ta\n{there}\tb\n", "utf-8")
    for name in ("p.tsv", "p.json"):
        assert read_prompts(tmp_path / name, [there]) == {there: "a"}
        assert read_prompts(tmp_path / name, [], others=[there]) == {there: "a"}
    assert read_prompts(tmp_path / "both.tsv", [written, there]) == {written: "a", there: "b"}
    with pytest.raises(InputError, match="twice, expected one prompt"):
        read_prompts(tmp_path / "both.tsv", [there])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("p.tsv", "", "holds no prompt, expected one for every picture, such as beach"),
        ("p.json", "{}", "holds no prompt, expected one for every picture"),
        ("p.json", "", "not JSON"),
        ("p.json", '["beach"]', "holds list .*, expected an object"),
        ("p.json", '{"beach": "a"', "not JSON"),
        ("p.json", '{"beach": ' + "[" * 100_000, "nested too deep"),
        ("p.json", '{"beach": "a", "holiday/dog": 3}', "the prompt for holiday/dog is '3', expected text"),
        ("p.json", '{"beach": {"a": "b"}, "holiday/dog": "b"}', r"the prompt for beach is .*'b'.*, expected text"),
        ("p.json", '{"beach": null, "holiday/dog": "b"}', "the prompt for beach is 'None', expected text"),
        ("p.json", '{"beach": "a", "beach": "b", "holiday/dog": "c"}', "names beach twice, expected one prompt"),
        ("p.tsv", "beach\ta\nbeach\tb\n", "names beach twice"),
        ("p.tsv", "beach\ta\n", "has no prompt for holiday/dog, expected one for every picture"),
        (
            "p.tsv",
            "beach.jpg\ta\n",
            "names beach.jpg, which is no picture here, expected names without suffix, such as",
        ),
        ("p.tsv", "\nbeach a\n", "line 2: has no tab, expected a picture's name, a tab and its prompt"),
        ("p.tsv", "beach\t\xff\n", "cannot be read"),
    ],
)
def test_a_mistake_is_one_sentence(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content.encode("latin-1"))
    with pytest.raises(InputError, match=rf"^\S*{name}(, |: ){message}[^\n]*$"):
        read_prompts(tmp_path / name, NAMES)


def test_many_that_are_missing_are_counted(tmp_path):
    (tmp_path / "p.tsv").write_text("c\tx\n")
    with pytest.raises(InputError, match="has no prompt for a and 2 more, expected"):
        read_prompts(tmp_path / "p.tsv", ["a", "b", "c", "d"])


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(InputError, match=r"none\.tsv: cannot be read \(No such file or directory\)"):
        read_prompts(tmp_path / "none.tsv", NAMES)
