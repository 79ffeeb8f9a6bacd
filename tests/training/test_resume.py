"""What may have changed where a run is taken up."""

import json

import pytest

from cassr_jax.config import TrainConfig
from cassr_jax.config_files import override, to_json
from cassr_jax.data.config import DataConfig
from cassr_jax.errors import InputError
from cassr_jax.training.resume import (
    STREAM,
    Change,
    changes_between,
    check_permissions,
    check_same_run,
    check_stream,
    log_changes,
)

CONFIG = TrainConfig("vae", DataConfig(mixture={"a.b": 1.0, "c": 2.0}), components={"vae": "there"})


def account(*changes: str, contents: str = "0", **frozen: str) -> dict:
    origins = {kind: {"source": f"models/{kind}", "sha256": digest * 64} for kind, digest in frozen.items()}
    return {"config": to_json(override(CONFIG, changes)), "frozen": origins, "contents": contents}


def refused(*changes: str, contents: str = "0") -> str | None:
    try:
        check_stream("step 4", changes_between(account(), account(*changes, contents=contents)), [])
    except InputError as error:
        return str(error).rpartition("--allow-change ")[2]
    return None


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ("seed=1", "seed"),
        ("activation=identity", "activation"),
        ("data.path=elsewhere", "data.path"),
        ('data.mixture={"c": 2}', "data.mixture"),
        ('data.mixture={"a.b": 1, "c": 3}', "data.mixture"),
        ("data.crop_size=256", "data.crop_size"),
        ("data.sharp_fraction=0.5", "data.sharp_fraction"),
        ("data.min_scale=0.5", "data.min_scale"),
        ("data.preset=light", "data.preset"),
        ("data.scale=2", "data.scale"),
        ("data.held_out=0.1", "data.held_out"),
    ],
)
def test_a_change_of_the_stream_needs_permission(change, field):
    assert refused(change) == field
    changes = changes_between(account(), account(change))
    check_stream("step 4", changes, [field])
    assert {found.permission for found in changes} == {field}


@pytest.mark.parametrize(
    "change",
    [
        *("data.num_workers=2", "data.num_threads=1", "data.prefetch=1", "data.cache_bytes=0"),
        *("batch_size=8", "num_steps=9", "optimizer.learning_rate=1", "components.vae=elsewhere", "save_every=7"),
    ],
)
def test_other_changes_are_noted_alone(change):
    assert refused(change) is None
    (found,) = changes_between(account(), account(change))
    assert found.field == change.partition("=")[0]


def test_a_field_that_an_older_version_lacked_had_its_default():
    before = account()
    del before["config"]["data"]["held_out"], before["config"]["validation"]
    assert changes_between(before, account()) == []
    (found,) = changes_between(before, account("data.held_out=0.5"))
    assert found.permission == "data.held_out"


def test_other_pictures_under_the_same_path_need_permission():
    assert refused(contents="1") == "data.contents"
    assert refused() is None


def test_a_permission_that_nothing_needs_is_refused():
    check_permissions(STREAM)
    for name in ("num_steps", "data", "data.num_workers", "sede"):
        with pytest.raises(
            InputError, match=f"--allow-change: found '{name}', expected some of seed, activation, data"
        ):
            check_permissions(["seed", name])


@pytest.mark.parametrize(
    ("now", "message"),
    [
        (account("stage=base", vae="a"), "step 4 is of a run whose stage is 'vae', expected 'base', or another folder"),
        (
            account(vae="b"),
            r"step 4 was trained on the vae models/vae \(sha256 aaaaaaaaaaaa\), found models/vae \(sha256 b",
        ),
        (
            account(),
            r"step 4 was trained on the vae models/vae .*, found none; give it those weights, or another folder",
        ),
        (account(vae="a", unet="c"), "step 4 was trained on the unet none, found models/unet"),
    ],
)
def test_another_run_is_refused(now, message):
    check_same_run("step 4", account(vae="a"), now=account("seed=1", vae="a"))
    with pytest.raises(InputError, match=message):
        check_same_run("step 4", account(vae="a"), now=now)


def test_changes_are_added_to_those_before(tmp_path, capsys):
    file = tmp_path / "changes.jsonl"
    log_changes(file, 2, [])
    assert not file.exists()
    log_changes(file, 2, [Change("seed", 0, 1)])
    log_changes(file, 4, [Change("seed", 1, 2), Change("data.preset", None, "light")])
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert [(line["step"], line["field"], line["before"], line["after"]) for line in lines] == [
        (2, "seed", 0, 1),
        (4, "seed", 1, 2),
        (4, "data.preset", None, "light"),
    ]
    assert all(line["time"].endswith(" UTC") for line in lines)
    assert capsys.readouterr().out.splitlines()[-1] == "changed at step 4: data.preset from None to 'light'"
    with pytest.raises(InputError, match=r"none/changes\.jsonl: cannot be written \(No such file"):
        log_changes(tmp_path / "none" / "changes.jsonl", 2, [Change("seed", 0, 1)])
