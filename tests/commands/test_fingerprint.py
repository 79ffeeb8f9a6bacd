"""The fingerprint of a cascade."""

from pathlib import Path

import pytest

from cassr_jax.commands import fingerprint as module
from cassr_jax.commands.fingerprint import fingerprint
from cassr_jax.files import write_json


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A cascade whose networks lie together in a folder, one of them behind a link."""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "weights").write_bytes(b"first")
    (tmp_path / "models" / "vae").mkdir(parents=True)
    (tmp_path / "models" / "vae" / "weights").write_bytes(b"vae")
    (tmp_path / "models" / "unet").symlink_to(tmp_path / "elsewhere")
    write_json(tmp_path / "cassr.json", {"components": {"unet": "models", "vae": "models"}})
    return tmp_path


def test_fields_that_came_later_count_only_where_they_have_an_effect(folder: Path):
    before = fingerprint(folder)
    named = {"control": "cassr", "decoder": "vae", "process_size": 1, "loras": {}, "sampling": {"eta": None}}
    components = {"components": {"unet": "models", "vae": "models"}}
    write_json(folder / "cassr.json", components | named)
    assert fingerprint(folder) == before
    for changed in ({"control": "pasd"}, {"process_size": 64}, {"sampling": {"added_noise_level": 900}}):
        write_json(folder / "cassr.json", components | changed)
        assert fingerprint(folder) != before


def test_weights_behind_a_link_to_a_folder_count(folder: Path):
    before = fingerprint(folder)
    assert fingerprint(folder) == before
    (folder / "elsewhere" / "weights").write_bytes(b"other")
    assert fingerprint(folder) != before


def test_a_file_of_several_networks_is_read_once(folder: Path, monkeypatch: pytest.MonkeyPatch):
    read = []
    monkeypatch.setattr(module, "sha256", lambda file: read.append(file) or "digest")
    fingerprint(folder)
    assert sorted(file.parent.name for file in read) == ["unet", "vae"]
