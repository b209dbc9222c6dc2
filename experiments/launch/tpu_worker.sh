#!/usr/bin/env bash
# The part of tpu_pod.sh that runs on each worker. The command does not depend on the connection: after a broken one,
# the next connection attaches to it.
#
# run LOG_DIR MOUNT COMMAND...  start COMMAND, or attach to it where it runs; print what it prints; end as it ends
# install                       make ~/clipbert_env from ~/clipbert_jax.tar.gz
# stop                          let the command save and end
set -euo pipefail

environment=$HOME/clipbert_env
# Of this boot, since a reboot ends the command: pid (of a shell that is its parent), command, status.
state=$HOME/clipbert_state/$(< /proc/sys/kernel/random/boot_id)

fail() {
    echo "$(hostname): $1" >&2
    exit "$2"
}

is_running() { [ -e "$state/pid" ] && [ ! -e "$state/status" ] && kill -0 "$(< "$state/pid")" 2> /dev/null; }

start() {
    local mount=$1 log=$2
    shift 2
    [ -e "$environment/installed" ] || exit 69
    eval "$mount" || fail "cannot mount the shared filesystem with: $mount" 3
    mkdir -p "$(dirname "$log")" "$state"
    rm -f "$state/status"
    touch "$log"
    echo "$*" > "$state/command"
    # shellcheck disable=SC2016  # for the inner shell
    PATH=$environment/bin:$PATH setsid nohup bash -c '"${@:2}"; echo $? > "$1"' start "$state/status" "$@" \
        >> "$log" 2>&1 < /dev/null &
    echo $! > "$state/pid"
}

run() {
    local log mount=$2 from=-2000 status
    log=$1/$(hostname).log
    shift 2
    if ! is_running; then
        from=+$(($(stat -c %s "$log" 2> /dev/null || echo 0) + 1))
        start "$mount" "$log" "$@"
    elif [ "$(< "$state/command")" != "$*" ]; then
        fail "another command is running: $(< "$state/command"); end it with tpu_pod.sh stop" 2
    fi
    # What cannot be printed changes nothing.
    tail -c "$from" --pid="$(< "$state/pid")" -s 0.2 -F "$log" 2> /dev/null | sed -u "s/^/$(hostname): /" || true
    status=$(cat "$state/status" 2> /dev/null || echo 137)
    # gcloud ends with 1 when it fails itself: so a program that fails ends with 3.
    case $status in
        0 | 2 | 75) exit "$status" ;;
        *) [ "$status" -gt 128 ] && exit "$status" || exit 3 ;;
    esac
}

install() {
    ! is_running || fail "something is running: end it with tpu_pod.sh stop" 2
    export PATH=$HOME/.local/bin:$PATH
    rm -rf ~/clipbert_jax "$environment"
    mkdir ~/clipbert_jax
    tar -xzf ~/clipbert_jax.tar.gz -C ~/clipbert_jax
    # The VMs' own Python is too old; uv brings one.
    command -v uv > /dev/null || curl -LsSf https://astral.sh/uv/install.sh | sh
    uv venv --quiet --python 3.12 "$environment"
    uv pip install --quiet --python "$environment/bin/python" \
        -c ~/clipbert_jax/constraints.txt "$HOME/clipbert_jax[tpu]"
    touch "$environment/installed"
}

stop() {
    is_running || return 0
    # Once: a second signal would not wait for the save.
    pkill -TERM -P "$(< "$state/pid")" || true
    while is_running; do sleep 1; done
}

"$@"
