#!/usr/bin/env bash
# What launch/tpu.sh calls on each host of a slice: the host's part of a run. The files are beside the repository.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

PYTHON=${PYTHON:-.venv/bin/python}
INSTALLED=../installed LOG=../train.log CODE=../train.code PROCESS=../train.pid

usage() {
    cat <<'HELP'
usage: worker.sh COMMAND [OPTIONS OF train.py]

    install         make the environment, with JAX for TPUs
    start OPTIONS   start train.py, which goes on when the connection ends
    status          new (not installed), running, killed (the host was), or ended and the exit code
    log             the end of the log
    stop            have train.py save and stop
HELP
}

running() { [ -s "$PROCESS" ] && kill -0 "$(cat "$PROCESS")" 2>/dev/null; }

case ${1:-} in
    install)
        # The image has Python 3.10, and this program needs 3.11: uv brings one, without rights of an administrator.
        python3 -m pip install --quiet --user uv
        python3 -m uv venv --quiet --allow-existing --python 3.11 .venv
        python3 -m uv pip install --quiet --python .venv -c requirements.lock -e '.[train,tpu,bucket]'
        touch "$INSTALLED"
        ;;
    start)
        shift
        # What still runs here has lost its other hosts: it can neither go on nor save.
        if running; then kill -KILL "$(cat "$PROCESS")"; fi
        rm -f "$CODE" "$PROCESS"
        # shellcheck disable=SC2016  # the inner shell expands it
        # In a session of its own, with no stream of the connection left open, which would keep ssh waiting. The exit code
        # is written after train.py, by its parent, since a file is all that outlives both.
        setsid bash -c '
            "$@" & process=$!
            echo "$process" > ../train.pid
            code=0
            wait "$process" || code=$?
            echo "$code" > ../train.code
        ' worker "$PYTHON" train.py --distributed "$@" >>"$LOG" 2>&1 </dev/null &
        until [ -s "$PROCESS" ]; do sleep 0.1; done
        ;;
    status)
        if [ ! -e "$INSTALLED" ]; then
            echo new
        elif [ -s "$CODE" ]; then
            echo "ended $(cat "$CODE")"
        elif running; then
            echo running
        else
            echo killed
        fi
        ;;
    log) tail -n 50 "$LOG" ;;
    stop)
        # SIGTERM to train.py itself: its parent stays, and writes the exit code.
        if running; then kill -TERM "$(cat "$PROCESS")"; fi
        ;;
    -h | --help) usage ;;
    *)
        echo "worker.sh: found the command '${1:-}', expected one of --help" >&2
        exit 2
        ;;
esac
