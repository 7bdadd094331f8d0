"""``spdk-ftl target``: the embedded target as a program."""

from __future__ import annotations

import argparse
import asyncio
import logging
from typing import Any
from uuid import UUID

from ..errors import ParameterError
from ..runtime.descriptors import raise_descriptor_limit
from ..runtime.signals import on_signals
from ..text import log_to_stderr
from .sizes import parse_bytes

RPC_SOCKET_DEFAULT = "/var/tmp/spdk.sock"
BLOCK_BYTES = 4096
READY_PREFIX = "spdk-ftl target: listening on "
"""What the one line on standard output begins with; the socket's path follows."""

DESCRIPTION = """\
An SPDK-compatible target for machines without SPDK, hardware or root: stock spdk-rpc (releases 25.5 to 26.9) drives it
over the same JSON-RPC socket, hosts reach its bdevs over NVMe/TCP. bdevs: malloc, null, aio (a file), zone_block,
passthru, NVMe/TCP controllers of others, and emulated ZNS drives with fault injection and power cuts.
"""

EPILOG = """\
--zns and --malloc take comma-separated key=value pairs; sizes take the suffixes K, M, G, T:
  --zns name=Nvme0n1,zones=128,zone_size=16M,capacity=12M,max_open=14
     further keys: max_active, max_append (bytes), block_size (512 or 4096), path (a sparse file that keeps the drive),
     uuid, size (instead of zones)
  --malloc name=Cache0,size=256M
     further keys: block_size, md_size (interleaved), uuid

examples:
  spdk-ftl target --zns name=Nvme0n1,size=2G,zone_size=16M,capacity=12M,max_open=14
                                          an emulated 2 GiB ZNS drive at the usual socket
  spdk-rpc bdev_get_bdevs                 what spdk_tgt would print
  spdk-rpc nvmf_create_transport -t TCP   from here on as with spdk_tgt
  spdk-ftl target -r /tmp/t.sock -c saved.json
                                          with what `spdk-rpc -s /tmp/t.sock save_config > saved.json` kept
  spdk-rpc --plugin spdk_ftl_py.target.rpc_plugin ftltgt_inject_fault Nvme0n1 --op read --status unrecovered_read
                                          more drives, and their faults, by RPC (see ftltgt_* there)

Stops at SIGINT, SIGTERM, SIGQUIT, SIGHUP (under nohup not) or `spdk-rpc spdk_kill_instance SIGTERM`, and leaves nothing
behind but the files of drives. SIGUSR1 and SIGUSR2 do nothing.
"""

ZNS_KEYS = (
    "name", "zones", "size", "zone_size", "capacity", "max_open", "max_active", "max_append", "block_size",
    "path", "uuid",
)  # fmt: skip
MALLOC_KEYS = ("name", "size", "block_size", "md_size", "uuid")

Call = tuple[str, str, dict[str, Any]]
"""Option and specification, as typed; the RPC it stands for; its params."""


def register(subparsers: argparse._SubParsersAction[Any]) -> None:
    parser = subparsers.add_parser(
        "target",
        help="run the embedded SPDK-compatible target (emulated ZNS drives, NVMe/TCP, SPDK's JSON-RPC)",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_arguments(parser)
    parser.set_defaults(run=run)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-r", "--rpc-socket", default=RPC_SOCKET_DEFAULT, metavar="PATH",
        help="JSON-RPC unix socket (default: %(default)s, as spdk_tgt)",
    )  # fmt: skip
    parser.add_argument("-c", "--config", metavar="FILE", help="apply a configuration saved by spdk-rpc save_config")
    parser.add_argument("--zns", action="append", default=[], metavar="SPEC", help="an emulated ZNS drive; repeatable")
    parser.add_argument("--malloc", action="append", default=[], metavar="SPEC", help="a malloc bdev; repeatable")
    parser.add_argument("-v", "--verbose", action="count", default=0, help="say more on stderr; twice: everything")


def _pairs(option: str, spec: str, keys: tuple[str, ...], required: tuple[str, ...]) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for part in spec.split(","):
        key, equals, value = part.partition("=")
        if not equals or key not in keys:
            raise ParameterError(f"{option} {spec}: {part!r} is none of {', '.join(f'{name}=…' for name in keys)}")
        if key in pairs:
            raise ParameterError(f"{option} {spec}: {key} is given twice")
        pairs[key] = value
    for key in required:
        if not pairs.get(key):
            raise ParameterError(f"{option} {spec}: {key}=… is missing")
    if "uuid" in pairs:
        try:
            UUID(pairs["uuid"])
        except ValueError:
            raise ParameterError(f"{option} {spec}: uuid={pairs['uuid']} is no UUID") from None
    return pairs


def _blocks(option: str, key: str, text: str, block_bytes: int) -> int:
    size = parse_bytes(text, f"{option} {key}")
    if size % block_bytes:
        raise ParameterError(f"{option}: {key}={text} is not a multiple of the block size, {block_bytes}")
    return size // block_bytes


def zns_call(spec: str) -> Call:
    """--zns as the RPC it stands for. Raises ParameterError that names the key."""
    pairs = _pairs("--zns", spec, ZNS_KEYS, ("name", "zone_size"))
    block_bytes = parse_bytes(pairs.get("block_size", str(BLOCK_BYTES)), "--zns block_size")
    if block_bytes < 512:
        raise ParameterError(f"--zns {spec}: block_size must be 512 or 4096")
    zone_size = _blocks("--zns", "zone_size", pairs["zone_size"], block_bytes)
    if ("zones" in pairs) == ("size" in pairs):
        raise ParameterError(f"--zns {spec}: give either zones=… or size=…")
    if "zones" in pairs:
        zones = parse_bytes(pairs["zones"], "--zns zones")
        if zones < 1:
            raise ParameterError(f"--zns {spec}: zones must be at least 1")
    else:
        size = _blocks("--zns", "size", pairs["size"], block_bytes)
        if zone_size == 0 or size % zone_size:
            raise ParameterError(f"--zns {spec}: size is not a multiple of zone_size")
        zones = size // zone_size
    params: dict[str, Any] = {
        "name": pairs["name"],
        "num_zones": zones,
        "zone_size": zone_size,
        "block_size": block_bytes,
    }
    if "capacity" in pairs:
        params["zone_capacity"] = _blocks("--zns", "capacity", pairs["capacity"], block_bytes)
    if "max_append" in pairs:
        params["max_append_blocks"] = _blocks("--zns", "max_append", pairs["max_append"], block_bytes)
    for key, param in (("max_open", "max_open_zones"), ("max_active", "max_active_zones")):
        if key in pairs:
            params[param] = parse_bytes(pairs[key], f"--zns {key}")
    if pairs.get("path") == "":
        raise ParameterError(f"--zns {spec}: path is empty; leave it out to keep the drive in memory")
    params |= {key: pairs[key] for key in ("path", "uuid") if key in pairs}
    return f"--zns {spec}", "ftltgt_zns_create", params


def malloc_call(spec: str) -> Call:
    """--malloc as the RPC it stands for."""
    pairs = _pairs("--malloc", spec, MALLOC_KEYS, ("size",))
    block_bytes = parse_bytes(pairs.get("block_size", str(BLOCK_BYTES)), "--malloc block_size")
    if block_bytes < 512:
        raise ParameterError(f"--malloc {spec}: block_size must be at least 512")
    params: dict[str, Any] = {
        "num_blocks": _blocks("--malloc", "size", pairs["size"], block_bytes),
        "block_size": block_bytes,
    }
    if "md_size" in pairs:
        params |= {"md_size": parse_bytes(pairs["md_size"], "--malloc md_size"), "md_interleave": True}
    params |= {key: pairs[key] for key in ("name", "uuid") if key in pairs}
    return f"--malloc {spec}", "bdev_malloc_create", params


def run(args: argparse.Namespace) -> int:
    """Runs the target until it is told to stop. Raises FtlError when it can't start."""
    level = (logging.WARNING, logging.INFO, logging.DEBUG)[min(args.verbose, 2)]
    log_to_stderr(level, "%(asctime)s %(levelname)s %(name)s: %(message)s")
    raise_descriptor_limit()
    calls = [*map(zns_call, args.zns), *map(malloc_call, args.malloc)]
    return asyncio.run(_serve(args.rpc_socket, args.config, calls))


async def _serve(rpc_socket: str, config: str | None, calls: list[Call]) -> int:
    from ..errors import FtlError
    from .app import Target
    from .config import apply_config

    target = Target(rpc_socket)
    with on_signals(lambda _: target.stopping.set()):
        try:
            await target.start()
            for typed, method, params in calls:
                try:
                    await target.dispatch(method, params)
                except FtlError as error:
                    raise ParameterError(f"{typed}: {error.message}") from error
            if config is not None:
                await apply_config(target.dispatch, config)
            print(f"{READY_PREFIX}{rpc_socket}", flush=True)
            await target.stopping.wait()
        finally:
            await target.close()
    return 0
