"""A process that dies is one sentence in the one that started it."""

import json
import os
import sys

import pytest

from cassr_jax.errors import InputError
from cassr_jax.training import compile_ahead
from cassr_jax.training.child import Died, in_child
from tests.training.runs import configure


def check_fails() -> None:
    lines = ("I0000 main.cc:1] begun", "F1129 12:00 7 target.cc:80] Check failed: 16 <= 8 chips", "*** trace", "@ 0x1")
    os.write(2, "\n".join(lines).encode())
    os.abort()


def test_a_result_and_an_error_come_back():
    assert in_child(divmod, 7, 2) == (3, 1)
    with pytest.raises(json.JSONDecodeError, match="Expecting value"):
        in_child(json.loads, "")


def test_how_it_died_and_the_failed_check_are_told(capfd):
    with pytest.raises(Died, match=r"^ended by SIGABRT: Check failed: 16 <= 8 chips$"):
        in_child(check_fails)
    with pytest.raises(Died, match=r"^ended with exit code 3: no word$"):
        in_child(sys.exit, 3)
    assert capfd.readouterr().err == ""


def test_a_compiler_that_ends_its_process_is_one_sentence(networks, monkeypatch):
    def dies(work, config, on, strategy, effort):
        assert work is compile_ahead._compiled
        return in_child(check_fails)

    monkeypatch.setattr(compile_ahead, "in_child", dies)
    with pytest.raises(InputError) as error:
        compile_ahead.compile_for(configure("base", networks), "v5e:16x32")
    reason = "ended by SIGABRT: Check failed: 16 <= 8 chips"
    assert str(error.value).startswith(f"v5e:16x32: the compiler did not finish ({reason}); expected devices")
