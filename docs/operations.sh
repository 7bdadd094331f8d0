#!/usr/bin/env bash
# The steps of docs/operations.md, on the embedded target: upgrade, backup, move, a lost state directory.
#
#   docs/operations.sh
#
# Read it beside that page. tests/e2e runs it. It ends all that it starts, and removes its folder. It needs spdk-ftl and
# spdk-rpc of one virtual environment in $PATH (README.md).
set -euo pipefail

WORK=${WORK:-$(mktemp -d /tmp/operations.XXXXXX)} # short: it has sockets in it
STATE=$WORK/state                                 # of root's daemon it is /var/lib/spdk-ftl
TGT=$WORK/target.sock                             # of spdk_tgt it is /var/tmp/spdk.sock
export SPDK_FTL_SOCK=$WORK/ftl.sock               # of root's daemon it is /run/spdk-ftl/spdk-ftl.sock
HOST=nqn.2014-08.org.nvmexpress:uuid:6f0f6d3a-3f0c-4b6c-9d2e-1d6b1f1c7a11
target_pid='' daemon_pid='' now=''

step() { printf '\n== %s\n' "$*"; }
rpc() { spdk-rpc -s "$TGT" "$@"; }
value() { python3 -c 'import json, sys; print(eval(sys.argv[1], {"it": json.load(sys.stdin)}))' "$1"; }
# host(), which writes and verifies by NVMe/TCP.
# shellcheck source=/dev/null
. <(sed -n '/^host() {/,/^}/p' "$(dirname "$0")/provision.sh")

clean_up() {
    status=$?
    trap - EXIT
    [ "$status" = 0 ] || tail -n 30 "$WORK"/*.log >&2
    for pid in $daemon_pid $target_pid; do kill "$pid" 2>"$WORK/kill" && wait "$pid" || true; done
    rm -rf "$WORK"
    exit "$status"
}
trap clean_up EXIT
trap 'exit 130' INT TERM

wait_for() { # $1: what says that it is there, $2: of whom
    for _ in $(seq 600); do
        kill -0 "$2" 2>"$WORK/kill" || return 1
        if eval "$1" >"$WORK/probe" 2>&1; then return 0; fi
        sleep 0.1
    done
    return 1
}

start_target() {
    : >"$WORK/target.out" # before the shell's child opens it: it may still tell of the target before
    spdk-ftl target -r "$TGT" --zns name=Nvme0n1,zones=64,zone_size=4M,capacity=3M,max_open=14,path="$WORK/drive" \
        >"$WORK/target.out" 2>>"$WORK/target.log" &
    target_pid=$!
    wait_for 'grep -q listening "$WORK/target.out"' "$target_pid"
    rpc nvmf_create_transport -t TCP
}

start_daemon() {
    : >"$WORK/daemon.out"
    spdk-ftl serve --state-dir "$STATE" --buffer-dir "$WORK/buffers" --audit-log "$WORK/audit" \
        >"$WORK/daemon.out" 2>>"$WORK/daemon.log" &
    daemon_pid=$!
    wait_for 'grep -q ready "$WORK/daemon.out"' "$daemon_pid"
}

stop() { # $1: a signal, $2: a process
    kill "-$1" "$2" && wait "$2" || true
}

where() { spdk-ftl devices --json | value '" ".join(it[0]["export"][each] for each in ("traddr", "trsvcid", "subnqn"))'; }
verify() {
    now=$(where)
    # shellcheck disable=SC2086
    host verify $now
}

step 'an FTL with data'
start_target
start_daemon
uuid=$(spdk-ftl create -s "$TGT" -b ftl0 -d Nvme0n1 | value 'it["uuid"]')
spdk-ftl add-host -b ftl0 --host "$HOST"
before=$(where)
# shellcheck disable=SC2086
host write $before

step 'upgrade: the next daemon takes over'
stop TERM "$daemon_pid"
start_daemon
wait_for 'sleep 1 && spdk-ftl devices | grep -q online' "$daemon_pid"
verify
[ "$now" = "$before" ] && echo 'the same address and NQN'

step 'backup: halted, released, verified, copied'
spdk-ftl delete -b ftl0
spdk-ftl check Nvme0n1 -s "$TGT"
mkdir "$WORK/backup"
cp --sparse=always "$WORK/drive" "$WORK/drive.zones" "$WORK/backup/" # an emulated drive: data and zones
cp -a "$STATE" "$WORK/backup/state"
spdk-ftl load -s "$TGT" -b ftl0 -d Nvme0n1 -u "$uuid"

step 'disaster: the state directory is lost while the target runs'
stop KILL "$daemon_pid"
rm -r "$STATE"
start_daemon
! spdk-ftl load -s "$TGT" -b ftl0 -d Nvme0n1 -u "$uuid" || exit 1 # claimed, for a daemon that nobody is any more
rpc bdev_passthru_delete ftl0
rpc bdev_nvme_detach_controller "ftl0-${uuid%%-*}"
rpc nvmf_delete_subsystem "nqn.2026-11.io.spdk-ftl:base:$uuid"
spdk-ftl load -s "$TGT" -b ftl0 -d Nvme0n1 -u "$uuid"
spdk-ftl add-host -b ftl0 --host "$HOST"
verify

step 'move: the copy, on a machine that knows nothing of it, whose uuid is forgotten'
spdk-ftl halt
wait "$daemon_pid"
stop TERM "$target_pid"
mv "$WORK/backup/drive" "$WORK/backup/drive.zones" "$WORK/"
STATE=$WORK/other-machine TGT=$WORK/other.sock
start_target
start_daemon
found=$(spdk-ftl scan Nvme0n1 -s "$TGT" --json | value '" ".join(it["bdevs"][0][each] for each in ("name", "uuid"))')
echo "found: $found"
[ "$found" = "ftl0 $uuid" ]
spdk-ftl load -s "$TGT" -b ftl0 -d Nvme0n1 -u "$uuid"
spdk-ftl add-host -b ftl0 --host "$HOST"
verify
[ "${now##* }" = "${before##* }" ] && echo 'the same NQN'

step 'done'
echo "orders on record: $(grep -c '"method": "bdev_ftl_load"' "$WORK/audit") loads, $(grep -c '"result": "error"' "$WORK/audit") refused"
