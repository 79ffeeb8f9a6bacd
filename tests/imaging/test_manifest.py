import dataclasses
import json
import multiprocessing
import os
import socket
import subprocess
import sys

import pytest

from cassr_jax.errors import InputError
from cassr_jax.imaging.manifest import Entry, Manifest, sha256
from cassr_jax.locks import Owner

ENTRY = Entry("/in/a.jpg", "c0ffee", {"result": "a.png"}, {"seed": 0, "steps": None})


def entry(number, **changes):
    return dataclasses.replace(
        ENTRY, input=f"/in/{number}", sha256=str(number), outputs={"result": f"{number}.png"}, **changes
    )


def written(manifest, wanted, content=b"a picture"):
    for file in wanted.outputs.values():
        (manifest.folder / file).write_bytes(content)
    done = manifest.done(wanted, 1.234)
    manifest.put(done)
    return done


def without_run(entries):
    return {name: dataclasses.replace(found, run=None) for name, found in entries.items()}


def test_survives_the_disk_before_and_after_it_is_compacted(tmp_path):
    manifest = Manifest(tmp_path)
    other = Entry("/in/\udcff.jpg", "beef", {"result": "b.png", "compare": "b_compare.png"}, {"seed": 2**63 - 1})
    assert manifest.claim([ENTRY, other]) == [None, None]
    failed = dataclasses.replace(other, status="failed", error="cut short")
    manifest.put(failed)
    assert without_run(Manifest(tmp_path).entries) == {"a.png": ENTRY, "b.png": failed}
    manifest.compact()
    assert without_run(Manifest(tmp_path).entries) == {"a.png": ENTRY, "b.png": failed}
    assert [path.name for path in tmp_path.iterdir()] == ["manifest.json"]
    assert json.loads((tmp_path / "manifest.json").read_text())["pictures"][1]["settings"]["seed"] == 2**63 - 1


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"version": 1, "pictures": [{"a": 1}]}', '{"version": 9}'])
def test_other_files_of_that_name_are_refused(tmp_path, text):
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(InputError, match=r"manifest\.json"):
        Manifest(tmp_path)
    assert (tmp_path / "manifest.json").read_text() == text


def test_a_line_that_a_kill_cut_is_lost_alone(tmp_path):
    Manifest(tmp_path).put(entry(1), entry(2))
    journal = tmp_path / "manifest.jsonl"
    journal.write_bytes(journal.read_bytes()[:-20])
    manifest = Manifest(tmp_path)
    assert set(manifest.entries) == {"1.png"}
    manifest.put(entry(3))
    assert set(Manifest(tmp_path).entries) == {"1.png", "3.png"}


def test_a_line_of_nested_lists_is_no_entry(tmp_path):
    Manifest(tmp_path).put(entry(1))
    with (tmp_path / "manifest.jsonl").open("ab") as journal:
        journal.write(b"[" * 100_000 + b"\n")
    assert set(Manifest(tmp_path).entries) == {"1.png"}


def test_a_picture_costs_the_same_among_many(tmp_path):
    """Nothing is written again: the journal grows by the line of the entry, and the manifest is left alone."""
    manifest = Manifest(tmp_path)
    manifest.put(*(entry(number) for number in range(2000)))
    manifest.compact()
    before = os.stat(tmp_path / "manifest.json")
    manifest.put(entry(2000))
    assert os.stat(tmp_path / "manifest.json").st_mtime_ns == before.st_mtime_ns
    assert (tmp_path / "manifest.jsonl").stat().st_size < 500
    assert before.st_size > 2000 * 100


def test_finished_means_this_picture_these_settings_these_files_as_written(tmp_path):
    manifest = Manifest(tmp_path)
    assert not manifest.finished(ENTRY)
    done = written(manifest, ENTRY)
    assert (done.status, done.seconds) == ("done", 1.23)
    assert manifest.finished(dataclasses.replace(ENTRY, input="/moved/a.jpg"))
    for change in (
        {"sha256": "0"},
        {"settings": {"seed": 1, "steps": None}},
        {"outputs": {"result": "b.png"}},
        {"outputs": {"result": "a.png", "compare": "a_compare.png"}},
    ):
        assert not manifest.finished(dataclasses.replace(ENTRY, **change))
    for content in (b"", b"a pict"):
        (tmp_path / "a.png").write_bytes(content)
        assert not manifest.finished(ENTRY)
    (tmp_path / "a.png").unlink()
    assert not manifest.finished(ENTRY)
    for status in ("pending", "failed"):
        written(manifest, ENTRY)
        manifest.put(dataclasses.replace(done, status=status))
        assert not manifest.finished(ENTRY)


def test_only_its_own_results_are_replaced(tmp_path):
    manifest = Manifest(tmp_path)
    (tmp_path / "a.png").touch()
    (reason,) = manifest.claim([ENTRY])
    assert "a.png: exists and is no result" in reason
    (tmp_path / "a.png").unlink()
    written(manifest, ENTRY)
    edited = dataclasses.replace(ENTRY, sha256="changed")
    assert manifest.claim([edited]) == [None]
    assert manifest.claim([dataclasses.replace(edited, input="/moved/a.jpg")]) == [None]
    foreign = dataclasses.replace(ENTRY, sha256="other", input="/other/a.jpg")
    reasons = manifest.claim([foreign, entry(1)])
    assert "a.png: holds the result of /moved/a.jpg" in reasons[0]
    assert reasons[1] is None  # one picture's trouble is no other's
    assert "holds the result" in manifest.claim([dataclasses.replace(foreign, outputs={"result": "A.png"})])[0] or (
        not (tmp_path / "A.png").exists()
    )


def test_what_a_living_run_will_write_is_taken_and_what_a_dead_one_meant_to_is_not(tmp_path):
    Manifest(tmp_path).claim([ENTRY])
    other = dataclasses.replace(ENTRY, sha256="other", input="/other/a.jpg")
    (reason,) = Manifest(tmp_path).claim([other])
    assert f"a.png: will hold the result of /in/a.jpg (sample.py, process {os.getpid()}" in reason
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    line = dataclasses.replace(ENTRY, run=dataclasses.asdict(Owner("sample.py", ended.pid, socket.gethostname(), "")))
    (tmp_path / "manifest.jsonl").write_text(json.dumps(dataclasses.asdict(line)) + "\n")
    assert Manifest(tmp_path).claim([other]) == [None]


def test_another_living_run_keeps_its_picture_to_itself(tmp_path):
    """The same picture with another seed: both would write one file, and the manifest would tell of the wrong one."""
    running = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        run = dataclasses.asdict(Owner("sample.py", running.pid, socket.gethostname(), "before"))
        line = dataclasses.replace(ENTRY, run=run)
        (tmp_path / "manifest.jsonl").write_text(json.dumps(dataclasses.asdict(line)) + "\n")
        (reason,) = Manifest(tmp_path).claim([dataclasses.replace(ENTRY, settings={"seed": 1})])
        assert f"will hold the result of /in/a.jpg (sample.py, process {running.pid}" in reason
    finally:
        running.communicate(b"\n")
    assert Manifest(tmp_path).claim([dataclasses.replace(ENTRY, settings={"seed": 1})]) == [None]


def test_a_run_on_another_machine_may_be_gone_so_its_picture_can_be_taken_over(tmp_path):
    """A container that starts again has another name. Who takes a picture over writes the same bytes, or is refused."""
    mine = entry(1)
    elsewhere = Manifest(tmp_path)
    elsewhere._run = dataclasses.replace(elsewhere._run, host="pod-1")
    assert elsewhere.claim([mine]) == [None]
    for changes in ({"settings": {"seed": 1}}, {"sha256": "another"}):
        (reason,) = Manifest(tmp_path).claim([dataclasses.replace(mine, **changes)])
        assert reason is not None
        assert "on pod-1" in reason
        assert f'if that run has ended, change "pending" to "failed" in {tmp_path}/manifest.jsonl' in reason
    assert Manifest(tmp_path).claim([mine]) == [None]


@pytest.mark.parametrize("began", ["another-boot 1", "again"])
def test_a_number_that_another_process_has_now_does_not_block(tmp_path, began):
    """The parent lives, and a run that is dead had its number; so had one that was this process's."""
    for process in (os.getppid(), os.getpid()):
        run = dataclasses.replace(Owner.this("sample.py"), process=process, began=began)
        pending = dataclasses.replace(ENTRY, run=dataclasses.asdict(run))
        (tmp_path / "manifest.jsonl").write_text(json.dumps(dataclasses.asdict(pending)) + "\n")
        assert Manifest(tmp_path).claim([dataclasses.replace(ENTRY, settings={"seed": 1})]) == [None]


RUN = {"program": "sample.py", "process": 1, "host": socket.gethostname(), "started": ""}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        *(
            ({"run": run}, "1\\.png has an invalid `run` .* \\(expected a program, process, host and start\\); delete")
            for run in ({"host": 3}, [1], "abc")
        ),
        *(
            ({"run": RUN | {"process": process}}, f"{process}.* \\(expected a process from 1 to 2147483647\\); delete")
            for process in ("abc", 2**70, -1, 0, None, 1.5)
        ),
        ({"written": []}, "not a manifest of this program"),
        ({"earlier": {}}, "not a manifest of this program"),
    ],
)
def test_an_entry_that_is_none_is_named(tmp_path, changes, message):
    mine = entry(1)
    manifest = Manifest(tmp_path)
    manifest.put(mine)
    manifest.compact()
    content = json.loads(manifest.path.read_text())
    content["pictures"][0] |= changes
    manifest.path.write_text(json.dumps(content))
    with pytest.raises(InputError, match=message):
        Manifest(tmp_path).claim([mine])


def test_what_an_earlier_run_wrote_of_a_picture_stays_its_own(tmp_path):
    both = dataclasses.replace(ENTRY, outputs={"result": "a.png", "reference": "a_reference.png"})
    for wanted in (both, ENTRY, both):
        manifest = Manifest(tmp_path)
        assert manifest.claim([wanted]) == [None]
        written(manifest, wanted)
        manifest.compact()
    foreign = Entry("/in/b.jpg", "beef", {"result": "a_reference.png"}, {})
    assert "holds the result of /in/a.jpg" in (Manifest(tmp_path).claim([foreign])[0] or "")


def add_fifty(folder, first):
    manifest = Manifest(folder)
    for number in range(first, first + 50):
        manifest.put(entry(number))
        if number % 10 == 0:
            manifest.compact()


def test_runs_keep_each_others_entries(tmp_path):
    context = multiprocessing.get_context("spawn")
    runs = [context.Process(target=add_fifty, args=(tmp_path, first)) for first in (0, 50, 100)]
    for run in runs:
        run.start()
    for run in runs:
        run.join(60)
    assert set(Manifest(tmp_path).entries) == {f"{number}.png" for number in range(150)}


@pytest.mark.parametrize("file", ["/a.png", "../a.png", "x/../../a.png", "link/a.png"])
def test_nothing_lies_outside_the_folder(tmp_path, file):
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "link").symlink_to(tmp_path, target_is_directory=True)
    with pytest.raises(InputError, match=r"lies outside .*out, expected a file below it"):
        Manifest(folder).place(file)


def test_a_name_that_no_file_can_have_is_known_before(tmp_path):
    manifest = Manifest(tmp_path)
    assert manifest.place("ä" * 125 + ".png") == tmp_path / ("ä" * 125 + ".png")
    with pytest.raises(InputError, match="a name of 256 bytes, expected at most 255"):
        manifest.place("ä" * 126 + ".png")


def test_content_decides_the_digest(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert sha256(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    with pytest.raises(InputError, match="cannot be read"):
        sha256(tmp_path / "none")
