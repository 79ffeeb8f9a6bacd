#!/usr/bin/env bash
# What sbatch reads below, up to the first command, can be overridden on its command line: sbatch --nodes=4 launch/slurm.sh ...
#SBATCH --job-name=cassr
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=8
#SBATCH --gres=gpu:8
#SBATCH --cpus-per-task=8
#SBATCH --time=04:00:00
#SBATCH --signal=TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=slurm-%j.log
set -euo pipefail

PYTHON=${PYTHON:-.venv/bin/python} # seen from the folder in which sbatch was called
RESTARTS=${RESTARTS:-5}            # how often a job that failed is put back into the queue
FINISHED=0 REFUSED=2 STOPPED=75    # the exit codes of train.py that decide here; docs/training.md

usage() {
    cat <<'HELP'
usage: sbatch [OPTIONS OF SBATCH] launch/slurm.sh --config FILE --workdir DIR [OPTIONS OF train.py]

Trains on GPUs under Slurm and goes on after a time limit, a preemption or a dead node. Call it in the repository.
The work folder must be one that all nodes see. By default every GPU has a process, eight on a node:

    sbatch --nodes=4 launch/slurm.sh --config configs/sd15_cassr.py --workdir /shared/runs/cassr

With one process on each node, which then uses all GPUs of the node:

    sbatch --nodes=4 --ntasks-per-node=1 --cpus-per-task=64 launch/slurm.sh --config ...

variables: PYTHON (.venv/bin/python), RESTARTS (5: how often a job that failed is tried again)
HELP
}

die() {
    echo "launch/slurm.sh: $*" >&2
    exit "$REFUSED"
}

case ${1:-} in
    -h | --help) usage && exit ;;
    "") die "found no arguments, expected those of train.py; --help shows examples" ;;
esac
[ -n "${SLURM_JOB_ID:-}" ] || die "found no Slurm job, expected to be started by sbatch; --help shows examples"
[ -x "$PYTHON" ] || die "PYTHON is $PYTHON, which is no program in $PWD; call sbatch in the repository, where .venv lies"

# JAX gives each process of Slurm one GPU, that of its number on the node. A process that has the node to itself takes all.
devices=()
[ "$SLURM_NTASKS" != "$SLURM_JOB_NUM_NODES" ] || devices=(--local-devices all)

# A proxy for web pages has no business between nodes: JAX may wait for it until the start has timed out.
unset http_proxy https_proxy HTTP_PROXY HTTPS_PROXY all_proxy ALL_PROXY

# --kill-on-bad-exit: a process that fails ends the others now, and not once they have waited in vain for its answer.
# In the background, because a shell hears no signal while a command runs in its foreground.
srun --kill-on-bad-exit=1 "$PYTHON" train.py --distributed "${devices[@]}" "$@" &
step=$!

# --signal above reaches the processes themselves. A preemption may reach this shell alone, which hands the signal on to
# them by scancel: srun would not pass on a SIGTERM but kill them.
handed_on=
hand_on() {
    trap '' TERM
    handed_on=yes
    scancel --signal=TERM "$SLURM_JOB_ID" || echo "launch/slurm.sh: scancel failed" >&2 # the job may have ended by itself
}
trap hand_on TERM

code=0
wait "$step" || code=$?
if [ -n "$handed_on" ]; then # a signal ends `wait`, whose code is then no process's; it still knows that of the step
    code=0
    wait "$step" || code=$?
fi

again() {
    echo "launch/slurm.sh: $1; back into the queue" >&2
    scontrol requeue "$SLURM_JOB_ID"
}
case $code in
    "$FINISHED") exit ;;
    "$STOPPED") again "stopped and saved" ;;
    "$REFUSED") exit "$code" ;; # another try would be refused as well
    *)
        [ "${SLURM_RESTART_COUNT:-0}" -lt "$RESTARTS" ] || exit "$code"
        again "ended with exit code $code"
        ;;
esac
