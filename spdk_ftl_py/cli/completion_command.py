"""`spdk-ftl completion`: what bash and zsh need to complete our commands, made from their parsers by shtab."""

from __future__ import annotations

import argparse
import contextlib
import re
from typing import Any, Final

from ..errors import FtlError

SHELLS: Final = ("bash", "zsh")
FTLS: Final = "ftls"
ANSWER_TIMEOUT_S: Final = 4.0
"""Of the daemon: somebody has pressed Tab, and waits."""
_PATHS: Final = frozenset(
    ("PATH", "FILE", "SOCKET", "TARGET", "PLAN", "dhchap_key", "dhchap_ctrlr_key", "psk", "target_psk")
)
"""The metavars, or else the names, of arguments that take the path of a file."""
_DIRECTORIES: Final = frozenset(("DIR",))

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:-]{0,62}")
"""As in the schemas."""

_DESCRIPTION: Final = """\
Print a script that makes a shell complete commands, options and their values, and names of FTLs. A package that is
installed below /usr or /usr/local needs no further setup. Otherwise, for bash, add to ~/.bashrc:
  eval "$(spdk-ftl completion bash)"
For zsh, add to ~/.zshrc, after compinit:
  eval "$(spdk-ftl completion zsh)"

The script calls `spdk-ftl completion ftls`, which prints the names of the daemon's FTLs, or nothing if no daemon
answers.
"""
_FUNCTION: Final = "_spdk_ftl_ftls"
_NAMES: Final = {"bash": _FUNCTION, "zsh": _FUNCTION}
_PREAMBLE: Final = {
    "bash": f'{_FUNCTION}() {{ compgen -W "$(spdk-ftl completion {FTLS} 2>/dev/null)" -- "$1"; }}\n',
    "zsh": f'{_FUNCTION}() {{ local -a ftls; ftls=(${{(f)"$(spdk-ftl completion {FTLS} 2>/dev/null)"}}); '
    "compadd -a ftls }\n",
}


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "completion",
        help="print a script that completes these commands in bash or zsh",
        description=_DESCRIPTION,
        epilog="exit codes: 0 success, 1 failure, 2 wrong usage",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("shell", choices=(*SHELLS, FTLS))

    def run(args: argparse.Namespace) -> int:
        # At this point all commands are registered.
        print(_ftls() if args.shell == FTLS else script(subparsers, args.shell), end="")
        return 0

    parser.set_defaults(run=run)


def script(commands: argparse._SubParsersAction[argparse.ArgumentParser], shell: str) -> str:
    """commands: of the whole command line; of no use for anything else afterwards. shell: one of SHELLS."""
    import shtab

    parser = argparse.ArgumentParser(prog="spdk-ftl")
    parser.add_argument("--version", action="store_true", help="show the version")
    subparsers: Any = parser.add_subparsers()
    told = {str(each.dest): each.help for each in commands._choices_actions}
    known = dict(commands.choices)
    for name, command in sorted(known.items()):
        # shtab leaves out what has no help, such as aliases.
        subparsers.add_parser(name, help=told.get(name) or command.description)
        subparsers.choices[name] = command
    for command in {id(each): each for each in known.values()}.values():
        for action in command._actions:
            _prepare(action, {"files": shtab.FILE, "directories": shtab.DIRECTORY})
    complete: Any = shtab.complete  # some releases annotate the preamble as str, but all take one for each shell
    made: str = complete(parser, shell, root_prefix="spdk_ftl", preamble=_PREAMBLE)
    return made if made.endswith("\n") else f"{made}\n"


def _prepare(action: Any, kinds: dict[str, Any]) -> None:
    # Spellings with _ are for scripts that have them from SPDK.
    action.option_strings = [option for option in action.option_strings if "_" not in option]
    if action.choices is not None or action.nargs == 0:
        return
    names = {str(action.metavar), action.dest}
    if not _PATHS.isdisjoint(names):
        action.complete = kinds["files"]
    elif not _DIRECTORIES.isdisjoint(names):
        action.complete = kinds["directories"]
    elif action.dest == "name":
        action.complete = _NAMES


def _ftls() -> str:
    from ..client import DaemonClient

    with contextlib.suppress(FtlError):
        names = [str(each["name"]) for each in DaemonClient(timeout_s=ANSWER_TIMEOUT_S).call("ftl_get_devices")]
        # bash expands what it is given here, so nothing but a name may get there.
        return "".join(f"{name}\n" for name in names if _NAME.fullmatch(name))
    return ""
