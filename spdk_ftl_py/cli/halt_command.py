"""`spdk-ftl halt`: ends the daemon, and removes what it made in the targets."""

from __future__ import annotations

import argparse
import contextlib
import os
import select
from collections.abc import Iterator
from typing import Final

from .commands import add_socket, daemon_client

END_TIMEOUT_S: Final = 10.0
"""How long the process may take to end after everything is undone."""

_DESCRIPTION: Final = """\
End the daemon, and undo what it made in the targets. The daemon halts every FTL cleanly, removes its bdevs, private
subsystems and keys, and ends. What is built on such a bdev loses it. A signal (`systemctl stop`) leaves all of this in
the targets, and the next daemon takes it over. The next daemon loads the FTLs in both cases, unless you delete them.

If systemd owns the control socket, the next command starts the daemon again: stop spdk-ftl.socket too.
"""
_EPILOG: Final = """\
exit codes: 0 everything is halted and undone, 1 failure (stderr says what is left; the daemon has ended anyway, and the
next one continues), 2 wrong usage
"""


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "halt",
        help="end the daemon, and remove its FTLs from the targets",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_socket(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Returns when the daemon has ended. Raises FtlError."""
    client = daemon_client(args)
    with _process(client.call("ftl_get_daemon")["pid"]) as daemon:
        try:
            halted = client.call("ftl_halt")["halted"]
        finally:
            if daemon is not None:
                select.select([daemon], [], [], END_TIMEOUT_S)
    print(f"halted, and removed from the target: {', '.join(halted) or 'no FTLs'}")
    return 0


@contextlib.contextmanager
def _process(pid: int) -> Iterator[int | None]:
    """A descriptor that is readable when the process has ended; None if the process is not visible, as in a
    container."""
    try:
        descriptor = os.pidfd_open(pid)
    except OSError:
        yield None
        return
    try:
        yield descriptor
    finally:
        os.close(descriptor)
