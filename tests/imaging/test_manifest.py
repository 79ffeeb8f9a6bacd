import dataclasses

import pytest

from cassr_jax.errors import InputError
from cassr_jax.imaging.manifest import Entry, Manifest, sha256

ENTRY = Entry("in/a.jpg", "c0ffee", {"result": "a.png"}, {"seed": 0, "steps": None}, status="done")


def test_survives_the_disk(tmp_path):
    manifest = Manifest(tmp_path)
    other = Entry("in/\udcff.jpg", "beef", {"result": "b.png", "compare": "b_compare.png"}, {"seed": 2**63 - 1})
    manifest.put(ENTRY, other)
    manifest.put(dataclasses.replace(other, status="failed", error="cut short"))
    read = Manifest(tmp_path)
    assert read.entries == manifest.entries
    assert read.entries["b.png"].settings["seed"] == 2**63 - 1
    assert read.entries["b.png"].error == "cut short"
    assert [path.name for path in tmp_path.iterdir()] == ["manifest.json"]


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"version": 1, "pictures": [{"a": 1}]}', '{"version": 9}'])
def test_other_files_of_that_name_are_refused(tmp_path, text):
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(InputError, match=r"manifest\.json"):
        Manifest(tmp_path)
    assert (tmp_path / "manifest.json").read_text() == text


def test_finished_means_this_picture_these_settings_these_files(tmp_path):
    manifest = Manifest(tmp_path)
    assert not manifest.finished(ENTRY)
    manifest.put(ENTRY)
    assert not manifest.finished(ENTRY)  # its file is not there
    (tmp_path / "a.png").touch()
    assert manifest.finished(dataclasses.replace(ENTRY, status="pending", input="moved/a.jpg"))
    for change in (
        {"sha256": "0"},
        {"settings": {"seed": 1, "steps": None}},
        {"outputs": {"result": "b.png"}},
        {"outputs": {"result": "a.png", "compare": "a_compare.png"}},
    ):
        assert not manifest.finished(dataclasses.replace(ENTRY, **change))
    for status in ("pending", "failed"):
        manifest.put(dataclasses.replace(ENTRY, status=status))
        assert not manifest.finished(ENTRY)


def test_only_its_own_results_are_replaced(tmp_path):
    manifest = Manifest(tmp_path)
    manifest.check_free(ENTRY)
    (tmp_path / "a.png").touch()
    with pytest.raises(InputError, match=r"a\.png: exists and is no result"):
        manifest.check_free(ENTRY)
    manifest.put(ENTRY)
    manifest.check_free(dataclasses.replace(ENTRY, sha256="changed"))
    manifest.check_free(dataclasses.replace(ENTRY, input="moved/a.jpg"))
    with pytest.raises(InputError, match=r"a\.png: holds the result of in/a\.jpg"):
        manifest.check_free(dataclasses.replace(ENTRY, sha256="other", input="other/a.jpg"))


def test_content_decides_the_digest(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert sha256(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    with pytest.raises(InputError, match="cannot be read"):
        sha256(tmp_path / "none")
