"""launch/slurm.sh on a Slurm that is not there: its commands note their words, `srun` starts processes here."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.launch.commands import LAUNCH, ROOT, environment, write_command
from tests.training.runs import write_vae_run

# Starts a step's tasks, with the variables that Slurm gives them. As srun does, it ends all of them when one fails, and
# kills them when it is asked to end itself. The batch shell's signals are no concern of theirs.
SRUN = r"""
printf 'srun %s\n' "$*" >> "$CLUSTER/calls"
shift
rm -f "$CLUSTER/tasks"
for ((task = 0; task < SLURM_NTASKS; task++)); do
    SLURM_STEP_NODELIST=localhost SLURM_PROCID=$task SLURM_LOCALID=$task "$@" &
    echo $! >> "$CLUSTER/tasks"
done
trap 'kill -KILL $(cat "$CLUSTER/tasks")' TERM
code=0
for ((task = 0; task < SLURM_NTASKS; task++)); do
    wait -n || { code=$?; [ "$code" = 75 ] || kill -KILL $(cat "$CLUSTER/tasks") 2>/dev/null; }
done
exit "$code"
"""
SCANCEL = 'printf "scancel %s\\n" "$*" >> "$CLUSTER/calls"\nkill -TERM $(cat "$CLUSTER/tasks")\n'
SCONTROL = 'printf "scontrol %s\\n" "$*" >> "$CLUSTER/calls"\n'
# In place of train.py: ends with $CODE, or, asked to stop, with 75 as that does.
TRAIN = r"""
[ "$CODE" != on ] || trap 'kill %1 2>/dev/null || true; exit 75' TERM
echo "$*" >> "$CLUSTER/trained"
[ "$CODE" != on ] || { tail -f /dev/null & wait; }
exit "$CODE"
"""
OPTIONS = ("--config", "C.py", "--workdir", "a run")


class Cluster:
    """A job of `tasks` processes on one node."""

    def __init__(self, folder: Path, tasks: int = 2):
        self.folder = folder
        for name, body in {"srun": SRUN, "scancel": SCANCEL, "scontrol": SCONTROL, "train": TRAIN}.items():
            write_command(folder / "programs", name, body)
        self.variables = {
            "CLUSTER": folder, "PYTHON": folder / "programs" / "train", "CODE": 0,
            "SLURM_JOB_ID": 7, "SLURM_NTASKS": tasks, "SLURM_JOB_NUM_NODES": 1,
        }  # fmt: skip

    def start(self, *words: object, **variables: object) -> subprocess.Popen:
        changed = environment(self.folder / "programs", **self.variables | variables)
        command = [LAUNCH / "slurm.sh", *map(str, words)]
        return subprocess.Popen(
            command, cwd=ROOT, env=changed, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def run(self, *words: object, **variables: object) -> tuple[int, str]:
        """The exit code, and what was said on stderr."""
        job = self.start(*words, **variables)
        _, said = job.communicate(timeout=60)
        return job.returncode, said

    def calls(self) -> list[str]:
        return (self.folder / "calls").read_text().splitlines()


@pytest.mark.parametrize(("nodes", "given"), [(1, []), (2, ["--local-devices", "all"])])
def test_a_process_that_has_a_node_to_itself_takes_all_its_gpus(tmp_path, nodes, given):
    cluster = Cluster(tmp_path)
    assert cluster.run(*OPTIONS, SLURM_JOB_NUM_NODES=nodes) == (0, "")
    words = " ".join(["train.py --distributed", *given, *OPTIONS])
    assert (tmp_path / "trained").read_text().splitlines() == [words] * 2
    assert cluster.calls() == [f"srun --kill-on-bad-exit=1 {tmp_path}/programs/train {words}"]


@pytest.mark.parametrize(
    ("code", "restarts", "ended", "said"),
    [
        (0, 0, 0, ""),
        (2, 0, 2, ""),
        (75, 99, 0, "stopped and saved; back into the queue"),
        (134, 4, 0, "ended with exit code 134; back into the queue"),
        (134, 5, 134, ""),
    ],
)
def test_a_job_goes_back_into_the_queue_if_that_can_help(tmp_path, code, restarts, ended, said):
    cluster = Cluster(tmp_path, tasks=1)
    found = cluster.run(*OPTIONS, CODE=code, SLURM_RESTART_COUNT=restarts)
    assert found == (ended, f"launch/slurm.sh: {said}\n" if said else "")
    assert cluster.calls()[1:] == (["scontrol requeue 7"] if said else [])


def test_a_preemption_of_which_the_shell_alone_hears_reaches_the_processes(tmp_path):
    cluster = Cluster(tmp_path)
    job = cluster.start(*OPTIONS, CODE="on")
    while not (tmp_path / "trained").exists() or len((tmp_path / "trained").read_text().splitlines()) < 2:
        assert job.poll() is None
    job.send_signal(signal.SIGTERM)
    _, said = job.communicate(timeout=60)
    assert said == "launch/slurm.sh: stopped and saved; back into the queue\n"
    assert cluster.calls()[1:] == ["scancel --signal=TERM 7", "scontrol requeue 7"]


@pytest.mark.parametrize(
    ("words", "variables", "said"),
    [
        ((), {}, "found no arguments, expected those of train.py; --help shows examples"),
        (OPTIONS, {"SLURM_JOB_ID": ""}, "found no Slurm job, expected to be started by sbatch; --help shows examples"),
        (OPTIONS, {"PYTHON": "none"}, f"PYTHON is none, which is no program in {ROOT}; call sbatch in the repository, "
            "where .venv lies"),
    ],
)  # fmt: skip
def test_what_is_missing_is_one_line(tmp_path, words, variables, said):
    assert Cluster(tmp_path).run(*words, **variables) == (2, f"launch/slurm.sh: {said}\n")


@pytest.mark.slow
def test_two_processes_of_a_job_train_stop_and_go_on(tmp_path):
    """Nothing but Slurm is made up: the job's processes find each other by its variables, over the loopback."""
    cluster = Cluster(tmp_path)
    python = {"PYTHON": sys.executable, "XLA_FLAGS": "--xla_force_host_platform_device_count=1"}
    changes = ("strategy.mesh.data=-1", "batch_size=2", "save_every=1000", "data.crop_size=16")
    words = ("--config", write_vae_run(tmp_path / "run"), "--workdir", tmp_path / "work", "--set", *changes)
    job = cluster.start(*words, "num_steps=100000", **python)
    metrics = tmp_path / "work" / "metrics.jsonl"
    while not metrics.exists() or metrics.read_text().count("\n") < 2:
        assert job.poll() is None, job.communicate()
    for task in (tmp_path / "tasks").read_text().split():  # as --signal=TERM@120 does
        subprocess.run(["kill", "-TERM", task], check=True)
    out, said = job.communicate(timeout=300)
    assert job.returncode == 0, said
    assert "launch/slurm.sh: stopped and saved; back into the queue" in said
    step = int(out.split("stopped at step ")[1].split(";")[0])
    assert out.count(f"stopped at step {step}; the same command goes on from there") == 2  # both, after the same step
    again = cluster.start(*words, f"num_steps={step + 2}", SLURM_RESTART_COUNT=1, **python)
    out, said = again.communicate(timeout=300)
    assert again.returncode == 0, said
    assert f"taken up at step {step}" in out
    assert cluster.calls()[1:] == ["scontrol requeue 7", cluster.calls()[2]]
