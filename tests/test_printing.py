"""Lines and bars reach whoever can read them, and end nothing if nobody can."""

import subprocess

from cassr_jax import printing
from tests import children
from tests.children import BUFFERED, ends_well_unread


def start(code, env=BUFFERED, **options):
    return children.start(f"import sys\nfrom cassr_jax import printing\n{code}", env=env, **options)


def test_what_a_terminal_cannot_show_is_printed_as_numbers():
    process = start("printing.say('\\u5199\\u771f.png \\udcff')", env={"PYTHONIOENCODING": "cp1252", "PYTHONPATH": "."})
    assert process.communicate() == ("\\u5199\\u771f.png \\udcff\n", "")
    assert process.returncode == 0


def test_a_reader_that_has_gone_ends_nothing(tmp_path):
    process = start(
        f"""
for number in range(3):
    printing.say(number)
    if number == 0:
        sys.stdin.readline()
open({str(tmp_path / "done")!r}, "w")
""",
        stdin=subprocess.PIPE,
    )
    assert process.stdout.readline() == "0\n"
    assert ends_well_unread(process)
    assert (tmp_path / "done").exists()


def test_say_prints_a_line(capsys):
    printing.say("写真.png")
    assert capsys.readouterr().out == "写真.png\n"


def test_a_complaint_is_one_line(capsys):
    printing.complain("a.png: is\nempty", "program")
    printing.complain("left out: b.png")
    printing.notice("compiling", "program")  # nobody waits at a terminal
    assert capsys.readouterr() == ("", "program: a.png: is empty\nleft out: b.png\n")


def test_a_progress_bar_goes_on_when_its_reader_has_gone():
    code = """
with printing.progress_bar(total=2, disable=False, mininterval=0) as bar:
    bar.update()
    sys.stdin.readline()
    bar.update()
printing.say("done")
"""
    process = start(code, stdin=subprocess.PIPE)
    assert process.stderr.read(1)
    process.stderr.close()
    process.stdin.write("gone\n")
    process.stdin.close()
    assert process.stdout.read() == "done\n"
    assert process.wait(20) == 0
    process.stdout.close()


def test_a_progress_bar_is_for_terminals(capsys):
    assert list(printing.progress_bar(range(3))) == [0, 1, 2]
    assert capsys.readouterr().err == ""
