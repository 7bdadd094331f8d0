"""`spdk-ftl nbd`: serves an FTL over NBD while the command runs."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import select
import signal
import sys
import types
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from .. import schema
from ..client import SOCKET_DEFAULT, SOCKET_ENVIRONMENT, USER_ENVIRONMENT, DaemonClient
from ..errors import FtlError
from ..usage import account, refusing, socket_name
from .checked_arguments import parameter
from .commands import add_target, ftl_name, named

POLL_S: Final = 0.5
SERVING: Final = "serving"

_DESCRIPTION: Final = """\
Serve an FTL over NBD, at a unix socket, until the command is interrupted. NBD clients need no kernel driver, nor root:

  nbdinfo 'nbd+unix:///?socket=/tmp/ftl0.nbd'
  nbdcopy image.raw 'nbd+unix:///?socket=/tmp/ftl0.nbd'
  fio --name=job --ioengine=nbd --uri='nbd+unix:///?socket=/tmp/ftl0.nbd' --rw=randwrite --bs=4k --verify=crc32c
  qemu-img convert -O qcow2 'nbd+unix:///?socket=/tmp/ftl0.nbd' image.qcow2
"""
_EPILOG: Final = """\
The daemon serves the FTL. It ends the export when this command ends, even if the command is killed. To serve an FTL
without a command that keeps running, use bdev_ftl_nbd_start and bdev_ftl_nbd_stop of `spdk-rpc --plugin spdk_ftl_py`.
Requests must be aligned to 4096 bytes. docs/nbd.md describes what is served.

exit codes: 0 interrupted (SIGINT, SIGTERM), 1 failure, or the export has ended for another reason (FTL deleted, daemon
ended; the reason is on stderr), 2 wrong usage
"""


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "nbd",
        help="serve an FTL over NBD while the command runs",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", type=ftl_name, help="name of the FTL bdev, e.g. ftl0")
    parser.add_argument(
        "--socket", metavar="PATH", type=socket_name, required=True, help="unix socket for NBD clients, to be created"
    )
    parser.add_argument("--read-only", action="store_true", help="refuse writes, trims and write zeroes")
    add_target(parser)
    # --socket of the other commands is the control socket.
    parser.add_argument(
        "--control-socket",
        metavar="PATH",
        type=socket_name,
        help=f"control socket of the daemon (default: ${SOCKET_ENVIRONMENT}, else {SOCKET_DEFAULT})",
    )
    parser.add_argument(
        "--daemon-user",
        metavar="USER",
        type=account,
        help=f"user whose daemon to trust, besides your own and root's (default: ${USER_ENVIRONMENT}, else none)",
    )
    parser.add_argument("--json", action="store_true", help="print the export as one line of JSON when it is ready")
    parser.set_defaults(run=lambda args: run(args, parser))


def run(args: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    rpc = schema.load("bdev_ftl_nbd_start")
    path = str(Path(args.socket).absolute())
    with refusing(parser):
        parameter(rpc, "socket_path")(path)
        which = named(args)
    client = DaemonClient(args.control_socket, user=args.daemon_user)
    with _ended_by_signal() as ended:
        params = {**which, "socket_path": path, "follow": True, **({"read_only": True} if args.read_only else {})}
        export: Mapping[str, Any] = client.call(rpc.method, rpc.check(params))
        try:
            _tell(export, as_json=args.json)
            reason = _wait(client, path, ended)
        except BaseException:
            with contextlib.suppress(FtlError):
                _stop(client, path)
            raise
        if reason is not None:
            raise FtlError(f"nbd {args.name}: the export has ended: {reason}")
        _stop(client, path)
    return 0


def _tell(export: Mapping[str, Any], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(export), flush=True)
        return
    mode = ", read-only" if export["read_only"] else ""
    print(f"spdk-ftl nbd: serving {export['name']}{mode} at {export['uri']} (Ctrl-C ends it)", flush=True)


def _find(client: DaemonClient, path: str) -> Mapping[str, Any] | None:
    # Not by name: the FTL may be renamed meanwhile.
    exports: list[dict[str, Any]] = client.call("bdev_ftl_nbd_get")
    return next((each for each in exports if each["socket_path"] == path), None)


def _wait(client: DaemonClient, path: str, ended: int) -> str | None:
    """Why the export has ended; None: a signal came. ended: readable after a signal."""
    while not select.select([ended], [], [], POLL_S)[0]:
        try:
            export = _find(client, path)
        except FtlError as error:
            return error.message
        if export is None:
            return "it was stopped, or the FTL was deleted"
        if export["state"] != SERVING:
            return str(export["reason"])
    return None


def _stop(client: DaemonClient, path: str) -> None:
    """Raises FtlError, unless the export is gone already."""
    export = _find(client, path)
    if export is not None and export["state"] == SERVING:
        client.call("bdev_ftl_nbd_stop", {"name": export["name"], "target": export["target"]})


@contextlib.contextmanager
def _ended_by_signal() -> Iterator[int]:
    """A descriptor that is readable after SIGINT or SIGTERM, which do nothing else meanwhile."""
    reading, writing = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)

    def note(_number: int, _frame: types.FrameType | None) -> None:
        with contextlib.suppress(BlockingIOError):
            os.write(writing, b"x")

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield reading
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(reading)
        os.close(writing)
        sys.stdout.flush()
