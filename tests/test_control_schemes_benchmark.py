"""The comparison of control schemes on equal terms, narrow: three trainings, their pictures, one table."""

import json
from pathlib import Path

import pytest
from PIL import Image

from benchmarks.control_schemes import CONFIGS, commands, main
from cassr_jax.config_files import read_config, to_json
from cassr_jax.control import NAMES
from cassr_jax.data.config import DataConfig
from tests.data.measures import picture
from tests.training.runs import SIDE, configure, write_networks, write_pictures


def test_the_three_differ_in_their_scheme_alone():
    configs = [read_config(path, [], None) for path in CONFIGS]
    assert {config.stage for config in configs} == set(NAMES)
    own = ("stage", "activation", "new")
    shared = [{k: v for k, v in to_json(config).items() if k not in own} for config in configs]
    for config in shared:
        config["loss"].pop("rgb_weight")  # PASD's own
    assert shared[0] == shared[1] == shared[2]


def test_every_step_is_a_command_of_its_own(tmp_path):
    made = commands(CONFIGS, Path("lr"), Path("hr"), tmp_path, 4.0, ["batch_size=8"])
    assert list(made) == [
        *(f"sd15_{name}, {what}" for name in ("cassr", "residuals", "pasd") for what in ("training", "pictures")),
        "measures",
    ]
    assert made["sd15_pasd, training"][-2:] == ["--set", "batch_size=8"]


@pytest.mark.slow
def test_one_command_trains_and_measures_all(tmp_path, capfd):
    networks, pictures = write_networks(tmp_path / "networks"), write_pictures(tmp_path / "pictures", 3)
    for name, side in (("lr", 12), ("hr", 48)):
        (tmp_path / name).mkdir()
        Image.fromarray(picture(48, 9)).resize((side, side)).save(tmp_path / name / "a.png")
    configs = []
    for name in NAMES:
        data = DataConfig(str(pictures), crop_size=SIDE, preset="light", prefetch=2)
        config = configure(name, networks, data, activation="identity", num_steps=2)
        file = tmp_path / f"{name}.py"
        file.write_text(
            "import json\nfrom cassr_jax.config import TrainConfig\nfrom cassr_jax.config_files import from_json\n"
            f"config = from_json(TrainConfig, json.loads({json.dumps(to_json(config))!r}), 'config')\n"
        )
        configs.append(str(file))
    given = ["--lr", str(tmp_path / "lr"), "--hr", str(tmp_path / "hr"), "--output", str(tmp_path / "out")]
    assert main([*given, "--configs", *configs]) == 0
    table = capfd.readouterr().out
    assert all(f"| {name} " in table for name in NAMES)
