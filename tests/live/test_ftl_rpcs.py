"""The RPCs of a real target's own FTL, against the table by which ours are tested (support/spdk_ftl_rpcs.py)."""

from __future__ import annotations

import json
from typing import Any

import pytest
from spdk.rpc.client import JSONRPCException

from live.spdk_target import SpdkTarget
from support.spdk_ftl_rpcs import RPCS

INVALID_PARAMETERS = -32602


def code_of(target: SpdkTarget, method: str, params: dict[str, Any]) -> int:
    """0: it was taken."""
    try:
        target.call(method, **params)
    except JSONRPCException as error:
        return int(json.loads(str(error).rpartition("response:")[2])["code"])
    return 0


def test_it_has_those_methods_and_no_others(spdk_target: SpdkTarget) -> None:
    assert {name for name in spdk_target.call("rpc_get_methods") if "_ftl_" in name} == set(RPCS)


@pytest.mark.parametrize("method", RPCS)
def test_it_takes_those_parameters_and_no_others(spdk_target: SpdkTarget, method: str) -> None:
    params, required = RPCS[method]
    assert code_of(spdk_target, method, params) != INVALID_PARAMETERS
    assert code_of(spdk_target, method, {**params, "another": 1}) == INVALID_PARAMETERS
    for name in required:
        lacking = {key: value for key, value in params.items() if key != name}
        assert code_of(spdk_target, method, lacking) == INVALID_PARAMETERS, name
