#!/usr/bin/env bash
# Train on the TPU VMs of a slice: request it, install on every worker, run there, and restart what can be restarted.
#
#   export TPU=clipbert ZONE=europe-west4-b ACCELERATOR=v5litepod-16 RUNTIME=v2-alpha-tpuv5-lite
#   export MOUNT='mountpoint -q /shared || { sudo mkdir -p /shared && sudo mount 10.0.0.2:/shared /shared; }'
#   experiments/launch/tpu_pod.sh run \
#       clipbert train tgif/action_corrected --workdir /shared/runs/tgif --data-dir /shared/data/tgif
#
# run COMMAND...  runs COMMAND on all workers until it is done; they find each other by themselves. It first requests
#                 a missing slice, and installs this project where it is missing. It starts again after exit code 75,
#                 a killed process, or the loss of a spot slice. Ctrl-C only detaches: the same `run`, from any
#                 machine, attaches to what still runs. Keep it in tmux on a small VM.
# stop            lets the workers finish their step, save and end. First leave the `run`, which would restart them.
# install         installs this source tree again, as after a change.
#
# The slice belongs to a queued resource of the same name, and costs money until it is deleted:
#   gcloud compute tpus queued-resources delete $TPU --zone=$ZONE --force
# Before the first connection: ssh-add ~/.ssh/google_compute_engine. docs/clusters.md says what exit codes mean.
set -euo pipefail

: "${TPU:?name the slice, such as TPU=clipbert}"
: "${ZONE:?say where, such as ZONE=europe-west4-b}"
# A shell command that mounts the filesystem which all workers share; it is repeated at every start.
MOUNT=${MOUNT:-:}
# Where each worker appends what it prints; on the shared filesystem it outlives the VMs.
LOG_DIR=${LOG_DIR:-clipbert_logs}
# SPOT=no requests a slice that is not taken away.
SPOT=${SPOT:-yes}
MAX_RESTARTS=${MAX_RESTARTS:-50}
PAUSE_SECONDS=${PAUSE_SECONDS:-30}

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

say() { echo "tpu_pod.sh: $*" >&2; }

# Give tpu_worker.sh arguments on every worker; ends with the exit code of the first worker that failed. When a
# connection breaks, gcloud repeats this, and 255 is the code of one that stays broken.
on_workers() {
    gcloud compute tpus tpu-vm ssh "$TPU" --zone="$ZONE" --worker=all --quiet \
        --command="$(printf '%q ' bash -c "$(< "$here/tpu_worker.sh")" tpu_worker.sh "$@")"
}

install() {
    local archive=$work/clipbert_jax.tar.gz
    tar -czf "$archive" -C "$here/../.." --exclude=__pycache__ \
        setup.cfg pyproject.toml README.md LICENSE constraints.txt clipbert_jax data_pipelines experiments &&
        gcloud compute tpus tpu-vm scp "$archive" "$TPU:" --zone="$ZONE" --worker=all --quiet &&
        on_workers install
}

# Print the state of the queued resource, or nothing if it does not exist.
slice_state() {
    gcloud compute tpus queued-resources list --zone="$ZONE" --filter="name~/$TPU\$" --format='value(state.state)'
}

request_slice() {
    local tier=()
    [ "$SPOT" = no ] || tier=(--spot)
    gcloud compute tpus queued-resources create "$TPU" --node-id="$TPU" --zone="$ZONE" "${tier[@]}" \
        --accelerator-type="${ACCELERATOR:?say which, such as ACCELERATOR=v5litepod-16}" \
        --runtime-version="${RUNTIME:?say which, such as RUNTIME=v2-alpha-tpuv5-lite}"
}

wait_for_slice() {
    local state before=
    while true; do
        # gcloud refuses frequent questions; that is not a reason to end.
        state=$(slice_state) || state=UNKNOWN
        [ "$state" = "$before" ] || say "$TPU is ${state:-not there}"
        before=$state
        case $state in
            ACTIVE) return ;;
            "") request_slice ;;
            # So ends a spot slice that was taken away.
            SUSPENDED | FAILED)
                gcloud compute tpus queued-resources delete "$TPU" --zone="$ZONE" --force --quiet || true
                ;;
        esac
        sleep "$PAUSE_SECONDS"
    done
}

run() {
    local code restarts
    for ((restarts = 0; restarts <= MAX_RESTARTS; restarts++)); do
        wait_for_slice
        code=0
        on_workers run "$LOG_DIR" "$MOUNT" "$@" || code=$?
        case $code in
            0) say "done" && exit 0 ;;
            # A user's mistake; a fault of the program (see tpu_worker.sh).
            2 | 3) say "ended with exit code $code" && exit "$code" ;;
            69) install || say "could not install" ;;
            # 75, a killed process, gcloud's own 1, a broken connection.
            *) say "exit code $code, starting again" && sleep "$PAUSE_SECONDS" ;;
        esac
    done
    say "exit code $code after $MAX_RESTARTS restarts: find the reason above, then run again"
    exit "$code"
}

action=${1:-}
case $action in
    run)
        shift
        [ $# -gt 0 ] || { say "run what? Such as: tpu_pod.sh run clipbert train ..." && exit 2; }
        run "$@"
        ;;
    install) install ;;
    stop) on_workers stop ;;
    *) say "say run, install or stop, not '$action'" && exit 2 ;;
esac
