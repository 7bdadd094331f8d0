"""Arguments made from schemas/*.json, checked one by one when they are parsed. The daemon would refuse the same values,
but a value that can't be right anywhere is wrong usage."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Mapping
from typing import Any, Final
from uuid import UUID

from .. import schema
from ..conf import FtlConf
from ..errors import ParameterError
from ..usage import parsed

_NAMED: Final = re.compile(r"^(listen address |\S+( \(\S+\))? is )")
_WHOLE: Final = re.compile(r"-?[0-9]{1,30}")
_LIMIT_PAIRS: Final = {"limits": "", "limit_thresholds": "_threshold"}


def parameter(rpc: schema.RpcSchema, name: str, convert: Callable[[str], Any] = str) -> Callable[[str], Any]:
    """A type for argparse: a value of that parameter (for an array: one entry), as convert() makes it."""
    listed = rpc.parameter(name).type == "array"

    def check(given: str) -> Any:
        # int() takes digits of any script, and underscores.
        value = given if convert is int and _WHOLE.fullmatch(given) is None else convert(given)
        try:
            _check(rpc, {name: [value] if listed else value})
        except ParameterError as error:
            # argparse names it.
            raise ParameterError(_NAMED.sub("", error.message, count=1)) from None
        return value

    return parsed(check)


def check_arguments(parser: argparse.ArgumentParser, rpc: schema.RpcSchema) -> None:
    """The parameters in the arguments that plugin.add_arguments() has added."""
    names = {each.name for each in rpc.parameters if each.flags and each.type != "boolean"}
    for action in parser._actions:
        convert: Any = action.type
        if action.dest in names:
            action.type = parameter(rpc, action.dest, convert or str)
        elif action.dest in _LIMIT_PAIRS:
            action.type = _pairs(rpc, convert, "limit_{}" + _LIMIT_PAIRS[action.dest])
        elif action.dest == "conf":
            action.type = _pairs(rpc, convert, "")


def check_together(rpc: schema.RpcSchema, params: Mapping[str, Any]) -> None:
    """All parameters, including those of conf. Raises ParameterError."""
    rpc.check(dict(params))
    _check_conf(rpc, params)
    if rpc.method == "bdev_ftl_create":
        _check_terms(params)
    if rpc.method == "bdev_ftl_set_uuid":
        _check_new_uuid(params)
    if rpc.method == "bdev_ftl_set_property":
        from ..daemon.settings import given

        given(params["ftl_property"], params["value"])

    if params.get("engine") == "native":
        from ..daemon.native_options import native_params

        try:
            native_params(rpc.method, params)
        except ParameterError as error:
            raise ParameterError(error.message.removeprefix(f"{rpc.method}: ")) from None


def _check_new_uuid(params: Mapping[str, Any]) -> None:
    new = params.get("new_uuid")
    _check_nil(new)
    if new is not None and UUID(new) == UUID(params["uuid"]):
        raise ParameterError("argument --new-uuid: is the same as -u: choose another, or leave it out")


def _check_terms(params: Mapping[str, Any]) -> None:
    """The same rules as Terms.take() of the daemon, with the names of options."""
    new, given = params.get("new_uuid"), params.get("uuid")
    _check_nil(new)
    if new is not None and given is not None and UUID(given).int:
        raise ParameterError("-u loads an FTL, --new-uuid creates one: give only one of them")
    if params.get("load_or_create"):
        if params.get("force"):
            raise ParameterError("--force erases the base, --load-or-create never does: give only one of them")
        if params.get("no_data"):
            raise ParameterError("an FTL made with --no-data can't be loaded again: leave --load-or-create out")


def _check_nil(new: str | None) -> None:
    if new is not None and not UUID(new).int:
        raise ParameterError(
            "argument --new-uuid: is the nil UUID, which no FTL can have: choose another, or leave it out"
        )


def _check_conf(rpc: schema.RpcSchema, params: Mapping[str, Any]) -> None:
    if rpc.method == "bdev_ftl_create":
        FtlConf.from_params(params).check()


def _pairs(rpc: schema.RpcSchema, convert: Any, name: str) -> Callable[[str], Any]:
    """For NAME=VALUE,...: the parameter is `name` with NAME for {}; if `name` is empty, NAME is a member of conf."""

    def check(given: str) -> Any:
        pairs = convert(given)
        for key, value in pairs:
            _check(rpc, {name.format(key): value} if name else {"conf": {key: value}})
        return pairs

    return parsed(check)


def _check(rpc: schema.RpcSchema, params: dict[str, Any]) -> None:
    try:
        rpc.check(params, without=[each.name for each in rpc.parameters if each.required])
    except ParameterError as error:
        raise ParameterError(error.message.removeprefix(f"{rpc.method}: ")) from None
    _check_conf(rpc, params)
    address = params.get("listen_address")
    if address is not None:
        from ..daemon.checks import split_address

        split_address(address)
