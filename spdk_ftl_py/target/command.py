"""``spdk-ftl target``: the embedded target as a program."""

from __future__ import annotations

import argparse
import asyncio
from typing import Any
from uuid import UUID

from ..errors import ParameterError
from ..runtime.descriptors import raise_descriptor_limit
from ..runtime.logs import LogLevels, log_to_stderr
from ..runtime.signals import on_signals
from ..usage import parsed, socket_name, text
from .sizes import APPEND_BYTES_MIN, MEDIA_BYTES_MAX, METADATA_BYTES, UINT32_END, parse_bytes

RPC_SOCKET_DEFAULT = "/var/tmp/spdk.sock"
BLOCK_BYTES = 4096
READY_PREFIX = "spdk-ftl target: listening on "
"""The beginning of the only line on standard output. The socket's path follows."""

DESCRIPTION = """\
Run an SPDK-compatible target on a machine without SPDK, hardware or root. Stock spdk-rpc (releases 25.5 to 26.9)
configures it over the same JSON-RPC socket, and hosts reach its bdevs over NVMe/TCP. It has these bdevs: malloc, null,
aio (a file), zone_block, passthru, error, delay, split, raid (0, 1, concat), NVMe/TCP controllers of other targets, and
emulated ZNS drives with fault injection and power cuts.
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
                                          an emulated 2 GiB ZNS drive at the default socket
  spdk-rpc bdev_get_bdevs                 prints the same as with spdk_tgt
  spdk-rpc nvmf_create_transport -t TCP   from here on the same as with spdk_tgt
  spdk-ftl target -r /tmp/t.sock -c saved.json
                                          with a configuration from `spdk-rpc -s /tmp/t.sock save_config > saved.json`
  spdk-rpc --plugin spdk_ftl_py.target.rpc_plugin ftltgt_inject_fault Nvme0n1 --op read --status unrecovered_read
                                          faults (and further drives) by RPC: see ftltgt_* of that plugin

The target ends at SIGINT, SIGTERM, SIGQUIT, SIGHUP (ignored under nohup) or `spdk-rpc spdk_kill_instance SIGTERM`, and
leaves only the files of drives. SIGUSR1 and SIGUSR2 do nothing.
"""

ZNS_KEYS = (
    "name", "zones", "size", "zone_size", "capacity", "max_open", "max_active", "max_append", "block_size",
    "path", "uuid",
)  # fmt: skip
ZNS_BLOCK_BYTES = (512, 4096)
MALLOC_KEYS = ("name", "size", "block_size", "md_size", "uuid")

Call = tuple[str, str, dict[str, Any]]
"""The option and specification as typed, and the RPC that stands for them, with its params."""


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
        "-r", "--rpc-socket", default=RPC_SOCKET_DEFAULT, metavar="PATH", type=socket_name,
        help="JSON-RPC unix socket (default: %(default)s, as for spdk_tgt)",
    )  # fmt: skip
    parser.add_argument(
        "-c",
        "--config",
        metavar="FILE",
        type=text,
        help="apply a configuration saved by spdk-rpc save_config or spdk-ftl save-config",
    )
    parser.add_argument(
        "--zns", action="append", default=[], metavar="SPEC", type=parsed(zns_call, without="--zns "),
        help="an emulated ZNS drive; repeatable",
    )  # fmt: skip
    parser.add_argument(
        "--malloc", action="append", default=[], metavar="SPEC", type=parsed(malloc_call, without="--malloc "),
        help="a malloc bdev; repeatable",
    )  # fmt: skip
    parser.set_defaults(parser=parser)
    parser.add_argument("-v", "--verbose", action="count", default=0, help="log more on stderr; twice: everything")


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
            raise ParameterError(f"{option} {spec}: uuid={pairs['uuid']} is not a UUID") from None
    return pairs


def _blocks(option: str, key: str, text: str, block_bytes: int) -> int:
    size = parse_bytes(text, f"{option} {key}")
    if size % block_bytes:
        raise ParameterError(f"{option}: {key}={text} is not a multiple of the block size, {block_bytes}")
    return size // block_bytes


def zns_call(spec: str) -> Call:
    """Converts --zns to an RPC. Raises ParameterError that names the key, with sizes as the user typed them. The RPC
    would refuse the same values, but in blocks."""
    pairs = _pairs("--zns", spec, ZNS_KEYS, ("name", "zone_size"))
    block_bytes = parse_bytes(pairs.get("block_size", str(BLOCK_BYTES)), "--zns block_size")
    if block_bytes not in ZNS_BLOCK_BYTES:
        raise ParameterError(f"--zns {spec}: block_size={pairs['block_size']} must be 512 or 4096")
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
        raise ParameterError(f"--zns {spec}: path is empty: leave it out to keep the drive in memory")
    problem = _zns_problem(pairs, params)
    if problem:
        raise ParameterError(f"--zns {spec}: {problem}")
    params |= {key: pairs[key] for key in ("path", "uuid") if key in pairs}
    return f"--zns {spec}", "ftltgt_zns_create", params


def _zns_problem(pairs: dict[str, str], params: dict[str, Any]) -> str:
    """Describes two keys that contradict each other; empty if none do."""
    zone_size, block_bytes = params["zone_size"], params["block_size"]
    if zone_size == 0 or zone_size & (zone_size - 1):
        return f"zone_size={pairs['zone_size']} is not a power of two blocks of {block_bytes} bytes"
    if not 0 < params.get("zone_capacity", zone_size) <= zone_size:
        return f"capacity={pairs['capacity']} is not between one block and zone_size={pairs['zone_size']}"
    if params["num_zones"] >= UINT32_END or params["num_zones"] * zone_size * block_bytes > MEDIA_BYTES_MAX:
        what = "size" if "size" in pairs else "zones"
        return f"{what}={pairs[what]}: a drive has at most {MEDIA_BYTES_MAX >> 40}T, and less than 4G zones"
    for key, param in (("max_open", "max_open_zones"), ("max_active", "max_active_zones")):
        if params.get(param, 0) >= UINT32_END:
            return f"{key}={pairs[key]}: must be less than 4G; 0 means no limit"
    if 0 < params.get("max_active_zones", 0) < params.get("max_open_zones", 0):
        return f"max_open={pairs['max_open']} is more than max_active={pairs['max_active']}"
    append_bytes = params.get("max_append_blocks", APPEND_BYTES_MIN) * block_bytes
    if not APPEND_BYTES_MIN <= append_bytes < UINT32_END * block_bytes:
        return f"max_append={pairs['max_append']}: must be at least {APPEND_BYTES_MIN >> 10}K, and less than 4G blocks"
    return ""


def malloc_call(spec: str) -> Call:
    """Converts --malloc to an RPC. Raises ParameterError that names the key."""
    pairs = _pairs("--malloc", spec, MALLOC_KEYS, ("size",))
    block_bytes = parse_bytes(pairs.get("block_size", str(BLOCK_BYTES)), "--malloc block_size")
    if block_bytes < 512 or block_bytes % 512 or block_bytes >= UINT32_END:
        raise ParameterError(
            f"--malloc {spec}: block_size={pairs['block_size']} must be a multiple of 512, at least 512"
        )
    params: dict[str, Any] = {
        "num_blocks": _blocks("--malloc", "size", pairs["size"], block_bytes),
        "block_size": block_bytes,
    }
    if "md_size" in pairs:
        params |= {"md_size": parse_bytes(pairs["md_size"], "--malloc md_size"), "md_interleave": True}
        if params["md_size"] not in METADATA_BYTES:
            allowed = ", ".join(map(str, METADATA_BYTES))
            raise ParameterError(f"--malloc {spec}: md_size={pairs['md_size']} must be one of {allowed}")
    if not 0 < params["num_blocks"] * (block_bytes + params.get("md_size", 0)) <= MEDIA_BYTES_MAX:
        raise ParameterError(f"--malloc {spec}: size={pairs['size']}: must be one block to {MEDIA_BYTES_MAX >> 40}T")
    params |= {key: pairs[key] for key in ("name", "uuid") if key in pairs}
    return f"--malloc {spec}", "bdev_malloc_create", params


def run(args: argparse.Namespace) -> int:
    """Runs the target until a signal or an RPC ends it. Raises FtlError if it cannot start."""
    level = ("warning", "info", "debug")[min(args.verbose, 2)]
    log_to_stderr("%(levelname)s %(name)s: %(message)s", LogLevels(level))
    raise_descriptor_limit()
    calls: list[Call] = [*args.zns, *args.malloc]
    named: dict[str, str] = {}
    for typed, _, params in calls:
        if params.get("name") in named:
            option, _, spec = typed.partition(" ")
            args.parser.error(f"argument {option}: {spec}: {named[params['name']]} already has that name")
        if "name" in params:
            named[params["name"]] = typed
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
