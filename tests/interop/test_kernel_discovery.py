"""nvme-cli asks the daemon's discovery service, and Linux connects to what it is told of."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from interop.guest import HOST_ADDRESS, Guest
from interop.nvme_guest import GUEST_HOST_ID, GUEST_HOST_NQN
from support.ports import free_port
from support.system import Daemon, EmbeddedTarget
from support.tools import lacking

DRIVE = "name=Nvme0n1,zones=48,zone_size=16M,capacity=12M,max_open=14"


def records(guest: Guest, port: int, hostnqn: str) -> list[dict[str, Any]]:
    where = f"-t tcp -a {HOST_ADDRESS} -s {port} --hostnqn={hostnqn} --hostid={GUEST_HOST_ID}"
    answer = guest.run(f"nvme discover {where} -o json", check=False).output
    return list(json.loads(answer)["records"]) if answer.startswith("{") else []


def test_connect_all_connects_what_the_host_may_connect_to(guest: Guest, folder: Path) -> None:
    if guest.run("command -v nvme", check=False).code:
        lacking("the guest has no nvme-cli: apt-get install nvme-cli")
    port = free_port()
    with EmbeddedTarget(folder, "--zns", DRIVE) as target, Daemon(folder, "--discovery", f"127.0.0.1:{port}") as daemon:
        target.call("nvmf_create_transport", trtype="TCP")
        assert records(guest, port, GUEST_HOST_NQN) == []
        ftl = ("bdev_ftl_create", "-b", "ftl0", "-d", "Nvme0n1", "--no-attach", "--host", GUEST_HOST_NQN)
        target.ftl(daemon, *ftl)
        (device,) = json.loads(target.ftl(daemon, "ftl_get_devices"))
        export = device["export"]
        (record,) = records(guest, port, GUEST_HOST_NQN)
        assert (record["trtype"], record["subtype"], record["treq"]) == ("tcp", "nvme subsystem", "not specified")
        assert (record["traddr"], record["trsvcid"], record["subnqn"]) == tuple(
            export[key] for key in ("traddr", "trsvcid", "subnqn")
        )
        assert records(guest, port, GUEST_HOST_NQN + "-other") == []

        # The guest's own loopback leads here: the address that it is told of is one of this machine.
        relay = f"nc -ll -p {export['trsvcid']} -e nc {HOST_ADDRESS} {export['trsvcid']}"
        guest.run(f"setsid {relay} </dev/null >/dev/null 2>&1 & echo $! >/tmp/relay")
        where = f"-t tcp -a {HOST_ADDRESS} -s {port} --hostnqn={GUEST_HOST_NQN} --hostid={GUEST_HOST_ID}"
        try:
            told = guest.run(f"nvme connect-all {where} --nr-io-queues=1; ls /dev/nvme*").output
            assert "failed" not in told.lower(), told
            guest.run(
                """set -e
                # The discovery controller had the first number.
                for i in $(seq 50); do disk=$(ls /dev/nvme*n1 2>/dev/null) && break; sleep 0.2; done
                dd if=/dev/urandom of=/tmp/random bs=64k count=16 2>/dev/null
                dd if=/tmp/random of=$disk bs=64k oflag=direct
                dd if=$disk bs=64k count=16 iflag=direct | cmp - /tmp/random""",
                timeout_s=60,
            )
            hosts = json.loads(target.ftl(daemon, "bdev_ftl_get_hosts", "-b", "ftl0"))
            assert [each["hostnqn"] for each in hosts["controllers"]] == [GUEST_HOST_NQN]
        finally:
            guest.run("nvme disconnect-all; kill $(cat /tmp/relay)", check=False)
        target.ftl(daemon, "bdev_ftl_delete", "-b", "ftl0")
