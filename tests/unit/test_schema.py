"""schemas/*.json and their loader: for a wrong parameter its name, its fault and what is allowed."""

from __future__ import annotations

import json

import pytest
from jsonschema import Draft202012Validator

from spdk_ftl_py import schema
from spdk_ftl_py.conf import LIMIT_NAMES, FtlConf
from spdk_ftl_py.errors import ConfError, ParameterError
from spdk_ftl_py.ignored_settings import IGNORED

GOOD = {"name": "ftl0", "base_bdev": "Nvme0n1", "target": "/var/tmp/spdk.sock"}
CREATE = schema.load("bdev_ftl_create")


@pytest.mark.parametrize("method", schema.methods())
def test_every_schema_is_valid_and_describes_every_parameter(method: str) -> None:
    rpc = schema.load(method)
    Draft202012Validator.check_schema(dict(rpc.document))
    assert rpc.document["title"] == method
    assert rpc.document["additionalProperties"] is False
    for parameter in rpc.parameters:
        assert parameter.description
        if parameter.type == "integer":
            assert parameter.minimum is not None
            assert parameter.maximum is not None
        if "pattern" in rpc.document["properties"][parameter.name]:
            assert rpc.document["properties"][parameter.name]["x-allowed"]


def test_no_two_parameters_share_a_flag() -> None:
    for method in schema.methods():
        flags = [flag for parameter in schema.load(method).parameters for flag in parameter.flags]
        assert len(flags) == len(set(flags))


def test_defaults_are_filled_in_only_by_validate() -> None:
    assert CREATE.check(GOOD) == GOOD
    checked = CREATE.validate(GOOD)
    assert checked["no_attach"] is False
    assert "uuid" not in checked
    # Of an FTL that is loaded, only what was given is to be compared with what it has.
    assert "overprovisioning" not in checked


def test_defaults_of_the_schema_are_those_of_the_conf() -> None:
    assert FtlConf.from_params(CREATE.validate(GOOD)) == FtlConf()
    conf = {entry.name: entry.default for entry in CREATE.parameter("conf").properties}
    assert FtlConf.from_params({"conf": conf}) == FtlConf()


def test_bounds_of_the_conf_in_the_schema_are_those_that_the_conf_has() -> None:
    """At each bound it is taken, beyond it both refuse it; but what has no effect only the schema does."""
    for entry in CREATE.parameter("conf").properties:
        if entry.type != "integer":
            continue
        assert entry.minimum is not None
        assert entry.maximum is not None
        step = 4096 if entry.name == "write_buffer_size" else 1
        for value in (entry.minimum, entry.maximum):
            FtlConf.from_params(CREATE.check({**GOOD, "conf": {entry.name: value}})).check()
        for value in (entry.minimum - step, entry.maximum + step):
            params = {**GOOD, "conf": {entry.name: value}}
            with pytest.raises(ParameterError):
                CREATE.check(params)
            if entry.name in IGNORED:
                assert FtlConf.from_params(params) == FtlConf()
                continue
            with pytest.raises(ConfError):
                FtlConf.from_params(params).check()


def test_whole_floats_become_integers() -> None:
    checked = CREATE.check({**GOOD, "overprovisioning": 30.0, "conf": {"band_thld": 80.0}})
    assert json.dumps([checked["overprovisioning"], checked["conf"]["band_thld"]]) == "[30, 80]"


def test_all_limits_of_the_conf_are_parameters() -> None:
    names = {parameter.name for parameter in CREATE.parameters}
    assert {f"limit_{limit}" for limit in LIMIT_NAMES} <= names
    assert {f"limit_{limit}_threshold" for limit in LIMIT_NAMES} <= names


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"name": None}, ["name (-b)", "null", "a string"]),
        ({"name": ""}, ["name (-b)", "1 to 63"]),
        ({"name": "ftl 0"}, ["name (-b)", '"ftl 0"']),
        ({"name": "ftl0\n"}, ["name (-b)"]),
        ({"name": "f" * 64}, ["name (-b)", "1 to 63"]),
        ({"base_bdev": "a\x00b"}, ["base_bdev (-d)", "control"]),
        ({"uuid": "zz"}, ["uuid (-u)", "zz", "must be a UUID such as"]),
        ({"uuid": "b286d19a-0059-4709-abcd-9f7732b1567"}, ["uuid (-u)", "must be a UUID"]),
        ({"uuid": "b286d19a00594709abcd9f7732b1567d"}, ["uuid (-u)", "must be a UUID"]),
        ({"overprovisioning": 0}, ["overprovisioning", "0", "1 to 99"]),
        ({"overprovisioning": 100}, ["overprovisioning", "100", "1 to 99"]),
        ({"overprovisioning": "20"}, ["overprovisioning", "a whole number"]),
        ({"overprovisioning": 20.5}, ["overprovisioning", "a whole number"]),
        ({"overprovisioning": True}, ["overprovisioning", "a whole number"]),
        ({"overprovisioning": 1 << 80}, ["overprovisioning", "1 to 99"]),
        ({"use_append": 1}, ["use_append", "true or false"]),
        ({"limit_crit": 101}, ["limit_crit", "101", "0 to 100"]),
        ({"limit_most": 1}, ['unknown parameter "limit_most"', "limit_start"]),
        ({"zone_capacity": 0}, ["zone_capacity", "1 to"]),
        ({"listen_address": "::1:4420:x y"}, ["listen_address", "ADDRESS:PORT"]),
        ({"target": "spdk.sock"}, ["target", "absolute path"]),
        ({"conf": {"band_thld": 0}}, ["conf.band_thld", "1 to 100"]),
        ({"conf": {"colour": 1}}, ['unknown parameter "colour" in conf', "band_thld"]),
        ({"conf": {"reloc_policy": "a b"}}, ["conf.reloc_policy", '"a b"', "greedy", "MODULE:CLASS"]),
        ({"conf": 5}, ["conf", "an object"]),
        ({"hosts": "nqn.2026-11.io.example:host"}, ["hosts (--host)", "an array"]),
        ({"hosts": ["nqn.2026-11.io.example:host", "host"]}, ["hosts.1 (--host)", '"host"', "an NQN such as"]),
        ({"hosts": ["nqn.2026-11.io.example:host\n"]}, ["hosts.0 (--host)", "an NQN such as"]),
        ({"hosts": ["nqn." + "x" * 220]}, ["hosts.0 (--host)", "an NQN such as"]),
        ({"hosts": [5]}, ["hosts.0 (--host)", "a string"]),
        ({"hosts": [f"nqn.2026-11.io.example:{i}" for i in range(256)]}, ["hosts (--host) has 256 entries", "255"]),
        ({"nonsense": [1] * 1000}, ['unknown parameter "nonsense"']),
    ],
)
def test_a_wrong_parameter_is_named_with_its_fault_and_what_is_allowed(change: dict, expected: list[str]) -> None:
    with pytest.raises(ParameterError) as caught:
        CREATE.validate({**GOOD, **change})
    assert caught.value.jsonrpc_code == -32602
    for text in ["bdev_ftl_create", *expected]:
        assert text in caught.value.message
    assert len(caught.value.message) < 600


@pytest.mark.parametrize("missing", ["name", "base_bdev", "target"])
def test_a_missing_parameter_is_named_and_explained(missing: str) -> None:
    params = {name: value for name, value in GOOD.items() if name != missing}
    with pytest.raises(ParameterError, match=f"parameter {missing}.* is missing: "):
        CREATE.validate(params)


@pytest.mark.parametrize("params", [[], "x", 5, True])
def test_params_must_be_an_object(params: object) -> None:
    with pytest.raises(ParameterError, match="must be an object of named parameters"):
        CREATE.validate(params)


def test_what_somebody_else_adds_later_may_be_missing() -> None:
    params = {"name": "ftl0", "base_bdev": "Nvme0n1"}
    assert CREATE.check(params, without=("target",)) == params
    with pytest.raises(ParameterError, match="base_bdev"):
        CREATE.check({"name": "ftl0"}, without=("target",))


def test_an_unknown_method_is_refused_with_the_list() -> None:
    with pytest.raises(ParameterError, match=r"known: bdev_ftl_add_host.*bdev_ftl_create"):
        schema.load("../pyproject")
