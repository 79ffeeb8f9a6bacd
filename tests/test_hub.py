"""A cascade goes to the hub and comes back, by huggingface_hub's own calls to a hub on this machine."""

import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from cassr_jax import hub as program
from cassr_jax.commands import bundle
from cassr_jax.diffusion.schedule import Schedule
from cassr_jax.errors import InputError
from cassr_jax.hub import parts
from cassr_jax.networks import write_network
from tests.hub_server import TOKEN, Hub, serving
from tests.random_cascade import write_random_cascade
from tests.weights.published import UNET, VAE, random_component

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


def environment(server: Hub, home: Path, token: str = TOKEN, offline: bool = False) -> dict[str, str]:
    env = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    env |= {"HF_ENDPOINT": server.address, "HF_HOME": str(home), "HF_TOKEN": token, "HF_HUB_DISABLE_XET": "1"}
    return env | {"HF_HUB_OFFLINE": str(int(offline))}


def run(server: Hub, home: Path, *arguments: str, **settings) -> subprocess.CompletedProcess:
    """A process of its own, since huggingface_hub reads its settings once."""
    env = environment(server, home, **settings)
    return subprocess.run([sys.executable, *arguments], cwd=ROOT, env=env, capture_output=True, text=True)


def run_at_terminal(server: Hub, home: Path, *arguments: str) -> tuple[str, str]:
    """The same with stderr at a terminal: what it prints on stdout, and what is shown on stderr."""
    ours, theirs = pty.openpty()
    env = environment(server, home)
    ran = subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=theirs, text=True
    )
    os.close(theirs)
    shown = b""
    with suppress(OSError):  # the end, at a terminal
        while part := os.read(ours, 4096):
            shown += part
    os.close(ours)
    assert ran.returncode == 0, shown.decode()
    return ran.stdout, shown.decode()


def network(kind: str, config: object) -> dict[str, bytes]:
    """The files of a network of random weights."""
    with tempfile.TemporaryDirectory() as folder:
        write_network(Path(folder), kind, config, random_component(kind, config))
        return {file.name: file.read_bytes() for file in Path(folder).iterdir()}


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


def test_an_upload_that_breaks_off_is_one_line(cascade, server, tmp_path, monkeypatch):
    monkeypatch.setattr(server, "stores", False)
    pushed = run(server, tmp_path, "-m", "cassr_jax.hub", "push", str(cascade), "me/full")
    assert pushed.returncode == 2
    assert re.match(r"hub: me/full: cannot be uploaded \(.*\), expected a hub that takes it\n", pushed.stderr)


@pytest.fixture(scope="module")
def models(server) -> Hub:
    """A repository as Stable Diffusion's, one of a LoRA, and one that nobody else may see."""
    schedule = Schedule(prediction_type="v_prediction")
    server.repositories["lab/sd"] = {
        **{f"unet/{name}": data for name, data in network("unet", UNET).items()},
        **{f"vae/{name}": data for name, data in network("vae", VAE).items()},
        "unet/diffusion_pytorch_model.bin": b"the same in another format",
        "scheduler/scheduler_config.json": json.dumps(schedule.to_diffusers()).encode(),
        "tokenizer/vocab.json": b"{}",
        "tokenizer/merges.txt": b"",
        "README.md": b"A model.",
    }
    server.repositories["lab/style"] = {"own[1].safetensors": b"a", "own1.safetensors": b"b"}
    server.repositories["lab/styles"] = {"pytorch_lora_weights.safetensors": b"default", "deep/own.safetensors": b"own"}
    server.private |= {"lab/sd": False, "lab/style": False, "lab/styles": False}
    return server


class TestParts:
    """Parts of repositories that are no cascades, each by its own id."""

    def test_only_what_is_wanted_is_fetched_with_one_bar(self, models, tmp_path):
        code = """
from cassr_jax.gathering import gather
from cassr_jax.schedules import agreed
places, loras = gather({"unet": "lab/sd", "vae": "lab/sd:vae", "tokenizer": "lab/sd"}, {}, "it")
print(*places.values())
print(agreed(None, places["unet"], "it").prediction_type)
"""
        ran, shown = run_at_terminal(models, tmp_path, "-c", code)
        *places, predicts = ran.split()
        assert [place.rpartition("/")[2] for place in places] == ["unet", "vae", "tokenizer"]
        assert predicts == "v_prediction"
        cached = {file.name for file in (tmp_path / "hub/models--lab--sd").rglob("*") if file.is_symlink()}
        weights = "diffusion_pytorch_model.safetensors"
        assert cached == {"config.json", weights, "scheduler_config.json", "vocab.json", "merges.txt"}
        assert "fetching weights: 100%" in shown
        bars = {line.partition(":")[0].strip() for line in re.split(r"[\r\n]+", shown) if "%|" in line}
        assert bars == {"fetching weights"}
        again, shown = run_at_terminal(models, tmp_path, "-c", code)
        assert again == ran
        assert "fetching" not in shown

    def test_everything_that_is_missing_is_named_at_once_and_nothing_is_fetched(self, models, tmp_path):
        code = """
from cassr_jax.gathering import gather
gather({"vae": "lab/sd", "unet": "lab/absent", "controlnet": "runs/a/b", "scedit": "lab/sd"}, {"lab/style": 1}, "it")
"""
        error = run(models, tmp_path, "-c", code).stderr.splitlines()[-1]
        assert ": it: lacks controlnet, unet, scedit, lora lab/style (docs/weights.md says where" in error
        assert "controlnet: runs/a/b: no such file or folder" in error
        assert "lab/absent: not a local file or folder, and its folder unet or the repository itself cannot" in error
        assert (
            "lab/sd: its folder scedit or its folder 0_SwiftSCETuning or the repository itself has no weights" in error
        )
        assert "lab/style: its folder lora or the repository itself has no LoRA" in error
        assert not list((tmp_path / "hub").rglob("*.safetensors"))

    def test_loras_of_one_repository_stay_apart(self, models, tmp_path):
        code = """
from cassr_jax.gathering import gather
_, loras = gather({}, {"lab/styles": 0.5, "lab/styles:deep/own.safetensors": 2}, "it")
for file, scale in loras.items():
    print(open(file).read(), scale)
"""
        assert run(models, tmp_path, "-c", code).stdout.splitlines() == ["default 0.5", "own 2"]
        twice = code.replace("lab/styles:deep/own.safetensors", "lab/styles:pytorch_lora_weights.safetensors")
        assert "pytorch_lora_weights.safetensors twice, expected each once" in run(models, tmp_path, "-c", twice).stderr

    def test_a_damaged_file_of_the_cache_is_fetched_again(self, models, tmp_path):
        code = 'from cassr_jax.gathering import gather; print(gather({"vae": "lab/sd"}, {}, "it")[0]["vae"])'
        file = Path(run(models, tmp_path, "-c", code).stdout.strip(), "diffusion_pytorch_model.safetensors")
        whole = file.read_bytes()
        file.resolve().write_bytes(whole[:100])
        run(models, tmp_path, "-c", code)
        assert file.read_bytes() == whole

    def test_a_cache_without_a_config_is_not_taken_for_stable_diffusion(self, models, tmp_path):
        code = 'from cassr_jax.gathering import gather; print(gather({"vae": "lab/sd"}, {}, "it")[0]["vae"])'
        Path(run(models, tmp_path, "-c", code).stdout.strip(), "config.json").unlink()
        assert "its folder vae or the repository itself" in run(models, tmp_path, "-c", code, offline=True).stderr

    def test_what_nobody_may_see_is_said_to_be_so(self, models, tmp_path):
        code = 'from cassr_jax.gathering import gather; gather({"vae": "lab/nothing"}, {}, "it")'
        error = run(models, tmp_path, "-c", code).stderr
        assert "(no such repository there, or a private one); check the name, or log in with `hf auth login`" in error

    def test_a_cache_that_cannot_be_written_is_named(self, models, tmp_path):
        (tmp_path / "hub").write_text("a file")
        code = 'from cassr_jax.gathering import gather; gather({"vae": "lab/sd"}, {}, "it")'
        error = run(models, tmp_path, "-c", code).stderr
        assert f"lab/sd: cannot be fetched into {tmp_path}/hub (" in error
        assert "HF_HOME names another" in error

    def test_ctrl_c_ends_a_fetch_at_once(self, models, tmp_path):
        code = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a test run in the background ignores it, and so would this
from cassr_jax.weights.__main__ import main
sys.exit(main(sys.argv[1:]))
"""
        command = ["-c", code, "convert", "lab/sd", str(tmp_path / "out"), "--kind", "vae", "unet"]
        models.sending.clear()
        models.pace.clear()  # every file stops in its middle
        with subprocess.Popen([sys.executable, *command], cwd=ROOT, env=environment(models, tmp_path)) as process:
            assert models.sending.wait(60)
            process.send_signal(signal.SIGINT)
            try:
                assert process.wait(20) == 130
            finally:
                models.pace.set()
                process.kill()

    def test_a_name_with_brackets_is_no_pattern(self, models, tmp_path):
        code = """
from cassr_jax.weights.hub import Part, fetch
print(*sorted(path.name for path in fetch(Part("lab/style", "LoRA", (), [["own[1].safetensors"]])).iterdir()))
"""
        ran = run(models, tmp_path, "-c", code)
        assert ran.stdout.split() == ["own[1].safetensors"], ran.stderr

    def test_a_part_that_others_cannot_fetch_is_not_published(self, models, tmp_path):
        models.repositories["lab/secret"], models.private["lab/secret"] = {"config.json": b"{}"}, True
        (tmp_path / "README.md").write_text("A card.")
        for source, code in (("lab/sd", 0), ("lab/secret", 2), ("models/vae", 2)):
            (tmp_path / "cassr.json").write_text(json.dumps({"components": {"vae": source}}))
            pushed = run(models, tmp_path / "home", "-m", "cassr_jax.hub", "push", str(tmp_path), "me/with-others")
            assert pushed.returncode == code, pushed.stderr
            if code:
                assert f"its vae is {source}, which is neither within the folder nor in a public" in pushed.stderr


def test_half_a_cascade_in_the_cache_is_named(cascade, server, tmp_path):
    assert run(server, tmp_path, "-m", "cassr_jax.hub", "push", str(cascade), "me/half").returncode == 0
    assert run(server, tmp_path, "-c", LOAD, "me/half", str(cascade)).stdout.strip() == "the same"
    (snapshot,) = (tmp_path / "hub/models--me--half/snapshots").iterdir()
    shutil.rmtree(snapshot / "unet")
    (tmp_path / "unet").mkdir()  # which must not be taken for it
    loaded = run(server, tmp_path, "-c", LOAD, "me/half", str(cascade), offline=True)
    assert re.search(r"me/half: lacks unet, which its cassr\.json names; the hub was not asked \(", loaded.stderr)


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
    assert parts(tmp_path) == ([*own, "rrdbnet.param", "rrdbnet.bin", "style.safetensors"], [("LoRA", "owner/name")])
    (tmp_path / "cassr.json").write_text(json.dumps({"loras": {"/models/style.safetensors": 1}}))
    with pytest.raises(InputError, match=r"its LoRA is /models/style\.safetensors, expected a part within the folder"):
        parts(tmp_path)


def test_what_the_hub_or_a_package_has_is_not_uploaded(tmp_path):
    components = {"vae": "owner/name", "rrdbnet": "realesrgan-x4plus", "unet": "unet"}
    (tmp_path / "unet").mkdir()
    (tmp_path / "README.md").write_text("A card.")
    (tmp_path / "cassr.json").write_text(json.dumps({"components": components}))
    wanted, elsewhere = parts(tmp_path)
    assert wanted == ["cassr.json", "README.md", "scheduler/scheduler_config.json", "unet/*"]
    assert elsewhere == [("vae", "owner/name")]
    (tmp_path / "cassr.json").write_text(json.dumps({"components": {"vae": "."}}))
    assert parts(tmp_path)[0][-1] == "*"
