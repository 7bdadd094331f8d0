"""What the tests do with the guest's own NVMe/TCP: its host against our exports, its target as our base."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from interop.guest import HOST_ADDRESS, Guest

GUEST_HOST_ID = "5f5b1c1e-5d2c-4ef0-9d6a-6f7a0c1e2d3b"
GUEST_HOST_NQN = f"nqn.2014-08.org.nvmexpress:uuid:{GUEST_HOST_ID}"
NVMET_PORT = 4420
DEVICE_WAIT_S = 30


def connect_arguments(port: int, nqn: str, *options: str) -> str:
    """What /dev/nvme-fabrics is told of a subsystem of this machine's 127.0.0.1:port."""
    return ",".join(
        [
            *("transport=tcp", f"traddr={HOST_ADDRESS}", f"trsvcid={port}", f"nqn={nqn}", f"hostnqn={GUEST_HOST_NQN}"),
            *(f"hostid={GUEST_HOST_ID}", "nr_io_queues=1", "ctrl_loss_tmo=60", "reconnect_delay=1", *options),
        ]
    )


@contextmanager
def attached(guest: Guest, port: int, nqn: str, *options: str) -> Iterator[str]:
    """The guest's kernel connected to a subsystem of this machine's 127.0.0.1:port; yields e.g. "nvme0n1".

    options as in /dev/nvme-fabrics, e.g. "hdr_digest". Disconnected at the end, whatever happened.
    """
    arguments = connect_arguments(port, nqn, *options)
    answer = guest.run(f"exec 3<>/dev/nvme-fabrics && echo -n '{arguments}' >&3 && head -n 1 <&3").output
    found = re.search(r"instance=(\d+)", answer)
    assert found, f"the kernel did not connect to {nqn}: {answer}\n{guest.console_tail()}"
    controller = f"nvme{found.group(1)}"
    try:
        # Namespaces are scanned in the background; with native multipath the disk is named after the subsystem.
        disk = guest.run(
            f"""for i in $(seq {DEVICE_WAIT_S * 5}); do
                for path in /sys/class/nvme-subsystem/*; do
                    [ -e $path/{controller} ] || continue
                    for disk in $path/nvme*n* /sys/class/nvme/{controller}/nvme*n*; do
                        name=$(basename $disk)
                        [ -b /dev/$name ] && echo $name && exit 0
                    done
                done
                sleep 0.2
            done
            echo "no disk on {controller}"; ls -l /sys/class/nvme/{controller}; exit 1""",
            timeout_s=DEVICE_WAIT_S + 5,
        ).output.split()[0]
        yield disk
    finally:
        guest.run(f"sync; echo 1 >/sys/class/nvme/{controller}/delete_controller", check=False)


@contextmanager
def zoned_null_blk(
    guest: Guest,
    nqn: str,
    *,
    zone_count: int,
    zone_size_mib: int,
    zone_capacity_mib: int,
    max_open: int = 0,
    max_active: int = 0,
) -> Iterator[int]:
    """A memory-backed zoned null_blk of 4 KiB blocks, served by the guest's nvmet-tcp; yields its port here."""
    null_blk = "/sys/kernel/config/nullb/zns"
    subsystem = f"/sys/kernel/config/nvmet/subsystems/{nqn}"
    port = "/sys/kernel/config/nvmet/ports/1"
    remove = f"""rm -f {port}/subsystems/{nqn}; rmdir {port}
        echo 0 >{subsystem}/namespaces/1/enable; rmdir {subsystem}/namespaces/1 {subsystem}
        echo 0 >{null_blk}/power; rmdir {null_blk}"""
    try:
        guest.run(
            f"""set -e
            mkdir {null_blk}; cd {null_blk}
            echo {zone_count * zone_size_mib} >size; echo 4096 >blocksize; echo 1 >memory_backed; echo 1 >zoned
            echo {zone_size_mib} >zone_size; echo {zone_capacity_mib} >zone_capacity; echo 0 >zone_nr_conv
            echo {max_active} >zone_max_active; echo {max_open} >zone_max_open
            echo 1 >power
            disk=/dev/$(ls -d /sys/block/nullb* /sys/block/zns 2>/dev/null | head -n 1 | xargs basename)
            mkdir {subsystem}; echo 1 >{subsystem}/attr_allow_any_host
            mkdir {subsystem}/namespaces/1; cd {subsystem}/namespaces/1
            echo -n $disk >device_path; echo 1 >enable
            mkdir {port}; cd {port}
            echo ipv4 >addr_adrfam; echo tcp >addr_trtype; echo 0.0.0.0 >addr_traddr; echo {NVMET_PORT} >addr_trsvcid
            ln -s {subsystem} subsystems/"""
        )
        yield guest.forward(NVMET_PORT)
    finally:
        guest.run(remove, check=False)
