#!/usr/bin/env bash
# Trains on a slice of TPU VMs of Google Cloud, and goes on after preemptions. docs/pods.md explains each step.
set -euo pipefail

NAME=${NAME:-cassr}                      # of the slice and of the request for it
ZONE=${ZONE:-us-west4-a}                 # one where your project has a quota for TYPE
PROJECT=${PROJECT:-}                     # gcloud's own unless given
TYPE=${TYPE:-v5litepod-64}               # 64 chips of v5e on 16 hosts
RUNTIME=${RUNTIME:-v2-alpha-tpuv5-lite}  # the hosts' image, which belongs to TYPE
SPOT=${SPOT:-1}                          # 1: cheap, and may be taken away at any time; 0: not
RESTARTS=${RESTARTS:-5}                  # how often a run that failed is tried again
POLL=${POLL:-60}                         # seconds between two looks
LOST=${LOST:-10}                         # looks in a row to which a slice does not answer before it is given up
FINISHED=0 REFUSED=2 STOPPED=75          # the exit codes of train.py that decide here; docs/training.md
SILENT=68 TAKEN=69                       # those of `watch` where train.py has left none

usage() {
    cat <<'HELP'
usage: launch/tpu.sh COMMAND [OPTIONS OF train.py]

    run OPTIONS     all of the following, until the run is finished; call it again if this machine was switched off
    create          ask for the slice, and wait until it is there
    install         copy the last commit to all hosts, with its environment
    start OPTIONS   start train.py on all hosts; it goes on when this machine is switched off
    watch           wait until the run ends, and exit with its exit code; 69 if the slice was taken away, 68 if it is silent
    status          new, running, killed, ended and the exit code, or silent if the first host does not answer
    log             the end of the first host's log
    stop            have the run save and stop
    delete          give the slice back, which ends its cost

    ZONE=us-west4-a TYPE=v5litepod-64 launch/tpu.sh run --config configs/sd15_cassr.py --workdir gs://BUCKET/runs/cassr \
        --strategy fsdp --set batch_size=256 remat=blocks

The work folder must be one that all hosts see, and that outlives them: a bucket.
variables: NAME ZONE PROJECT TYPE RUNTIME SPOT RESTARTS POLL LOST; the first lines of this script say what they are
HELP
}

say() { echo "launch/tpu.sh: $*" >&2; }
die() {
    say "$*"
    exit "$REFUSED"
}

command -v gcloud >/dev/null || die "found no gcloud, expected the Google Cloud CLI, logged in"
where=(--zone="$ZONE")
[ -z "$PROJECT" ] || where+=(--project="$PROJECT")
tpus() { gcloud compute tpus "$@" "${where[@]}" --quiet; }

# on WORKER COMMAND: on one host by its number, or on all of them at once.
on() { tpus tpu-vm ssh "$NAME" --worker="$1" --command="$2"; }

# The request's state, in Google's words: empty where there is no request, UNKNOWN while nobody answers. Only an ACTIVE one
# has hosts. Not by `describe`, which fails in the same way where there is no request and where there is no network.
state() {
    tpus queued-resources list --filter="name ~ \"(^|/)$NAME\$\"" --format="value(state.state)" || echo UNKNOWN
}

create() {
    local price=()
    [ "$SPOT" = 0 ] || price=(--spot)
    tpus queued-resources create "$NAME" --node-id="$NAME" --accelerator-type="$TYPE" --runtime-version="$RUNTIME" \
        "${price[@]}" || die "the request for $NAME was refused, expected a ZONE, TYPE and RUNTIME that fit each other"
    await
}

# Wait until a request is served, which may take days.
await() {
    local now before=""
    while now=$(state); [ "$now" != ACTIVE ]; do
        case $now in
            FAILED) die "the request for $NAME has failed, expected a quota for $TYPE in $ZONE; launch/tpu.sh delete" ;;
            SUSPENDING | SUSPENDED) return "$TAKEN" ;;
        esac
        [ "$now" = "$before" ] || say "the request for $NAME is ${now:-not listed yet}"
        before=$now
        sleep "$POLL"
    done
}

install() ( # a shell of its own, with whose end the archive goes
    archive=$(mktemp -d)
    trap 'rm -r "$archive"' EXIT
    git archive --format=tar.gz --output="$archive/cassr.tar.gz" HEAD
    tpus tpu-vm scp "$archive/cassr.tar.gz" "$NAME:" --worker=all &&
        on all "mkdir -p cassr && tar -xzf cassr.tar.gz -C cassr && bash cassr/launch/worker.sh install"
)

start() { on all "bash cassr/launch/worker.sh start$(printf ' %q' "$@")"; }

# Of the first host alone: processes of one run end together.
status() { on 0 "if [ -e cassr ]; then bash cassr/launch/worker.sh status; else echo new; fi" 2>/dev/null || echo silent; }

log() { on 0 "bash cassr/launch/worker.sh log"; }
stop() { on all "bash cassr/launch/worker.sh stop"; }
# --force: also where the slice is still there. Without --async it returns once the name is free again.
delete() { tpus queued-resources delete "$NAME" --force; }

watch() {
    local silent=0 found
    while :; do
        case $(state) in
            ACTIVE) found=$(status) ;;
            UNKNOWN) found=running ;; # it is this machine that has no network
            *) return "$TAKEN" ;;
        esac
        case $found in
            ended*) return "${found#ended }" ;;
            killed | new) return "$TAKEN" ;;
            silent) silent=$((silent + 1)) ;;
            *) silent=0 ;;
        esac
        [ "$silent" -lt "$LOST" ] || return "$SILENT"
        sleep "$POLL"
    done
}

# Install and start what is not; hosts may vanish in the middle of it.
begun() {
    case $(status) in
        running | silent) return ;;
        new) install || return "$TAKEN" ;;
    esac
    start "$@" || return "$TAKEN"
}

# Whatever there is already is used: this is also what goes on after an interruption of this script.
run() {
    local failed=0 code
    while :; do
        case $(state) in
            "") create || continue ;;
            SUSPENDING | SUSPENDED)
                say "$NAME was taken away; asking for another"
                delete
                continue
                ;;
            *) await || continue ;;
        esac
        code=0
        begun "$@" && watch || code=$?
        case $code in
            "$FINISHED")
                say "the run is finished"
                delete
                return
                ;;
            "$STOPPED" | "$TAKEN") say "the run was interrupted; going on" ;;
            "$SILENT")
                say "$NAME does not answer; asking for another"
                delete
                ;;
            *)
                failed=$((failed + 1))
                log || true
                if [ "$code" = "$REFUSED" ] || [ "$failed" -gt "$RESTARTS" ]; then
                    say "train.py ended with exit code $code; $NAME is still there and costs: launch/tpu.sh delete"
                    return "$code"
                fi
                say "train.py ended with exit code $code; trying again"
                ;;
        esac
        sleep "$POLL" # a slice that is being taken away is ACTIVE for a while
    done
}

case ${1:-} in
    run | start)
        [ $# -gt 1 ] || die "$1: found no options of train.py, expected --config and --workdir; --help shows an example"
        [ "$1" = run ] || [ "$(status)" != running ] || die "start: found a run on $NAME, expected none; stop it first"
        "$@"
        ;;
    create | install | watch | status | log | stop | delete) "$1" ;;
    -h | --help) usage ;;
    *) die "found the command '${1:-}', expected one of --help" ;;
esac
