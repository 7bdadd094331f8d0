"""ftltgt_*: the embedded target's own RPCs as subcommands of SPDK's rpc.py.

    spdk-rpc --plugin spdk_ftl_py.target.rpc_plugin ftltgt_zns_create Nvme0n1 --size 2G --zone-size 16M
    PYTHONPATH=rpc_plugins scripts/rpc.py --plugin ftltgt ftltgt_inject_fault Nvme0n1 --op write --status write_fault

The plugin works with the clients of SPDK 25.5 to 26.9. It calls ``client.call(method, params)`` and prints the result
itself. It prints nothing for None, which dry runs and batches return.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from typing import Any

from .sizes import parse_size

OPERATIONS = ("read", "write", "append", "flush", "write_zeroes", "deallocate", "zone_send", "zone_report")
BLOCK_BYTES = 4096


class _Size(int):
    """A number that prints as the user typed it."""

    typed: str

    def __str__(self) -> str:
        return self.typed


def _size(text: str) -> _Size:
    try:
        size = _Size(parse_size(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    size.typed = text
    return size


def _status(text: str) -> int | str:
    try:
        return int(text, 0)
    except ValueError:
        return text


def _call(method: str, params: Callable[[argparse.Namespace], dict[str, Any]]) -> Callable[[argparse.Namespace], None]:
    def run(args: argparse.Namespace) -> None:
        given = {name: value for name, value in params(args).items() if value is not None}
        result = args.client.call(method, given)
        if result is None or result is True:
            return
        print(result if isinstance(result, str) else json.dumps(result, indent=2))

    return run


def _blocks(args: argparse.Namespace, name: str, value: int | None) -> int | None:
    if value is None:
        return None
    if value % args.block_size:
        raise SystemExit(f"ftltgt_zns_create: {name} {value} is not a multiple of the block size, {args.block_size}")
    return value // args.block_size  # type: ignore[no-any-return]


def _zns_params(args: argparse.Namespace) -> dict[str, Any]:
    if (args.num_zones is None) == (args.size is None):
        raise SystemExit("ftltgt_zns_create: give either --num-zones or --size")
    if args.block_size < 512 or args.zone_size < args.block_size:
        raise SystemExit("ftltgt_zns_create: the zone size must be at least one block, a block at least 512 bytes")
    if args.size is not None and args.size % args.zone_size:
        raise SystemExit(f"ftltgt_zns_create: --size {args.size} is not a multiple of the zone size, {args.zone_size}")
    return {
        "name": args.name,
        "num_zones": args.num_zones if args.num_zones is not None else args.size // args.zone_size,
        "zone_size": _blocks(args, "--zone-size", args.zone_size),
        "zone_capacity": _blocks(args, "--zone-capacity", args.zone_capacity),
        "block_size": args.block_size,
        "max_open_zones": args.max_open_zones,
        "max_active_zones": args.max_active_zones,
        "max_append_blocks": _blocks(args, "--max-append", args.max_append),
        "path": args.path,
        "uuid": args.uuid,
        "volatile_cache": False if args.no_volatile_cache else None,
    }


def _plain(*names: str) -> Callable[[argparse.Namespace], dict[str, Any]]:
    return lambda args: {name: getattr(args, name) for name in names}


def spdk_rpc_plugin_initialize(subparsers: Any) -> None:
    """rpc.py calls this."""
    add = subparsers.add_parser

    parser = add("ftltgt_zns_create", help="Create an emulated ZNS drive (spdk-ftl target)")
    parser.add_argument("name", help="name of the bdev, e.g. Nvme0n1")
    parser.add_argument("--num-zones", type=_size, help="number of zones")
    parser.add_argument("--size", type=_size, help="size of all zones in bytes, instead of --num-zones, e.g. 2G")
    parser.add_argument(
        "--zone-size", type=_size, required=True, help="size of a zone in bytes, a power of two, e.g. 16M"
    )
    parser.add_argument(
        "--zone-capacity", type=_size, help="writable bytes of a zone, e.g. 12M (default: the zone size)"
    )
    parser.add_argument("--block-size", type=_size, default=BLOCK_BYTES, help="512 or 4096 bytes (default: 4096)")
    parser.add_argument("--max-open-zones", type=int, help="0, the default: no limit")
    parser.add_argument("--max-active-zones", type=int, help="0, the default: no limit")
    parser.add_argument(
        "--max-append", type=_size, help="size of the largest zone append in bytes (default: 32 blocks)"
    )
    parser.add_argument("--path", help="sparse file that keeps the drive, with PATH.zones beside it (default: memory)")
    parser.add_argument("--uuid", help="UUID of the bdev (default: derived from the path, or random)")
    parser.add_argument(
        "--no-volatile-cache",
        action="store_true",
        help="the drive has no volatile cache: every completed write survives a power cut",
    )
    parser.set_defaults(func=_call("ftltgt_zns_create", _zns_params))

    parser = add("ftltgt_zns_delete", help="Delete an emulated ZNS drive; its file stays")
    parser.add_argument("name", help="name of the bdev")
    parser.set_defaults(func=_call("ftltgt_zns_delete", _plain("name")))

    parser = add(
        "ftltgt_inject_fault", help="Make I/O of an emulated drive fail or take longer; prints the id of the fault"
    )
    parser.add_argument("name", help="name of the bdev")
    parser.add_argument("--op", choices=OPERATIONS, help="affect only this operation (default: all)")
    parser.add_argument("--lba", type=int, help="first block to affect")
    parser.add_argument("--num-blocks", type=int, help="number of blocks to affect; 0, the default: the whole drive")
    parser.add_argument("--status", type=_status, help="NVMe status: SCT << 8 | SC, or a name such as unrecovered_read")
    parser.add_argument("--latency-us", type=int, help="delay each affected I/O by so many microseconds")
    parser.add_argument("--skip", type=int, help="number of I/Os to leave unaffected first")
    parser.add_argument("--times", type=int, help="number of I/Os to affect then; 0, the default: all")
    names = ("name", "op", "lba", "num_blocks", "status", "latency_us", "skip", "times")
    parser.set_defaults(func=_call("ftltgt_inject_fault", _plain(*names)))

    parser = add("ftltgt_clear_faults", help="Remove one injected fault, or all")
    parser.add_argument("name", help="name of the bdev")
    parser.add_argument("--id", type=int, help="id of the fault (default: all)")
    parser.set_defaults(func=_call("ftltgt_clear_faults", _plain("name", "id")))

    parser = add("ftltgt_set_zone_state", help="Make a zone read-only, offline or full, as a drive may do by itself")
    parser.add_argument("name", help="name of the bdev")
    parser.add_argument("zone", type=int, help="number of the zone, from 0")
    parser.add_argument("state", choices=("read_only", "offline", "full"))
    parser.set_defaults(func=_call("ftltgt_set_zone_state", _plain("name", "zone", "state")))

    parser = add("ftltgt_recommend_zone", help="Make zone reports recommend to finish or reset a zone")
    parser.add_argument("name", help="name of the bdev")
    parser.add_argument("zone", type=int, help="number of the zone, from 0")
    parser.add_argument("action", choices=("finish", "reset", "nothing"))
    parser.set_defaults(func=_call("ftltgt_recommend_zone", _plain("name", "zone", "action")))

    parser = add("ftltgt_power_cut", help="Cut the power of emulated drives: data that was not flushed may be lost")
    parser.add_argument("name", nargs="?", help="name of the bdev (default: all emulated drives)")
    parser.add_argument("--seed", type=int, help="seed that determines which data is lost")
    parser.set_defaults(func=_call("ftltgt_power_cut", _plain("name", "seed")))

    parser = add("ftltgt_power_on", help="Power on again")
    parser.add_argument("name", nargs="?", help="name of the bdev (default: all emulated drives)")
    parser.set_defaults(func=_call("ftltgt_power_on", _plain("name")))

    parser = add("ftltgt_nbd_start", help="Serve a bdev over NBD, at a unix socket; prints the export")
    parser.add_argument("name", help="name of the bdev")
    parser.add_argument("socket_path", metavar="PATH", help="unix socket to create, with mode 0600; absolute")
    parser.add_argument(
        "--read-only",
        action="store_true",
        default=None,
        help="refuse writes; also for a bdev that is claimed, or zoned",
    )
    parser.set_defaults(func=_call("ftltgt_nbd_start", _plain("name", "socket_path", "read_only")))

    parser = add("ftltgt_nbd_stop", help="End the NBD export of a bdev: its clients are disconnected")
    parser.add_argument("name", help="name of the bdev")
    parser.set_defaults(func=_call("ftltgt_nbd_stop", _plain("name")))

    parser = add("ftltgt_nbd_get", help="Print the NBD exports")
    parser.add_argument("name", nargs="?", help="name of a bdev (default: all)")
    parser.set_defaults(func=_call("ftltgt_nbd_get", _plain("name")))

    parser = add("ftltgt_bench_bdev", help="Put load on a bdev from within the target; writes destroy its data")
    parser.add_argument("name", help="name of the bdev")
    parser.add_argument("--rw", choices=("read", "write", "mixed"), help="default: read")
    parser.add_argument("--pattern", choices=("random", "sequential"), help="default: random")
    parser.add_argument("--io-size", type=_size, help="bytes of an I/O (default: 4096)")
    parser.add_argument("--queue-depth", type=int, help="number of outstanding I/Os (default: 1)")
    parser.add_argument("--seconds", type=int, help="how long (default: 1)")
    parser.add_argument("--write-percent", type=int, help="share of writes for mixed (default: 70)")
    parser.add_argument("--num-blocks", type=int, help="only this many blocks, from the start of the bdev")
    parser.add_argument("--sync", action="store_true", default=None, help="a flush after each write")
    parser.add_argument(
        "--verify", action="store_true", default=None, help="accept only blocks that an earlier run has written"
    )
    measured = ("rw", "pattern", "io_size", "queue_depth", "seconds", "write_percent", "num_blocks", "sync", "verify")
    parser.set_defaults(func=_call("ftltgt_bench_bdev", _plain("name", *measured)))

    parser = add("ftltgt_get_media_stats", help="Print the completed I/Os and the zone states of an emulated drive")
    parser.add_argument("name", help="name of the bdev")
    parser.add_argument("--zones", action="store_true", default=None, help="list every zone")
    parser.set_defaults(func=_call("ftltgt_get_media_stats", _plain("name", "zones")))
