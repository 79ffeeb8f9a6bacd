"""Configurations from files, from JSON and from the command line: what is set is set, what is wrong is named."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cassr_jax.commands.fingerprint import fingerprint
from cassr_jax.config import CascadeConfig, LossConfig, OptimizerConfig, SamplingConfig, TrainConfig
from cassr_jax.config_files import from_json, override, read_config, resolve_loras, sibling, to_json
from cassr_jax.data.config import DataConfig
from cassr_jax.diffusion.schedule import Schedule
from cassr_jax.errors import InputError
from cassr_jax.loading import load, read_cascade
from cassr_jax.models.multiple_attention import GuidanceSwitches
from tests.random_cascade import NETWORKS

CONFIGS = Path(__file__).parents[1] / "configs"
CONFIG = TrainConfig(
    stage="cassr",
    data=DataConfig("pictures", crop_size=64, preset="light"),
    components={"vae": "some/vae", "unet": "owner/name:unet"},
    new={kind: NETWORKS[kind] for kind in ("scedit", "controlnet", "multiple_attention", "text_encoder", "vae")},
    schedule=Schedule(prediction_type="v_prediction", num_train_timesteps=500),
    loss=LossConfig(snr_gamma=5.0),
)


def get(config: Any, path: str) -> Any:
    for name in path.split("."):
        config = config[name] if isinstance(config, dict) else getattr(config, name)
    return config


@pytest.mark.parametrize(
    ("change", "value"),
    [
        ("batch_size=2", 2),
        ("prompt=a = b, with: marks", "a = b, with: marks"),
        ("prompt=5", "5"),
        ("prompt=", ""),
        ("stage=vae", "vae"),
        ("optimizer.learning_rate=1e-4", 1e-4),
        ("optimizer.ema_decay=0", 0.0),
        ("optimizer.decay=cosine", "cosine"),
        ("loss.snr_gamma=5", 5.0),
        ("loss.snr_gamma=null", None),
        ("data.preset=stablesr", "stablesr"),
        ("data.preset=null", None),
        ("schedule.prediction_type=epsilon", "epsilon"),
        ("components.vae=runs/vae/export/vae", "runs/vae/export/vae"),
        ("components.scedit=a.b/c", "a.b/c"),
        ("new.vae.block_out_channels=[8, 16]", (8, 16)),
        ("new.controlnet.own.conditioning_embedding_out_channels=[8, 16]", (8, 16)),
        ("new.vae.mid_block_add_attention=true", True),
    ],
)
def test_a_change_sets_one_field(change, value):
    path = change.partition("=")[0]
    changed = override(CONFIG, [change])
    assert get(changed, path) == value
    assert type(get(changed, path)) is type(value)
    before, after = to_json(CONFIG), to_json(changed)
    *parents, last = path.split(".")
    for tree in (before, after):
        node = tree
        for parent in parents:
            node = node[parent]
        node.pop(last, None)
    assert after == before


def test_a_change_within_nothing_starts_from_the_defaults():
    config = override(replace(CONFIG, schedule=None), ["schedule.steps_offset=0"])
    assert config.schedule == Schedule(steps_offset=0)


def test_changes_are_made_in_order():
    assert override(CONFIG, ["batch_size=2", "seed=3", "batch_size=5"]) == replace(CONFIG, batch_size=5, seed=3)
    assert override(CONFIG, []) == CONFIG


@pytest.mark.parametrize("path", ["photos", "../photos", "data/div2k/1.0.0", "/data/v1.2/", "photos.v2"])
def test_a_set_of_a_mixture_may_have_dots_in_its_path(path):
    config = override(CONFIG, ["data.path=", "data.mixture.photos=1", f"data.mixture.{path}=2"])
    assert config.data.weights() == {"photos": 1.0} | {path: 2.0}
    with pytest.raises(InputError, match=re.escape(f"data.mixture.{path} is 'much', expected a value of type float")):
        override(CONFIG, [f"data.mixture.{path}=much"])


@pytest.mark.parametrize("name", ["vea", "vae.x", ""])
def test_a_component_that_is_none_is_named(name):
    expected = re.escape(f"components names {name!r}, expected some of vae, unet, ")
    with pytest.raises(InputError, match=expected):
        read_config(CONFIGS / "smoke.py", [f"components.{name}=x"])
    with pytest.raises(InputError, match=expected):
        load(change=lambda cascade: replace(cascade, components=cascade.components | {name: "x"}))


def test_a_mapping_can_be_set_whole():
    assert override(CONFIG, ['components={"vae": "x"}']).components == {"vae": "x"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("batch_size", "'batch_size': expected FIELD=VALUE"),
        ("batchsize=2", "batchsize: TrainConfig has no field 'batchsize', expected one of stage, data, "),
        ("data.crop=2", "data.crop: DataConfig has no field 'crop', expected one of path, mixture, "),
        ("batch_size=2.0", "batch_size is 2.0, expected a value of type int"),
        ("batch_size=" + "[" * 5000, "expected a value of type int"),
        ("batch_size=" + "9" * 5000, "expected a value of type int"),
        ("batch_size=two", "batch_size is 'two', expected a value of type int"),
        ("batch_size=", "batch_size is '', expected a value of type int"),
        ("batch_size=true", "batch_size is True, expected a value of type int"),
        ("batch_size=null", "batch_size is None, expected a value of type int"),
        ("batch_size.more=2", "batch_size.more: 4 has no field 'more', expected nothing after a plain value"),
        ("optimizer.learning_rate=NaN", "optimizer.learning_rate is nan, expected a finite number"),
        ("optimizer.learning_rate=1e999", "optimizer.learning_rate is inf, expected a finite number"),
        ("optimizer.learning_rate=" + "9" * 400, "999, expected a number up to 1e308"),
        ("optimizer.learning_rate=[1]", r"optimizer.learning_rate is [1], expected a value of type float"),
        ("optimizer.decay=linear", "optimizer.decay is 'linear', expected one of constant, cosine"),
        ("loss.snr_gamma=no", "loss.snr_gamma is 'no', expected a value of type float or null"),
        ("data.preset=heavy", "data.preset: preset is 'heavy', expected one of light, realesrgan, stablesr"),
        ("new.vae=5", "new.vae: cannot be set to '5' as a whole"),
        ("data=5", "data: cannot be set to '5' as a whole, expected the name of one of its fields"),
        (
            "new.scedit.own.hint_channels=[-8, 12]",
            "new.scedit.own.hint_channels: hint_channels is (-8, 12), expected num",
        ),
        ("new.unet.in_channels=5", "new.unet.in_channels: there is no entry 'unet', expected one of scedit, "),
        ("new.vae.block_out_channels=[8, 1.5]", "new.vae.block_out_channels is 1.5, expected a value of type int"),
        ("new.vae.block_out_channels=8", "new.vae.block_out_channels is 8, expected a list of int"),
        ("new.vae.block_out_channels=a", "new.vae.block_out_channels is 'a', expected a list of int"),
        ("components=[]", "components is [], expected a value of type Mapping"),
        ('components={"vae": 5}', "components.vae is 5, expected a value of type str"),
    ],
)
def test_a_wrong_change_is_named(change, message):
    with pytest.raises(InputError, match=re.escape(message)):
        override(CONFIG, [change])


CASCADE = CascadeConfig(
    components={"vae": "vae"},
    activation="rrdbnet",
    schedule=Schedule(prediction_type="sample", beta_end=0.02, timestep_spacing="trailing"),
    sampling=SamplingConfig(sampler="unipc", strength=0.5, start="noise"),
    switches=GuidanceSwitches(lr_attention=False),
    color_fix="none",
)


@pytest.mark.parametrize("config", [CONFIG, CASCADE, CascadeConfig(), GuidanceSwitches(residuals=False)])
def test_json_gives_back_what_it_was_given(config):
    text = json.dumps(to_json(config), allow_nan=False)
    assert from_json(type(config), json.loads(text), "x.json") == config


@settings(deadline=None, max_examples=50)
@given(
    st.builds(
        SamplingConfig,
        num_steps=st.integers(),
        guidance_scale=st.floats(allow_nan=False, allow_infinity=False),
        start=st.sampled_from(["lq", "reference", "noise"]),
        prompt=st.text(),
    )
)
def test_any_values_survive_json_and_the_command_line(sampling):
    assert from_json(SamplingConfig, json.loads(json.dumps(to_json(sampling))), "x") == sampling
    changes = [
        f"{name}={value if isinstance(value, str) else json.dumps(value)}" for name, value in to_json(sampling).items()
    ]
    assert override(SamplingConfig(), changes) == sampling


def test_absent_fields_keep_their_defaults():
    config = from_json(TrainConfig, {"stage": "vae", "data": {"path": "p"}, "optimizer": {"b1": 1}}, "x")
    assert config == TrainConfig("vae", DataConfig("p"), optimizer=OptimizerConfig(b1=1.0))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "x.json is [], expected an object with the fields of TrainConfig"),
        ({"stage": "vae"}, "x.json: TrainConfig.__init__() missing 1 required positional argument: 'data'"),
        ({"steps": 1}, "x.json: TrainConfig has no field 'steps'"),
        ({"stage": "vae", "data": "p"}, "x.json: data is 'p', expected an object with the fields of DataConfig"),
        ({"data": {"path": 5}}, "x.json: data: path is 5, expected a value of type str"),
        ({"data": {"path": "p", "preset": "h"}}, "x.json: data: preset is 'h', expected one of"),
        ({"schedule": {"beta_end": 2.0}}, "x.json: schedule: beta_start is 0.00085 and beta_end 2.0"),
        ({"seed": "1"}, "x.json: seed is '1', expected a value of type int"),
        ({"new": {"vae": {"class": "Popen"}}}, "x.json: new.vae is {'class': 'Popen'}, expected an object with a"),
        ({"new": {"vae": {"class": []}}}, "x.json: new.vae is {'class': []}, expected an object with a"),
        ({"new": {"vae": 5}}, "x.json: new.vae is 5, expected an object with a 'class' among AttachedConfig, "),
    ],
)
def test_wrong_json_is_named(data, message):
    with pytest.raises(InputError, match=re.escape(message)):
        from_json(TrainConfig, data, "x.json")


HEAD = "from cassr_jax.config import TrainConfig\nfrom cassr_jax.data.config import DataConfig\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cascade = 5", "bad.py: defines `config` as NoneType, expected a TrainConfig"),
        ("x = 1\nconfig = TrainConfig()", "bad.py, line 2: NameError: name 'TrainConfig' is not defined"),
        ("x = 1\nconfig = (", "bad.py, line 2: SyntaxError: "),
        (
            HEAD + "config = TrainConfig('vae', DataConfig('p', crop_size=-4))",
            "bad.py, line 3: crop_size is -4, expected a whole number of at least 1",
        ),
        (HEAD + "config = TrainConfig('vae', DataConfig('p'), seed=0.5)", "bad.py: seed is 0.5, expected a value of"),
        ("x = 1\nraise SystemExit(0)", "bad.py, line 2: SystemExit: 0"),
    ],
)
def test_a_wrong_file_is_named(tmp_path, text, message):
    (tmp_path / "bad.py").write_text(text)
    with pytest.raises(InputError, match=re.escape(message)):
        read_config(tmp_path / "bad.py")


def test_what_is_only_sampled_or_only_trained_is_said_to_be():
    with pytest.raises(InputError, match=r"tiny\.py: defines a cascade to sample with and nothing to train, "):
        read_config(CONFIGS / "tiny.py")
    with pytest.raises(InputError, match=r"tiny_vae\.py: defines a training run and no cascade, expected a `cascade`"):
        read_cascade(CONFIGS / "tiny_vae.py")


def test_an_absent_file_and_a_folder_are_named(tmp_path):
    with pytest.raises(InputError, match=r"none\.py: no such file, expected a Python file that defines `config`"):
        read_config(tmp_path / "none.py")
    with pytest.raises(InputError, match=f"{tmp_path}: is a folder, expected a Python file that defines `config`"):
        read_config(tmp_path)


def test_a_file_that_is_not_python_is_told_so(tmp_path):
    (tmp_path / "README.md").write_text("# A title\n\nSome words.\n")
    with pytest.raises(InputError, match=r"README\.md, line 3: SyntaxError: .*; expected a Python file$"):
        read_config(tmp_path / "README.md")


def test_a_component_lies_beside_the_configuration_or_in_the_working_directory_or_on_the_hub(tmp_path, monkeypatch):
    home, here = tmp_path / "home", tmp_path / "here"
    for folder in (home / "models" / "vae", here / "models" / "vae", here / "models" / "unet"):
        folder.mkdir(parents=True)
    monkeypatch.chdir(here)
    sources = {"vae": "models/vae", "unet": "models/unet", "text_encoder": "models/clip"}
    (home / "run.py").write_text(HEAD + f"config = TrainConfig('base', DataConfig('p'), components={sources})")
    beside = str(home / "models" / "vae")
    assert read_config(home / "run.py").components == sources | {"vae": beside}
    changed = read_config(Path("../home/run.py"), ["components.unet=models/vae", "seed=7"])
    assert changed.components == sources | {"vae": "../home/models/vae", "unet": "../home/models/vae"}
    assert changed.seed == 7


def test_a_file_takes_what_its_sibling_defines(tmp_path, monkeypatch):
    (tmp_path / "base.py").write_text(HEAD + "config = TrainConfig('vae', DataConfig('p'))\nwidths = (8, 16)")
    text = "from dataclasses import replace\nfrom cassr_jax.config_files import sibling\n"
    (tmp_path / "child.py").write_text(text + "config = replace(sibling(__file__, 'base.py').config, seed=7)")
    monkeypatch.chdir(tmp_path.parent)
    assert read_config(tmp_path / "child.py") == TrainConfig("vae", DataConfig("p"), seed=7)
    assert sibling(str(tmp_path / "child.py"), "base.py").widths == (8, 16)


def test_an_absent_sibling_is_named(tmp_path):
    text = "from cassr_jax.config_files import sibling\nconfig = sibling(__file__, 'none.py').config"
    (tmp_path / "child.py").write_text(text)
    with pytest.raises(InputError, match=r"child\.py, line 2: .*none\.py: no such file, expected the configuration"):
        read_config(tmp_path / "child.py")


def test_a_fault_in_a_sibling_is_the_sibling_s(tmp_path):
    (tmp_path / "base.py").write_text("x = 1\nconfig = (")
    (tmp_path / "child.py").write_text("from cassr_jax.config_files import sibling\nsibling(__file__, 'base.py')")
    for read in (read_config, read_cascade, fingerprint):
        with pytest.raises(InputError, match=r"^\S*base\.py, line 2: SyntaxError: [^\n]*$"):
            read(tmp_path / "child.py")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("config = 5", "bad.py: defines `cascade` as NoneType, expected a CascadeConfig"),
        ("x = 1\ncascade = (", "bad.py, line 2: SyntaxError: "),
        ("cascade = CascadeConfig()", "bad.py, line 1: NameError: name 'CascadeConfig' is not defined"),
        ("import sys\nsys.exit(3)", "bad.py, line 2: SystemExit: 3"),
    ],
)
def test_a_wrong_file_of_a_cascade_is_named(tmp_path, text, message):
    (tmp_path / "bad.py").write_text(text)
    for read in (read_cascade, fingerprint):
        with pytest.raises(InputError, match=re.escape(message)):
            read(tmp_path / "bad.py")


def test_a_lora_named_twice_is_refused(tmp_path):
    (tmp_path / "style.safetensors").touch()
    with pytest.raises(InputError, match=r"loras name \./style\.safetensors twice, expected each once"):
        resolve_loras({"style.safetensors": 0.5, "./style.safetensors": 0.25}, tmp_path)
