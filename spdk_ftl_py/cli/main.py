"""The command line: ``spdk-ftl serve | target | demo | torture | check | scrub | status | devices | stats`` and so on.

Modules of subcommands are imported only when theirs is called, or all of them for --help.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import sys
from collections.abc import Sequence
from typing import Any, Final

from ..errors import FtlError
from ..text import shown
from ..usage import commands_of, refuse_empty
from ..version import __version__

LINES: Final = "\n"
EXIT_OK: Final = 0
EXIT_FAILURE: Final = 1
EXIT_USAGE: Final = 2
EXIT_INTERRUPTED: Final = 130

COMPLETION: Final = "completion"
"""Needs the parsers of all other commands."""

# In the order in which --help shows them.
_MODULES: Final[tuple[tuple[str, tuple[str, ...]], ...]] = (
    ("spdk_ftl_py.demo.command", ("demo",)),
    ("spdk_ftl_py.daemon.command", ("serve",)),
    ("spdk_ftl_py.target.command", ("target",)),
    ("spdk_ftl_py.torture.command", ("torture",)),
    ("spdk_ftl_py.simulate.command", ("simulate",)),
    ("spdk_ftl_py.daemon.check_command", ("check",)),
    ("spdk_ftl_py.cli.scrub_command", ("scrub",)),
    ("spdk_ftl_py.cli.halt_command", ("halt",)),
    ("spdk_ftl_py.cli.scan_command", ("scan",)),
    ("spdk_ftl_py.cli.apply_command", ("apply",)),
    ("spdk_ftl_py.cli.health_command", ("health",)),
    ("spdk_ftl_py.cli.nbd_command", ("nbd",)),
    ("spdk_ftl_py.cli.stats_command", ("stats",)),
    ("spdk_ftl_py.cli.bench_command", ("bench",)),
    (
        "spdk_ftl_py.cli.commands",
        (
            *("status", "devices", "list", "properties", "hosts", "create", "delete"),
            *("add-host", "remove-host", "allow-any-host", "remove-buffers"),
            "grow",
            *("load", "unload", "unmap", "set-property", "set-cache", "remove-cache", "rename", "set-uuid"),
            "set-log-level",
        ),
    ),
    ("spdk_ftl_py.cli.top_command", ("top",)),
    ("spdk_ftl_py.cli.config_commands", ("save-config", "load-config")),
    ("spdk_ftl_py.cli.completion_command", (COMPLETION,)),
)

_INSTALL: Final = "is the package installed with its dependencies (pip install .)?"
_INSTALL_OPENSSL: Final = "install OpenSSL 3 of the system (Debian: apt-get install libssl3)"

_DESCRIPTION: Final = """\
A flash translation layer for zoned bdevs of a live SPDK target: random 4 KiB writes on drives that take only
sequential ones. SPDK's own rpc.py is the provisioning tool.
"""

_EPILOG: Final = """\
overview:
  spdk_tgt                                        your SPDK target (or `spdk-ftl target`, an emulated one)
  spdk-ftl serve                                  runs the FTLs, in a daemon beside the target
  spdk-rpc nvmf_create_transport -t TCP           once for each target: daemon and target use NVMe/TCP
  spdk-rpc --plugin spdk_ftl_py bdev_ftl_create -b ftl0 -d Nvme0n1
                                                  creates the bdev ftl0 on the zoned bdev Nvme0n1
  spdk-ftl devices                                lists the FTLs and their states
  spdk-ftl health                                 says whether daemon and FTLs are healthy, with an exit code
  spdk-ftl top                                    shows live what the FTLs do
  spdk-ftl save-config -o FILE                    then start with spdk_tgt -c FILE, spdk-ftl serve --config FILE
  spdk-ftl add-host -b ftl0 --host NQN            lets an NVMe/TCP host other than the target connect to it
  spdk-ftl apply plan.yaml                        does all of this from a file; can be repeated

first steps without hardware:
  spdk-ftl demo                                   runs target, daemon and verified I/O on an emulated ZNS drive
  spdk-ftl torture                                crashes the FTL again and again, and verifies its promises
  spdk-ftl simulate                               write amplification and wear, of a policy under a workload

environment:
  SPDK_FTL_SOCK         control socket of the daemon (default: /run/spdk-ftl/spdk-ftl.sock for root,
                        $XDG_RUNTIME_DIR/spdk-ftl/spdk-ftl.sock for others)
  SPDK_FTL_DAEMON_USER  user whose daemon to trust, besides your own and root's
  SPDK_FTL_STATE        state directory of the daemon

exit codes: 0 success, 1 failure (the reason is on stderr), 2 wrong usage, 130 interrupted
"""


def build_parser(only: str | None = None) -> argparse.ArgumentParser:
    """The parser; only: the subcommand that is called, if it is known (the others are then left out)."""
    parser = argparse.ArgumentParser(
        prog="spdk-ftl",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"spdk-ftl {__version__}")
    subparsers = parser.add_subparsers(title="commands", dest="command", metavar="COMMAND", required=True)
    for module, commands in _MODULES:
        if only is None or only in commands:
            _register(module, commands, subparsers, wanted=only is not None)
    for command in commands_of(parser).values():
        refuse_empty(command)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a subcommand and returns its exit code (argparse itself exits with 2)."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    known = {command for _, commands in _MODULES for command in commands}
    only = arguments[0] if arguments and arguments[0] in known else None
    code = EXIT_OK
    try:
        try:
            args = build_parser(None if only == COMPLETION else only).parse_args(arguments)
            code = int(args.run(args))
        finally:
            # Here, where an error can be reported, not when Python ends.
            if sys.stdout is not None:
                sys.stdout.flush()
        return code
    except FtlError as error:
        # Parts of the message may come from strangers: a name, or a target's reply.
        print(f"spdk-ftl: {shown(error.message, keep=LINES)}", file=sys.stderr)
        return EXIT_FAILURE
    except ImportError as error:
        # Commands import the data path when they run; a checkout may lack the compiled part of it.
        print(f"spdk-ftl: {only}: {error}; {_remedy(error)}", file=sys.stderr)
        return EXIT_FAILURE
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader of our output has closed it.
        _drop_output()
        return code or EXIT_FAILURE
    except OSError as error:
        # An error without a file name usually concerns standard output.
        _drop_output()
        if code == EXIT_OK:  # Otherwise the command has reported its failure.
            print(f"spdk-ftl: {only}: {error.filename or 'output'}: {error.strerror or error}", file=sys.stderr)
        return code or EXIT_FAILURE


def _remedy(error: ImportError) -> str:
    """OpenSSL is in no wheel (docs/installing.md)."""
    return _INSTALL_OPENSSL if str(error).startswith(("libssl.", "libcrypto.")) else _INSTALL


def _drop_output() -> None:
    """Python flushes standard output once more when it ends, and would complain."""
    if sys.stdout is None:
        return
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def _register(
    module: str,
    commands: Sequence[str],
    subparsers: argparse._SubParsersAction[argparse.ArgumentParser],
    *,
    wanted: bool,
) -> None:
    try:
        command: Any = importlib.import_module(module)
    except ImportError as error:
        # One broken dependency must not disable the commands that do not need it.
        if wanted:
            raise FtlError(f"{commands[0]}: {error}; {_remedy(error)}") from error
        for name in commands:
            subparsers.add_parser(name, help=f"not available: {error}")
        return
    command.register(subparsers)
