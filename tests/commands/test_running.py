"""How commands end and print."""

import signal
import subprocess
import sys
import time

import pytest

from cassr_jax.commands.running import command
from cassr_jax.errors import InputError, Stopped
from tests import children
from tests.children import BUFFERED, ends_well_unread

PRELUDE = """
import os, signal, sys, threading, time
from cassr_jax.commands.running import command, ended_after
from cassr_jax.printing import say
"""


def start(code, **options):
    return children.start(PRELUDE + code, **options)


@pytest.mark.parametrize(
    ("error", "code", "out", "err"),
    [
        (InputError("a.png: is\nempty"), 2, "", "program: a.png: is empty\n"),
        (Stopped(7), 75, "stopped at step 7; the same command goes on from there\n", ""),
        (KeyboardInterrupt(), 130, "", "program: interrupted; go on\n"),
    ],
)
def test_every_end_is_one_line(capsys, error, code, out, err):
    @command("program", interrupted="interrupted; go on", seconds_to_stop=1)
    def main(argv=None):
        raise error

    handler, wakeup = signal.getsignal(signal.SIGINT), signal.set_wakeup_fd(-1)
    assert main([]) == code
    assert capsys.readouterr() == (out, err)
    assert signal.getsignal(signal.SIGINT) is handler
    assert signal.set_wakeup_fd(wakeup) == -1


def test_a_fault_of_the_program_keeps_its_traceback():
    @command("program")
    def main(argv=None):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        main()


def test_ctrl_c_ends_it_even_while_a_device_is_waited_for():
    """A library's call that no signal cuts short stands for the wait: another thread is given the signal."""
    process = start(
        """
import ctypes

signal.signal(signal.SIGINT, signal.default_int_handler)  # a test run in the background ignores it, and so would this

@command("program", interrupted="interrupted; go on", seconds_to_stop=0.5)
def main(argv=None):
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    say("waiting")
    ctypes.CDLL(None).sleep(60)

sys.exit(main())
"""
    )
    assert process.stdout.readline() == "waiting\n"
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 130
    assert time.monotonic() - began < 2
    assert process.communicate() == ("", "program: interrupted; go on\n")


@pytest.mark.parametrize("closed", ["2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_closed_streams_end_nothing_and_nothing_is_printed_into_another_file(tmp_path, closed):
    code = """
from tqdm import tqdm

@command("program")
def main(argv=None):
    with open("written", "w") as file:
        for number in tqdm(range(3)):
            os.write(2, b"a library in C")
            print(number, file=file)
    say("done")
    raise cassr_jax.errors.InputError("nobody is told")

code = main()
assert main() == code
sys.exit(code)
"""
    (tmp_path / "program.py").write_text("import cassr_jax.errors\n" + PRELUDE + code)
    command = f"exec {sys.executable} program.py {closed}"
    done = subprocess.run(["sh", "-c", command], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stdout == ("" if ">&- 2" in closed else "done\ndone\n")
    assert (tmp_path / "written").read_text() == "0\n1\n2\n"


def test_a_call_that_nothing_can_end_is_ended_by_its_time():
    process = start(
        """
import ctypes

with ended_after(60, "too late", "program"):
    pass
with ended_after(0.2, "too late", "program"):
    ctypes.CDLL(None).sleep(60)
"""
    )
    assert process.communicate(timeout=20) == ("", "program: too late\n")
    assert process.returncode == 2


def test_help_that_nobody_reads_is_no_error():
    """What a parser prints waits in a buffer until the program ends."""
    code = """
@command("program")
def main(argv=None):
    sys.stdin.readline()
    sys.stdout.write("usage")
    sys.exit(0)

main()
"""
    assert ends_well_unread(start(code, stdin=subprocess.PIPE, env=BUFFERED))
