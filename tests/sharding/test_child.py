"""A process that dies is one sentence in the one that started it."""

import json
import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cassr_jax.errors import InputError
from cassr_jax.sharding import compiler
from cassr_jax.sharding.child import Died, in_child


def check_fails() -> None:
    lines = ("I0000 main.cc:1] begun", "F1129 12:00 7 target.cc:80] Check failed: 16 <= 8 chips", "*** trace", "@ 0x1")
    os.write(2, "\n".join(lines).encode())
    os.abort()


def end_by(number: int) -> None:
    os.write(2, b"I0000 main.cc:1] begun\nWARNING: All log messages before absl::InitializeLog() is called\n")
    os.kill(os.getpid(), number)


def test_a_result_and_an_error_come_back():
    assert in_child(divmod, 7, 2) == (3, 1)
    with pytest.raises(json.JSONDecodeError, match="Expecting value"):
        in_child(json.loads, "")


class Unsendable(Exception):
    def __init__(self, first: str, second: str):
        super().__init__(f"{first} and {second}")


def raise_unsendable() -> None:
    raise Unsendable("this", "that")


def test_an_error_that_cannot_be_made_again_keeps_its_words():
    with pytest.raises(RuntimeError, match=r"^Unsendable: this and that$"):
        in_child(raise_unsendable)


def test_how_it_died_and_the_failed_check_are_told(capfd):
    with pytest.raises(Died, match=r"^ended by SIGABRT: Check failed: 16 <= 8 chips$"):
        in_child(check_fails)
    with pytest.raises(Died, match=r"^ended with exit code 3: no word$"):
        in_child(sys.exit, 3)
    with pytest.raises(Died, match=r"^ended by SIGKILL, as where memory runs out: no word$"):
        in_child(end_by, signal.SIGKILL)
    with pytest.raises(Died, match=rf"^ended by signal {signal.SIGRTMIN + 2}: no word$"):
        in_child(end_by, signal.SIGRTMIN + 2)
    assert capfd.readouterr().err == ""


def test_a_compiler_that_ends_its_process_is_one_sentence(monkeypatch):
    monkeypatch.setattr(compiler, "in_child", lambda *given: in_child(check_fails))
    with pytest.raises(InputError) as error:
        compiler.compiling("v5e:16x32", "quick", check_fails)
    reason = "ended by SIGABRT: Check failed: 16 <= 8 chips"
    assert str(error.value).startswith(f"v5e:16x32: the compiler did not finish ({reason}); expected devices")


def _waiting(pipe: str) -> None:
    """Keeps the pipe open as long as its process lives."""
    with open(pipe, "w") as file:
        file.write("here")
        file.flush()
        signal.pause()


PARENT = """
import signal
import sys
from cassr_jax.sharding.child import in_child
from tests.sharding.test_child import _waiting

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a process in the background ignores it
    in_child(_waiting, sys.argv[1])
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_child_ends_with_its_parent(number: int, tmp_path: Path) -> None:
    script, pipe = tmp_path / "parent.py", tmp_path / "pipe"
    script.write_text(PARENT)
    os.mkfifo(pipe)
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, str(script), str(pipe)]
    with subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL) as run, pipe.open("rb", 0) as child:
        assert child.read(4) == b"here"
        run.send_signal(number)
        ended = select.select([child], [], [], 60)[0] and child.read(4) == b""
        run.kill()
        assert ended
