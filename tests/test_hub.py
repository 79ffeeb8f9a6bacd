"""A cascade goes to the hub and comes back, by huggingface_hub's own calls to a hub on this machine."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cassr_jax import hub as program
from cassr_jax.commands import bundle
from cassr_jax.errors import InputError
from cassr_jax.hub import parts
from tests.hub_server import TOKEN, Hub, serving
from tests.random_cascade import write_random_cascade

ROOT = Path(__file__).parents[1]
LOAD = """
import sys, cassr_jax
found, expected = (cassr_jax.load(source).networks for source in sys.argv[1:])
assert found.configs == expected.configs
assert found.params.keys() == expected.params.keys()
assert all((value == expected.params[name]).all() for name, value in found.params.items())
print("the same")
"""


@pytest.fixture(scope="module")
def cascade(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("cascade")
    components = {kind: kind for kind in ("vae", "unet", "text_encoder", "controlnet", "multiple_attention")}
    source = write_random_cascade(folder / "source", activation="identity", components=components)
    assert bundle.main(["--config", str(source), "--output", str(folder / "bundle"), "--dtype", "float32"]) == 0
    return folder / "bundle"


@pytest.fixture(scope="module")
def server() -> Iterator[Hub]:
    with serving() as hub:
        yield hub


def run(server: Hub, home: Path, *arguments: str, token: str = TOKEN) -> subprocess.CompletedProcess:
    """A process of its own, since huggingface_hub reads its settings once."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    env |= {"HF_ENDPOINT": server.address, "HF_HOME": str(home), "HF_TOKEN": token, "HF_HUB_DISABLE_XET": "1"}
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, env=env | {"HF_HUB_OFFLINE": "0"}, capture_output=True, text=True
    )


def test_a_cascade_goes_to_the_hub_and_comes_back(cascade, server, tmp_path):
    (cascade / "notes.txt").write_text("not part of it")
    pushed = run(server, tmp_path, "-m", "cassr_jax.hub", "push", str(cascade), "me/photos", "--message", "First")
    assert pushed.returncode == 0, pushed.stderr
    assert pushed.stdout.strip() == f"{server.address}/me/photos/commit/{server.commit_of('me/photos')}"
    assert server.commits == ["First"]
    files = server.repositories["me/photos"]
    assert {"cassr.json", "README.md", "unet/config.json", "scheduler/scheduler_config.json"} < files.keys()
    assert "notes.txt" not in files
    assert (
        files["unet/diffusion_pytorch_model.safetensors"]
        == (cascade / "unet/diffusion_pytorch_model.safetensors").read_bytes()
    )
    loaded = run(server, tmp_path, "-c", LOAD, "me/photos", str(cascade))
    assert loaded.stdout.strip() == "the same", loaded.stderr
    cached = {file.name for file in (tmp_path / "hub/models--me--photos").rglob("*") if file.is_symlink()}
    assert "cassr.json" in cached
    assert "README.md" not in cached
    again = run(server, tmp_path, "-m", "cassr_jax.hub", "push", str(cascade), "me/photos")
    assert again.returncode == 0, again.stderr


def test_a_repository_may_be_private(cascade, server, tmp_path):
    pushed = run(server, tmp_path, "-m", "cassr_jax.hub", "push", str(cascade), "me/secret", "--private")
    assert pushed.returncode == 0, pushed.stderr
    assert server.private["me/secret"]


def test_whoever_is_not_known_is_refused_in_one_line(cascade, server, tmp_path):
    pushed = run(server, tmp_path, "-m", "cassr_jax.hub", "push", str(cascade), "me/other", token="wrong")
    assert pushed.returncode == 2
    assert pushed.stderr.startswith("hub: me/other: cannot be uploaded (")
    assert "401" in pushed.stderr
    assert "me/other" not in server.repositories


class TestRefused:
    def push(self, folder: Path, capsys, name: str = "me/it") -> str:
        assert program.main(["push", str(folder), name]) == 2
        return capsys.readouterr().err

    def test_names_and_folders(self, cascade, tmp_path, capsys):
        assert "me: expected the name of a repository" in self.push(cascade, capsys, "me")
        assert "me/it:x: expected the name of a repository" in self.push(cascade, capsys, "me/it:x")
        assert "holds no cassr.json, expected a folder of" in self.push(tmp_path, capsys)
        (tmp_path / "cassr.json").write_text("{}")
        assert "holds no README.md, expected a model card" in self.push(tmp_path, capsys)

    @pytest.mark.parametrize("source", ["/models/vae", "../vae", "missing"])
    def test_a_part_that_nobody_else_has(self, tmp_path, source):
        (tmp_path / "folder").mkdir()
        (tmp_path / "vae").mkdir()
        (tmp_path / "folder/README.md").write_text("A card.")
        (tmp_path / "folder/cassr.json").write_text(json.dumps({"components": {"vae": source}}))
        with pytest.raises(InputError, match=rf"its vae is {source}, expected a part within the folder, on the hub"):
            parts(tmp_path / "folder")


def test_loras_and_files_beside_the_description_are_parts_too(tmp_path):
    for name in ("README.md", "style.safetensors", "rrdbnet.param", "rrdbnet.bin", "notes.txt"):
        (tmp_path / name).write_text("x")
    content = {"components": {"rrdbnet": "rrdbnet.param"}, "loras": {"style.safetensors": 0.5, "owner/name": 1}}
    (tmp_path / "cassr.json").write_text(json.dumps(content))
    own = ["cassr.json", "README.md", "scheduler/scheduler_config.json"]
    assert parts(tmp_path) == [*own, "rrdbnet.param", "rrdbnet.bin", "style.safetensors"]
    (tmp_path / "cassr.json").write_text(json.dumps({"loras": {"/models/style.safetensors": 1}}))
    with pytest.raises(InputError, match=r"its LoRA is /models/style\.safetensors, expected a part within the folder"):
        parts(tmp_path)


def test_what_the_hub_or_a_package_has_is_not_uploaded(tmp_path):
    components = {"vae": "owner/name", "rrdbnet": "realesrgan-x4plus", "unet": "unet"}
    (tmp_path / "unet").mkdir()
    (tmp_path / "README.md").write_text("A card.")
    (tmp_path / "cassr.json").write_text(json.dumps({"components": components}))
    assert parts(tmp_path) == ["cassr.json", "README.md", "scheduler/scheduler_config.json", "unet/*"]
