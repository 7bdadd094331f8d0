#!/usr/bin/env python3
"""Writes packaging/man/spdk-ftl.1 from the parsers of the commands; run it after an option has changed.

Formatted here, not by argparse, whose format differs from one Python to the next. tests/unit/test_docs.py compares.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from spdk_ftl_py.cli.main import build_parser
from spdk_ftl_py.usage import commands_of
from spdk_ftl_py.version import __version__

PAGE = Path(__file__).resolve().parent.parent / "packaging" / "man" / "spdk-ftl.1"
DEFAULTS = {
    "state_dir": "/var/lib/spdk-ftl for root, $XDG_STATE_HOME/spdk-ftl or ~/.local/state/spdk-ftl for others",
    "buffer_dir": "/dev/shm/spdk-ftl-UID",
}
"""Of options whose default depends on who asks."""


def generate() -> str:
    """The page as it should be."""
    parser = build_parser()
    lines = [
        f'.TH SPDK-FTL 1 "" "spdk-ftl {__version__}" "User Commands"',
        ".\\\" Made by docs/generate_man.py; don't edit.",
        ".SH NAME",
        "spdk-ftl \\- flash translation layer for zoned bdevs of a live SPDK target",
        ".SH SYNOPSIS",
        ".B spdk-ftl",
        "COMMAND [OPTION]...",
        ".SH DESCRIPTION",
        *_text(parser.description),
        *_literal(parser.epilog),
        ".SH COMMANDS",
    ]
    told: dict[int, str] = {}
    commands = commands_of(parser)
    for name, command in commands.items():
        if id(command) not in told:
            told[id(command)] = name
            aliases = [other for other in commands if commands[other] is command and other != name]
            lines += _command(name, aliases, command)
    lines += [
        ".SH FILES",
        "/run/spdk-ftl/spdk-ftl.sock, /var/lib/spdk-ftl, /dev/shm/spdk-ftl-UID: control socket, state and write",
        "buffers of root's daemon.",
        ".SH SEE ALSO",
        "The documentation in docs/, docs/spdk-ftl.md first.",
    ]
    return "\n".join(lines) + "\n"


def _command(name: str, aliases: list[str], parser: argparse.ArgumentParser) -> list[str]:
    lines = [f".SS {_escaped(' | '.join([name, *aliases]))}"]
    lines += _literal(parser.description) if "\n  " in (parser.description or "") else _text(parser.description)
    for action in parser._actions:
        if action.help == argparse.SUPPRESS or "--help" in action.option_strings:
            continue
        default = DEFAULTS.get(action.dest, action.default)
        told = (action.help or "") % {**vars(action), "default": default, "prog": parser.prog}
        lines += [".TP", f".B {_escaped(_shown(action))}", *_text(told)]
    return lines + _literal(parser.epilog)


def _shown(action: argparse.Action) -> str:
    value = ""
    if action.nargs != 0 and not isinstance(action, argparse.BooleanOptionalAction):
        choices = "|".join(map(str, action.choices or ()))
        value = str(action.metavar or choices or (action.dest.upper() if action.option_strings else action.dest))
    names = ", ".join(option for option in action.option_strings if "_" not in option)
    return " ".join(filter(None, (names, value)))


def _text(text: str | None) -> list[str]:
    return [_line(line) for line in (text or "").strip().splitlines()]


def _literal(text: str | None) -> list[str]:
    return [".PP", ".nf", *_text(text), ".fi"] if text else []


def _line(line: str) -> str:
    # At the beginning of a line these would be orders.
    return re.sub(r"^([.'])", r"\\&\1", _escaped(line))


def _escaped(text: str) -> str:
    return text.replace("\\", "\\e").replace("-", "\\-")


def main() -> None:
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(generate(), encoding="utf-8")


if __name__ == "__main__":
    main()
