"""`sample.py --prompt` and `--prompts`: the pictures' prompts, which decide whether a picture is finished."""

import json

import pytest

from cassr_jax.errors import InputError
from tests.end_to_end.quick import flat, manifest, run


@pytest.fixture
def pictures(folder):
    flat(folder / "a.png", "red")
    flat(folder / "deep" / "b.jpg", "green")
    (folder.parent / "p.json").write_text(json.dumps({"a": "a wall", "deep/b": "a meadow"}))
    return folder.parent


def test_each_picture_has_its_own_prompt(pictures, cascade):
    assert run("in", "--output", "out", "--prompts", "p.json") == 0
    assert [call["prompt"] for call in cascade.calls] == ["a wall", "a meadow"]
    assert {name: entry["settings"]["result"]["prompt"] for name, entry in manifest().items()} == {
        "a.png": "a wall",
        "deep/b.png": "a meadow",
    }


def test_a_changed_prompt_is_restored_again(pictures, cascade):
    assert run("in", "--output", "out", "--prompts", "p.json") == 0
    cascade.calls.clear()
    (pictures / "p.json").write_text(json.dumps({"a": "a wall", "deep/b": "a lawn"}))
    assert run("in", "--output", "out", "--prompts", "p.json", "--resume") == 0
    assert [call["prompt"] for call in cascade.calls] == ["a lawn"]


def test_without_the_option_the_cascade_s_own_prompt_holds(pictures, cascade):
    assert run("in", "--output", "out") == 0
    assert [call["prompt"] for call in cascade.calls] == [None, None]
    assert {entry["settings"]["result"]["prompt"] for entry in manifest().values()} == {"clean, high-resolution"}


def test_a_prompt_that_the_cascade_does_not_know_is_named_before_anything_is_claimed(pictures, cascade, capsys):
    def check(prompt=None, **settings):
        if prompt == "a meadow":
            raise InputError("a prompt is 'a meadow', expected 'a wall'")

    cascade.check = check
    assert run("in", "--output", "out", "--prompts", "p.json", "--shard", "1/2") == 2
    expected = "sample.py: p.json, deep/b: a prompt is 'a meadow', expected 'a wall'\n"
    assert capsys.readouterr().err == expected
    assert not cascade.calls
    assert not (pictures / "out").exists()


def test_a_picture_without_a_prompt_is_named_before_anything_is_done(pictures, cascade, capsys):
    (pictures / "p.json").write_text(json.dumps({"a": "a wall"}))
    assert run("in", "--output", "out", "--prompts", "p.json") == 2
    assert capsys.readouterr().err == "sample.py: p.json: has no prompt for deep/b, expected one for every picture\n"
    assert not cascade.calls
    assert not (pictures / "out").exists()


@pytest.mark.parametrize("prompt", ["a bee", ""])
def test_one_prompt_holds_for_all_pictures(pictures, cascade, prompt):
    assert run("in", "--output", "out", "--prompt", prompt) == 0
    assert [call["prompt"] for call in cascade.calls] == [prompt, prompt]
    assert {entry["settings"]["result"]["prompt"] for entry in manifest().values()} == {prompt}
    cascade.calls.clear()
    assert run("in", "--output", "out", "--prompt", prompt, "--resume") == 0
    assert cascade.calls == []


def test_a_prompt_for_all_pictures_is_checked_and_excludes_a_file_of_prompts(pictures, cascade, capsys):
    def check(prompt=None, **settings):
        if prompt is not None:
            raise InputError(f"a prompt is {prompt!r}, expected 'a wall'")

    cascade.check = check
    assert run("in", "--output", "out", "--prompt", "a meadow") == 2
    assert capsys.readouterr().err == "sample.py: --prompt: a prompt is 'a meadow', expected 'a wall'\n"
    with pytest.raises(SystemExit, match="2"):
        run("in", "--output", "out", "--prompt", "a wall", "--prompts", "p.json")
    assert "argument --prompts: not allowed with argument --prompt" in capsys.readouterr().err
    assert not (pictures / "out").exists()
