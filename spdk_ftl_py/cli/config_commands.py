"""`spdk-ftl save-config` and `load-config`: save a target and its FTLs, and restore them after a reboot."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
from pathlib import Path
from typing import Any, Final

from .. import schema
from ..client import target_address
from ..errors import FtlError
from ..text import shown
from .commands import add_socket, daemon_client, target_socket

_SAVE: Final = """\
Print the configuration of a target like SPDK's own save_config, but without what the daemon made in the target. A
section "ftl" recreates the FTLs and what is built on them. The daemon also remembers what is built on them.
"""
_SAVE_EPILOG: Final = """\
Target and daemon start from that file, in any order:
  spdk_tgt -c FILE        (or spdk-ftl target -c FILE)
  spdk-ftl serve --config FILE

The file contains the paths of key files, but no keys.

exit codes: 0 success, 1 failure, 2 wrong usage
"""
_LOAD: Final = """\
Load the FTLs of a saved configuration. The daemon loads each FTL as soon as its target and base bdev exist, and then
recreates what is built on it. An FTL that the daemon already has keeps its settings; the daemon only recreates what is
missing on it. The command ignores SPDK's part of the file. It prints, as JSON, which FTLs were loaded, which the daemon
already had, and which wait.
"""


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    save = subparsers.add_parser(
        "save-config",
        help="print the configuration of a target, with its FTLs, to start from after a reboot",
        description=_SAVE,
        epilog=_SAVE_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    save.add_argument(
        "-s",
        "--target",
        type=target_socket,
        help="RPC socket of the SPDK target (default: the only target on which the daemon has FTLs)",
    )
    save.add_argument(
        "-o",
        "--output",
        metavar="FILE",
        help=("write it to this file, mode 0600, completely or not at all (default: standard output)"),
    )
    add_socket(save)
    save.set_defaults(run=_save)
    load = subparsers.add_parser(
        "load-config",
        help="load the FTLs of a saved configuration",
        description=_LOAD,
        epilog="exit codes: 0 success, 1 failure, 2 wrong usage",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    load.add_argument(
        "file", metavar="FILE", help=("configuration written by save-config, or by save_config of the plugin")
    )
    load.add_argument(
        "-s",
        "--target",
        type=target_socket,
        help="RPC socket of the SPDK target that the FTLs are on, whatever the file says",
    )
    add_socket(load)
    load.set_defaults(run=_load)


def _save(args: argparse.Namespace) -> int:
    document = daemon_client(args).call("ftl_save_config", _checked("ftl_save_config", args, {}))
    text = json.dumps(document, indent=2) + "\n"
    if args.output is None:
        print(text, end="")
    else:
        _write(Path(args.output), text)
    return 0


def _load(args: argparse.Namespace) -> int:
    from ..daemon.saved import read_file

    params = {"config": read_file(Path(args.file), tell=_tell)}
    result = daemon_client(args).call("ftl_load_config", _checked("ftl_load_config", args, params))
    print(json.dumps(result, indent=2))
    return 0


def _tell(text: str) -> None:
    print(f"spdk-ftl: {shown(text)}", file=sys.stderr)


def _checked(method: str, args: argparse.Namespace, params: dict[str, Any]) -> dict[str, Any]:
    target = {} if args.target is None else {"target": target_address(args.target)}
    return schema.load(method).check({**params, **target})


def _write(path: Path, text: str) -> None:
    """Replaces the file atomically: a reader finds the old or the new content."""
    new = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.replace(new, path)
        except BaseException:
            with contextlib.suppress(OSError):
                new.unlink()
            raise
    except OSError as error:
        raise FtlError(f"{path} can't be written: {error.strerror}", errno=error.errno) from error
