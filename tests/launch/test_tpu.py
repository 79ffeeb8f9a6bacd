"""launch/tpu.sh with a Google Cloud that is not there: what it asks for, in which order, and what it makes of it.

The slice's two hosts are two folders, in which the commands that it is given run.
"""

import subprocess
from pathlib import Path

import pytest

from tests.launch.commands import LAUNCH, ROOT, environment, write_command

# A call becomes a line of `calls`. A request is WAITING_FOR_RESOURCES and PROVISIONING once each, then ACTIVE. When
# the run has saved step $TAKE_AT, the slice is taken away, once, with all that runs on it.
GCLOUD = r"""
set -eu
printf '%s\n' "$*" >> "$CLOUD/calls"
end_hosts() {
    for pid in "$CLOUD"/host_*/train.pid; do
        [ ! -s "$pid" ] || kill -KILL -- "-$(ps -o pgid= -p "$(cat "$pid")" | tr -d ' ')" 2>/dev/null || true
    done
    rm -rf "$CLOUD"/host_*
}
case "$3 $4" in
    "queued-resources create")
        [ ! -e "$CLOUD/state" ] || { echo "ALREADY_EXISTS" >&2; exit 1; }
        echo WAITING_FOR_RESOURCES > "$CLOUD/state"
        ;;
    "queued-resources list")
        [ -e "$CLOUD/state" ] || exit 0
        state=$(cat "$CLOUD/state")
        if [ ! -e "$CLOUD/taken" ] && [ "$(cat "$BUCKET/step" 2>/dev/null)" = "$TAKE_AT" ]; then
            touch "$CLOUD/taken"
            end_hosts
            state=SUSPENDED
        fi
        echo "$state"
        case $state in
            WAITING_FOR_RESOURCES) state=PROVISIONING ;;
            PROVISIONING) state=ACTIVE; mkdir "$CLOUD/host_0" "$CLOUD/host_1" ;;
        esac
        echo "$state" > "$CLOUD/state"
        ;;
    "queued-resources delete") end_hosts; rm "$CLOUD/state" ;;
    "tpu-vm scp") for host in "$CLOUD"/host_*; do cp "$5" "$host/"; done ;;
    "tpu-vm ssh")
        for word; do case $word in --worker=*) worker=${word#*=} ;; --command=*) command=${word#*=} ;; esac; done
        [ "$worker" != all ] || worker="[01]"
        for host in "$CLOUD"/host_$worker; do (cd "$host" && bash -c "$command"); done
        ;;
esac
"""
# Installs a program in place of Python.
PYTHON = r"""
printf '%s\n' "$*" >> "$CLOUD/installed"
case "$*" in "-m uv venv"*) mkdir -p .venv/bin && cp "$TRAIN" .venv/bin/python ;; esac
"""
# The tests may run where there is no repository, only its files.
GIT = r"""
[ "$1 $2 $4" = "archive --format=tar.gz HEAD" ] && tar -czf "${3#--output=}" launch/worker.sh
"""
# In place of train.py: the first host saves a step each time, and ends as $ENDS says: for a code, or to run on.
TRAIN = r"""
set -eu
run_on() { tail -f /dev/null & wait; }
trap 'kill %1; exit 75' TERM
printf '%s\n' "$*" >> "$CLOUD/trained"
case $PWD in *host_1/*) run_on ;; esac
step=$(cat "$BUCKET/step" 2>/dev/null || echo 0)
echo "taken up at step $step"
echo $((step + 1)) > "$BUCKET/step"
code=$(echo "$ENDS" | cut -d ' ' -f $((step + 1)))
[ "$code" != on ] || run_on
exit "$code"
"""


class Cloud:
    def __init__(self, folder: Path):
        self.folder = folder
        (folder / "bucket").mkdir()
        programs = folder / "programs"
        write_command(programs, "gcloud", GCLOUD)
        write_command(programs, "git", GIT)
        write_command(programs, "python3", PYTHON)
        write_command(programs, "train", TRAIN)
        self.variables = {
            "CLOUD": folder, "BUCKET": folder / "bucket", "TRAIN": programs / "train", "POLL": 0,
            "ENDS": "on 75 0", "TAKE_AT": 1,
        }  # fmt: skip

    def run(self, *words: str, **variables: object) -> subprocess.CompletedProcess:
        changed = environment(self.folder / "programs", **self.variables | variables)
        command = [LAUNCH / "tpu.sh", *words]
        return subprocess.run(command, cwd=ROOT, env=changed, capture_output=True, text=True, timeout=60)

    def done(self, *, looks: bool = False) -> list[str]:
        """What was asked of the cloud, without `gcloud compute tpus`, and without the looks at its state."""
        lines = (self.folder / "calls").read_text().splitlines() if (self.folder / "calls").exists() else []
        short = [line.removeprefix("compute tpus ") for line in lines]
        return [line for line in short if looks or ("resources list" not in line and "worker=0" not in line)]


@pytest.fixture
def cloud(tmp_path):
    cloud = Cloud(tmp_path)
    yield cloud
    if (tmp_path / "state").exists():
        cloud.run("delete")


WHERE = "--zone=us-west4-a --quiet"
CREATE = (
    "queued-resources create cassr --node-id=cassr --accelerator-type=v5litepod-64 "
    f"--runtime-version=v2-alpha-tpuv5-lite --spot {WHERE}"
)
INSTALL = (
    "tpu-vm ssh cassr --worker=all --command=mkdir -p cassr && tar -xzf cassr.tar.gz -C cassr && "
    f"bash cassr/launch/worker.sh install {WHERE}"
)
START = (
    "tpu-vm ssh cassr --worker=all --command=bash cassr/launch/worker.sh start --config configs/smoke.py "
    rf"--workdir gs://b/my\ run {WHERE}"
)
DELETE = f"queued-resources delete cassr --force {WHERE}"
OPTIONS = ("--config", "configs/smoke.py", "--workdir", "gs://b/my run")


def test_a_run_outlives_a_preemption_and_a_stop(cloud):
    done = cloud.run("run", *OPTIONS)
    assert done.returncode == 0, done.stderr
    asked = [line for line in cloud.done() if " scp " not in line]
    assert asked == [CREATE, INSTALL, START, DELETE, CREATE, INSTALL, START, START, DELETE]
    (copied, again) = [line for line in cloud.done() if " scp " in line]
    assert copied.endswith(f"/cassr.tar.gz cassr: --worker=all {WHERE}")
    assert again != copied  # each in a folder of its own, which is gone
    assert not Path(copied.split()[2]).parent.exists()
    assert (cloud.folder / "bucket" / "step").read_text() == "3\n"
    trained = (cloud.folder / "trained").read_text().splitlines()
    assert trained == ["train.py --distributed --config configs/smoke.py --workdir gs://b/my run"] * 6  # on two hosts
    assert "taken away; asking for another" in done.stderr
    assert done.stderr.endswith("launch/tpu.sh: the run is finished\n")
    assert not (cloud.folder / "state").exists()


def test_what_was_refused_is_not_tried_again_and_can_be_looked_at(cloud):
    done = cloud.run("run", *OPTIONS, TRAIN=refusing(cloud))
    assert done.returncode == 2
    assert cloud.done()[-1].startswith("tpu-vm ssh cassr --worker=all --command=bash cassr/launch/worker.sh start")
    assert "train.py: it is so" in done.stdout
    assert done.stderr.endswith("exit code 2; cassr is still there and costs: launch/tpu.sh delete\n")
    assert cloud.run("status").stdout == "ended 2\n"


def refusing(cloud: Cloud) -> Path:
    write_command(cloud.folder / "programs", "refusing", 'echo "train.py: it is so" >&2\nexit 2\n')
    return cloud.folder / "programs" / "refusing"


def test_the_script_may_be_called_again_while_the_run_goes_on(cloud):
    cloud.variables["TAKE_AT"] = "never"
    assert cloud.run("create").returncode == 0
    assert cloud.run("status").stdout == "new\n"
    assert cloud.run("install").returncode == 0
    assert cloud.run("status").stdout == "killed\n"
    assert cloud.run("start", *OPTIONS).returncode == 0
    assert cloud.run("status").stdout == "running\n"
    again = cloud.run("start", *OPTIONS)
    assert again.stderr == "launch/tpu.sh: start: found a run on cassr, expected none; stop it first\n"
    assert again.returncode == 2
    assert cloud.run("stop").returncode == 0
    assert cloud.run("watch").returncode == 75
    assert cloud.run("log").stdout == "taken up at step 0\n"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "found the command '', expected one of --help"),
        (("begin",), "found the command 'begin', expected one of --help"),
        (("run",), "run: found no options of train.py, expected --config and --workdir; --help shows an example"),
    ],
)
def test_what_it_does_not_know_is_one_line(cloud, words, said):
    done = cloud.run(*words)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"launch/tpu.sh: {said}\n")
    assert cloud.done(looks=True) == []


def test_a_request_that_is_refused_ends_it(cloud):
    write_command(cloud.folder / "programs", "gcloud", 'case "$*" in *create*) exit 1 ;; esac\n')
    done = cloud.run("run", *OPTIONS)
    assert done.returncode == 2
    assert done.stderr.endswith("cassr was refused, expected a ZONE, TYPE and RUNTIME that fit each other\n")
