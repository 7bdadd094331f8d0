"""Wrong usage of a command line, whatever the machine's state: types for argparse, which reports it as "usage: … error:
argument --x: …" and exits with 2."""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, TypeVar

from .access.unix_sockets import PATH_BYTES_MAX
from .errors import ParameterError

DIGITS_MAX: Final = 20
UID_MAX: Final = (1 << 32) - 2
_HOST_NAME: Final = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*\.?")

T = TypeVar("T")


def parsed(parse: Callable[[str], T], *, without: str = "") -> Callable[[str], T]:
    """A type that returns what parse() makes of the text. A ParameterError becomes the error of the argument.

    without: the beginning of messages that argparse repeats.
    """

    def convert(given: str) -> T:
        try:
            return parse(given)
        except ParameterError as error:
            raise argparse.ArgumentTypeError(error.message.removeprefix(without)) from None

    return convert


@contextlib.contextmanager
def refusing(parser: argparse.ArgumentParser, option: str = "") -> Iterator[None]:
    """For rules on several arguments together: a ParameterError ends the program like wrong usage does."""
    try:
        yield
    except ParameterError as error:
        parser.error(f"argument {option}: {error.message}" if option else error.message)


def text(given: str) -> str:
    # An empty value usually is an unset variable of a script.
    if not given:
        raise argparse.ArgumentTypeError("an empty value")
    return given


def path(given: str) -> Path:
    # An empty path would be the current directory.
    if not given:
        raise argparse.ArgumentTypeError("an empty path")
    return Path(given)


def socket_path(given: str) -> Path:
    """The path of a unix socket."""
    size = len(os.fsencode(os.path.abspath(path(given))))
    if size > PATH_BYTES_MAX:
        raise argparse.ArgumentTypeError(
            f"a path of {size} bytes: the address of a unix socket has room for {PATH_BYTES_MAX}; use a shorter "
            "directory"
        )
    return Path(given)


def socket_name(given: str) -> str:
    """The path of a unix socket, as a string."""
    socket_path(given)
    return given


def host_name(given: str) -> str:
    """The name of a machine, as it stands in a URL."""
    if not _HOST_NAME.fullmatch(given):
        raise argparse.ArgumentTypeError(f"{given!r}: must be a host name such as storage1.example.com, without a port")
    return given


def account(given: str) -> str:
    """The name or number of a user or group. Whether it exists depends on the machine."""
    text(given)
    if given.isdecimal() and (len(given) > DIGITS_MAX or int(given) > UID_MAX):
        raise argparse.ArgumentTypeError(
            f"{given[:DIGITS_MAX]!r} is not the number of a user or group: at most {UID_MAX}"
        )
    if ":" in given or "/" in given:
        raise argparse.ArgumentTypeError(f"{given!r} is not the name of a user or group")
    return given


def whole(least: int, most: int | None = None) -> Callable[[str], int]:
    """A whole number within bounds."""
    allowed = f"at least {least}" if most is None else f"{least} to {most}"

    def convert(given: str) -> int:
        digits = given.removeprefix("-")
        if not (digits.isascii() and digits.isdigit()) or len(digits) > DIGITS_MAX:
            raise argparse.ArgumentTypeError(f"{given[:40]!r} is not a whole number: must be {allowed}")
        value = int(given)
        if value < least or (most is not None and value > most):
            raise argparse.ArgumentTypeError(f"{given}: must be {allowed}")
        return value

    return convert


def seconds(given: str) -> float:
    """0 or more."""
    try:
        value = float(given)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{given!r} is not a number of seconds")
    return value


def some_seconds(given: str) -> float:
    """More than 0."""
    value = seconds(given)
    if value == 0:
        raise argparse.ArgumentTypeError(f"{given}: must be more than 0")
    return value


def commands_of(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """The parsers of its subcommands, by name, including aliases."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    return {}


def values_of(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    """Its options and positional arguments that take a value, except those with a list of choices."""
    return [
        action
        for action in parser._actions
        if action.nargs != 0 and action.choices is None and not isinstance(action, argparse.BooleanOptionalAction)
    ]


def refuse_empty(parser: argparse.ArgumentParser) -> None:
    """Refuses empty values for arguments without a type of their own."""
    for action in values_of(parser):
        if action.type is None or action.type is str:
            action.type = text


def show(action: argparse.Action) -> str:
    """As argparse names it in its errors."""
    return "/".join(action.option_strings) or str(action.metavar or action.dest)
