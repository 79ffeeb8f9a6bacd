"""What processes agree on, without starting any: `tests/end_to_end/test_processes.py` starts two."""

import json

import pytest

from cassr_jax.errors import InputError
from cassr_jax.training import processes
from cassr_jax.training.processes import check_agreement, flat, gather_texts, refused_together

TOLD = {"config": {"save_every": 2, "optimizer": {"learning_rate": 1e-3}}, "workdir": "run"}


def test_one_process_agrees_with_itself():
    assert gather_texts("alone") == ["alone"]
    check_agreement(TOLD)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"workdir": "other"},
            "process 2 has workdir 'other', expected 'run' as process 0; start all processes with the",
        ),
        ({"config": TOLD["config"] | {"save_every": 3}}, "process 2 has config.save_every 3, expected 2 as process 0"),
        (
            {"config": TOLD["config"] | {"optimizer": {"learning_rate": 0.1}}},
            r"process 2 has config\.optimizer\.learning_rate 0\.1, expected 0\.001 as process 0",
        ),
        ({"config": {}}, "process 2 has config.save_every None, expected 2"),
    ],
)
def test_the_process_that_differs_and_its_field_are_named(monkeypatch, change, message):
    monkeypatch.setattr(processes, "gather_texts", lambda text: [text, text, json.dumps(TOLD | change)])
    with pytest.raises(InputError, match=f"--distributed: {message}"):
        check_agreement(TOLD)


@pytest.mark.parametrize("number", [0, 1])
def test_what_one_process_is_refused_ends_them_all(monkeypatch, number):
    told = ["", ""]
    told[number] = "run/config.json: cannot be written"
    monkeypatch.setattr(processes, "gather_texts", lambda text: [text or told[0], told[1]])
    with pytest.raises(InputError, match=r"run/config\.json: cannot be written"), refused_together():
        pass


def test_what_no_process_is_refused_goes_on():
    with refused_together():
        done = True
    assert done


def test_a_refused_process_says_why():
    with pytest.raises(InputError, match="its own"), refused_together():
        raise InputError("its own")


def test_nested_settings_are_flat_under_dotted_names():
    assert flat({"a": {"b": {"c": 1}, "d": {}}, "e": [2]}) == {"a.b.c": 1, "a.d": {}, "e": [2]}
