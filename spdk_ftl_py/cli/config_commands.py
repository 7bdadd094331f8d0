"""`spdk-ftl save-config` and `load-config`: what brings a target and its FTLs back after a reboot."""

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
Print the configuration of a target, as SPDK's own save_config does, but without what the daemon made in it, and with a
section "ftl" that brings back its FTLs and what stands on them. The daemon remembers what stands on them, too.
"""
_SAVE_EPILOG: Final = """\
Both start from that file, in any order:
  spdk_tgt -c FILE        (or spdk-ftl target -c FILE)
  spdk-ftl serve --config FILE

The file has the paths of key files, but no keys.

exit codes: 0 success, 1 failure, 2 wrong usage
"""
_LOAD: Final = """\
Take the FTLs of a saved configuration: the daemon loads each as soon as its target and base bdev are there, and then
makes what stands on it. An FTL that the daemon has already keeps its settings; the daemon only makes what is missing of
what stands on it. SPDK's part of the file is ignored. Prints what was loaded, what was there, and what waits, as JSON.
"""


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    save = subparsers.add_parser(
        "save-config",
        help="print the configuration of a target, with its FTLs, for a start after a reboot",
        description=_SAVE,
        epilog=_SAVE_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    save.add_argument(
        "-s",
        "--target",
        type=target_socket,
        help="RPC socket of the SPDK target (default: that of all FTLs, where it is one)",
    )
    save.add_argument(
        "-o", "--output", metavar="FILE", help="write it there, mode 0600, all or nothing (default: standard output)"
    )
    add_socket(save)
    save.set_defaults(run=_save)
    load = subparsers.add_parser(
        "load-config",
        help="take FTLs from a saved configuration",
        description=_LOAD,
        epilog="exit codes: 0 success, 1 failure, 2 wrong usage",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    load.add_argument("file", metavar="FILE", help="as save-config, or save_config of the plugin, wrote it")
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
    """Whoever reads it finds the old one or the new one, whatever happens."""
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
