#!/usr/bin/env bash
# From nothing to a bdev that survives a reboot: target, ZNS drive, FTL, lvol store, export, reboot, grow.
#
#   docs/provision.sh                                   on the embedded target, without SPDK, hardware or root
#   SPDK_TGT=/path/to/spdk_tgt docs/provision.sh        on a real one; the drive is a file whose zones the FTL emulates
#   SPDK_TGT=… ZNS_PCI=0000:01:00.0 docs/provision.sh   on a real one, with a ZNS drive that SPDK has (spdk/scripts/setup.sh)
#
# Read it as a tutorial: each step has the commands that you would type. tests/e2e and tests/live run it. It ends all that
# it starts, and removes its folder. It needs spdk-ftl and spdk-rpc of one virtual environment in $PATH (README.md).
set -euo pipefail

WORK=${WORK:-$(mktemp -d /tmp/provision.XXXXXX)} # short: it has sockets in it
PORT=${PORT:-4420}                               # where the real target exports the volume
TGT=$WORK/target.sock                            # of spdk_tgt it is /var/tmp/spdk.sock
SAVED=$WORK/saved.json
export SPDK_FTL_SOCK=$WORK/ftl.sock # of the daemon it is /run/spdk-ftl/spdk-ftl.sock
HOST=nqn.2014-08.org.nvmexpress:uuid:6f0f6d3a-3f0c-4b6c-9d2e-1d6b1f1c7a11
VOLUME=nqn.2026-11.io.example:volume
target_pid='' daemon_pid=''

step() { printf '\n== %s\n' "$*"; }
rpc() { spdk-rpc -s "$TGT" "$@"; }
value() { python3 -c 'import json, sys; print(eval(sys.argv[1], {"it": json.load(sys.stdin)}))' "$1"; }

clean_up() {
    status=$?
    trap - EXIT
    [ "$status" = 0 ] || tail -n 30 "$WORK"/*.log >&2
    [ -z "$daemon_pid" ] || spdk-ftl halt >"$WORK/halt" 2>&1 || true
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

start_target() { # $@: more arguments
    if [ -n "${SPDK_TGT:-}" ]; then
        # shellcheck disable=SC2086
        "$SPDK_TGT" -r "$TGT" ${SPDK_TGT_OPTIONS:-} "$@" >>"$WORK/target.log" 2>&1 &
    else
        spdk-ftl target -r "$TGT" "$@" >>"$WORK/target.log" 2>&1 &
    fi
    target_pid=$!
    wait_for 'rpc -t 5 framework_wait_init || rpc -t 5 bdev_get_bdevs' "$target_pid"
}

start_daemon() { # $@: more arguments. As a service: packaging/systemd
    : >"$WORK/daemon.out"
    spdk-ftl serve --state-dir "$WORK/state" --buffer-dir "$WORK/buffers" "$@" >"$WORK/daemon.out" 2>>"$WORK/daemon.log" &
    daemon_pid=$!
    wait_for 'grep -q ready "$WORK/daemon.out"' "$daemon_pid"
}

# A host: writes, or verifies, the first blocks of what is exported. On Linux: nvme connect -t tcp -a ADDRESS -s PORT -n NQN
# --hostnqn HOST, and then dd, fio or mkfs on /dev/nvmeXn1.
host() { # $1: write or verify, $2: address, $3: port, $4: NQN
    python3 - "$@" "$HOST" <<'PYTHON'
import asyncio, sys
from spdk_ftl_py.ftl.media.blockdev import BlockPort
from spdk_ftl_py.nvme.host.controller import Controller
from spdk_ftl_py.runtime.reactor import ReactorLoop

what, address, port, nqn, hostnqn = sys.argv[1:]
BLOCKS, RUN = 2048, 16


def content(lba):
    return b"".join((lba + i).to_bytes(8, "little") * 512 for i in range(RUN))


async def main():
    reactor = ReactorLoop("host")
    await reactor.start()
    controller = await Controller.connect(address, port, nqn, hostnqn=hostnqn)
    try:
        namespace = (await controller.namespaces())[0]
        blocks = BlockPort(reactor, await controller.create_io_qpair(reactor, namespace), name="volume")
        for lba in range(0, BLOCKS, RUN):
            if what == "write":
                await blocks.write(lba, content(lba))
            elif bytes(await blocks.read(lba, RUN)) != content(lba):
                sys.exit(f"block {lba} or one behind it is not what was written")
        if what == "write":
            await blocks.flush()
        await blocks.close()
        print(f"{what}: {BLOCKS} blocks of a namespace of {namespace.block_count}")
    finally:
        await controller.close()
        await reactor.stop()


asyncio.run(main())
PYTHON
}

step 'a target, with an NVMe/TCP transport (through which the daemon has its bdevs)'
start_target
rpc nvmf_create_transport -t TCP

step 'a drive'
zones=()
if [ -z "${SPDK_TGT:-}" ]; then
    base=Nvme0n1 # an emulated ZNS drive that a file keeps, as flash keeps yours
    rpc --plugin spdk_ftl_py.target.rpc_plugin ftltgt_zns_create "$base" --num-zones 64 --zone-size 4M \
        --zone-capacity 3M --max-open-zones 14 --path "$WORK/drive"
elif [ -n "${ZNS_PCI:-}" ]; then
    base=Nvme0n1
    rpc bdev_nvme_attach_controller -b Nvme0 -t PCIe -a "$ZNS_PCI"
else
    base=Drive0 # conventional, so the FTL is told how large its zones are to be, in blocks of 4 KiB
    truncate -s 512M "$WORK/drive"
    rpc bdev_aio_create "$WORK/drive" "$base" 4096
    zones=(--zone-capacity 1024)
fi

step 'the daemon'
start_daemon

# Run twice, it finds what it has made. It erases nothing, and loads the FTL that is on the drive where there is one.
make_ftl() {
    spdk-ftl create -s "$TGT" -b ftl0 -d "$base" "${zones[@]}" --if-absent --load-or-create --wait 120
}

step 'the FTL: bdev ftl0 of the target'
make_ftl
echo "made by the same line, run again: $(make_ftl | value 'it["changed"]')"
spdk-ftl devices
blocks_before=$(spdk-ftl devices --json | value 'it[0]["num_blocks"]')

if [ -n "${SPDK_TGT:-}" ]; then
    step 'an lvol store on it, and an export of a volume by the target'
    rpc bdev_lvol_create_lvstore ftl0 store0
    rpc bdev_lvol_create -l store0 volume0 64
    rpc nvmf_create_subsystem "$VOLUME" -s SPDKFTL1
    rpc nvmf_subsystem_add_host "$VOLUME" "$HOST"
    rpc nvmf_subsystem_add_ns "$VOLUME" store0/volume0
    rpc nvmf_subsystem_add_listener "$VOLUME" -t tcp -f ipv4 -a 127.0.0.1 -s "$PORT"
    where() { echo 127.0.0.1 "$PORT" "$VOLUME"; }
else
    step 'an export of all of it by the daemon (the embedded target has no lvol stores: skipped)'
    spdk-ftl add-host -b ftl0 --host "$HOST"
    where() { spdk-ftl devices --json | value '" ".join(it[0]["export"][each] for each in ("traddr", "trsvcid", "subnqn"))'; }
fi
# shellcheck disable=SC2046
host write $(where)
# shellcheck disable=SC2046
host verify $(where)

step 'what brings all of it back: SPDK and the daemon start from the same file'
spdk-ftl save-config -s "$TGT" -o "$SAVED"

step 'a reboot that nobody has announced: both are gone, and what was in memory'
kill -9 "$daemon_pid" "$target_pid"
wait "$daemon_pid" "$target_pid" || true
rm -rf "$WORK/buffers"
start_daemon --config "$SAVED" # either first: it waits for the other
start_target -c "$SAVED"
make_ftl # the same line as above: is online now
wait_for 'host verify $(where)' "$daemon_pid"
# shellcheck disable=SC2046
host verify $(where)

if [ "$base" != Drive0 ]; then
    step 'grow: left out (a ZNS drive keeps its size; a file, and what your storage array exports, can get larger)'
else
    step 'a larger drive, in an orderly way: halt, exchange, start, and give the FTL all of it'
    spdk-ftl halt # before the target: what that still writes to ftl0 as it ends would wait for a daemon
    wait "$daemon_pid"
    kill "$target_pid" && wait "$target_pid" || true
    truncate -s 1G "$WORK/drive"
    start_target -c "$SAVED"
    start_daemon --config "$SAVED"
    make_ftl
    spdk-ftl grow -s "$TGT" -b ftl0
    blocks=$(spdk-ftl devices --json | value 'it[0]["num_blocks"]')
    echo "ftl0: $blocks_before blocks before, $blocks now"
    [ "$blocks" -gt "$blocks_before" ]
    wait_for 'host verify $(where)' "$daemon_pid"
    # shellcheck disable=SC2046
    host verify $(where)
fi

step 'done'
echo "bands free: $(spdk-ftl stats ftl0 --json | value 'it["free_bands"]')"
