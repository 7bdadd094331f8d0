"""Measures an FTL that exists, and so one that others may use."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from ..errors import FtlError, ParameterError, UnsupportedError
from .client import Address, Client
from .measured import Measured, Timing, Told
from .workloads import WORKLOADS, Workload


def chosen(patterns: str) -> list[Workload]:
    """The workloads that patterns choose, with commas between them. Raises ParameterError for one that matches none."""
    found: list[Workload] = []
    for pattern in patterns.split(","):
        matching = [workload for workload in WORKLOADS.values() if fnmatch.fnmatchcase(workload.name, pattern)]
        if not matching:
            raise ParameterError(f"{pattern!r} matches no workload; there are {', '.join(WORKLOADS)}")
        found += [workload for workload in matching if workload not in found]
    return found


def allowed(asked: list[Workload] | None, *, write: bool) -> list[Workload]:
    """asked: the workloads to measure; None: all allowed ones with one qpair. Raises ParameterError if one of `asked`
    writes, and writes are not allowed."""
    if asked is None:
        return [workload for workload in WORKLOADS.values() if workload.qpairs == 1 and (write or not workload.writes)]
    writing = [workload.name for workload in asked if workload.writes and not write]
    if writing:
        raise ParameterError(f"{', '.join(writing)}: --write allows writes, and destroys all data on the FTL")
    return asked


def address_of(device: Mapping[str, Any], hostnqn: str) -> Address:
    """Of an answer of ftl_get_devices. Raises UnsupportedError if the FTL has no NVMe/TCP export."""
    export = device.get("export") or {}
    if not export.get("traddr"):
        raise UnsupportedError(
            f"{device['name']} has no NVMe/TCP export to connect to ({device['state']}): add one with "
            "bdev_ftl_add_listener"
        )
    return Address(export["traddr"], str(export["trsvcid"]), export["subnqn"], hostnqn)


def measure_existing(
    client: Client,
    name: str,
    address: Address,
    workloads: Sequence[Workload],
    timing: Timing,
    *,
    stats: Callable[[], Mapping[str, Any]],
    pids: dict[str, int],
    tell: Told,
) -> Iterator[Measured]:
    """Yields each workload when it is measured. stats: an answer of bdev_ftl_get_stats. tell: called before each
    window. Raises FtlError."""
    qpairs = 0
    for workload in workloads:
        if workload.all_qpairs != qpairs:
            qpairs = workload.all_qpairs
            _connect(client, name, address, qpairs)
        measured = Measured(workload)
        for _ in range(timing.repeats):
            tell(workload.name)
            before = stats()
            measured.ftl.append(client.run(name, workload, seconds=timing.seconds, warm_s=timing.warm_s, pids=pids))
            if workload.writes:
                measured.amplified(before, stats())
        yield measured


def _connect(client: Client, name: str, address: Address, qpairs: int) -> None:
    try:
        # Somebody else has written what is there.
        client.connect(name, address, qpairs=qpairs, verify="none")
    except FtlError as error:
        raise FtlError(
            f"{error.message}. Does the FTL admit this host? `spdk-ftl add-host -b NAME --host {address.hostnqn}` lets "
            "it connect; --hostnqn names another one"
        ) from error
