"""Plans: what is in them, and where the fault is in those that are none."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from spdk_ftl_py import schema
from spdk_ftl_py.errors import ParameterError
from spdk_ftl_py.plan.document import PlanError, read
from spdk_ftl_py.plan.model import HostPlan, Plan, parse, plan_schema

ROOT = Path(__file__).resolve().parents[3]
UUID = "b286d19a-0059-4709-abcd-9f7732b1567d"
NQN = "nqn.2026-11.io.example:host"


def plan_of(*ftls: dict[str, Any], **target: Any) -> Plan:
    return parse(json.dumps({"targets": [{"address": "/t", **target, "ftls": list(ftls)}]}).encode(), "p")


def ftl(**entry: Any) -> dict[str, Any]:
    return {"name": "ftl0", "base": "Nvme0n1", **entry}


def test_the_example_is_a_plan() -> None:
    (target,) = parse((ROOT / "docs" / "examples" / "plan.yaml").read_bytes(), "plan.yaml").targets
    assert target.address == "/var/tmp/spdk.sock"
    one, two = target.ftls
    assert one.params == {
        "name": "ftl0",
        "base_bdev": "Nvme0n1",
        "cache": "Cache0",
        "overprovisioning": 25,
        "conf": {"write_buffer_size": 8 << 20, "scrub_days": 7},
    }
    assert one.hosts is not None
    assert one.hosts[1] == HostPlan("nqn.2026-11.com.example:backup", {})
    assert two.params["zone_capacity"] == 192
    assert two.hosts == ()
    assert two.allow_any_host is None


def test_the_schema_is_one_and_no_rpc() -> None:
    Draft202012Validator.check_schema(plan_schema())
    assert "plan" not in schema.methods()
    page = (ROOT / "docs" / "provisioning.md").read_text(encoding="utf-8")
    for part in ("target", "ftl", "host"):
        for key in plan_schema()["$defs"][part]["properties"]:
            assert f"`{key}`" in page, key


def test_every_parameter_of_a_creation_is_in_a_plan_or_left_out_on_purpose() -> None:
    here = set(plan_schema()["$defs"]["ftl"]["properties"])
    names = {"base_bdev": "base", "listen_address": "listen", "no_attach": "attach"}
    of_rpc = {names.get(each.name, each.name) for each in schema.load("bdev_ftl_create").parameters}
    limits = {name for name in of_rpc if name.startswith("limit_")}
    terms = {"force", "without_cache", "no_data", "load_or_create", "if_absent", "wait", "target", "engine"}
    of_hosts = {"dhchap_key", "dhchap_ctrlr_key", "psk"}
    without_effect = {"core_mask", "fast_shutdown"}
    in_conf = {"l2p_dram_limit"}
    assert here - {"limits", "limit_thresholds"} == of_rpc - limits - terms - of_hosts - without_effect - in_conf


def test_what_a_plan_says_is_what_the_rpc_is_asked() -> None:
    (target,) = plan_of(
        ftl(
            limits={"low": 30}, limit_thresholds={"crit": 1}, attach=False, zone_capacity="1MiB", listen="[::1]:4420",
            allow_any_host=True, use_append=True, new_uuid=UUID, target_psk="/k",
        )
    ).targets  # fmt: skip
    assert target.ftls[0].params == {
        "name": "ftl0", "base_bdev": "Nvme0n1", "limit_low": 30, "limit_crit_threshold": 1, "no_attach": True,
        "zone_capacity": 256, "listen_address": "[::1]:4420", "use_append": True, "new_uuid": UUID, "target_psk": "/k",
    }  # fmt: skip
    assert target.ftls[0].allow_any_host is True


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ({"colour": 1}, r"targets\[0\].ftls\[0\].colour: unknown key: use one of name, base, cache"),
        ({"force": True}, "never erases"),
        ({"no_data": True}, "gone when the daemon"),
        ({"without_cache": True}, "never gives up a cache"),
        ({"engine": "native"}, "a plan has only FTLs of the daemon"),
        ({"name": None}, "name: is null: must be text"),
        ({"name": "a b"}, r'name is "a b": must be 1 to 63'),
        ({"base": 5}, "base: is 5: must be text"),
        ({"base": ""}, "base is .* must be a bdev's name"),
        ({"overprovisioning": 0}, "overprovisioning is 0: must be 1 to 99"),
        ({"overprovisioning": True}, "overprovisioning: is true: must be a whole number"),
        ({"uuid": "x"}, "uuid is .* must be a UUID"),
        ({"uuid": UUID, "new_uuid": UUID}, "give only one of them"),
        ({"uuid": "00000000-0000-0000-0000-000000000000"}, "nil UUID"),
        ({"conf": {"colour": 1}}, 'unknown parameter "colour" in conf; known: invalid_thld'),
        ({"conf": {"write_buffer_size": "6 MB"}}, r"write_buffer_size: is '6 MB': must be a size such as 6MiB"),
        ({"conf": {"write_buffer_size": "1TiB"}}, r"conf.write_buffer_size is 1099511627776: must be 32768 to"),
        ({"conf": {"nv_cache.max_request_cnt": 0}}, r"conf.nv_cache.max_request_cnt is 0: must be 1 to 65536"),
        ({"conf": {"band_thld": [1]}}, r"conf.band_thld: is \[1\]: must be a whole number or text"),
        ({"zone_capacity": "192"}, "without quotation marks"),
        ({"zone_capacity": "1000B"}, "multiple of 4096"),
        ({"zone_capacity": 0}, "zone_capacity is 0: must be 1 to"),
        ({"limits": {"most": 1}}, "limits.most: unknown key: use one of crit, high, low, start"),
        ({"limits": {"low": 101}}, "limit_low is 101: must be 0 to 100"),
        ({"listen": "x y"}, "listen is .* ADDRESS:PORT"),
        ({"hosts": [NQN, NQN]}, r"hosts\[1\]: host .* is given twice"),
        ({"hosts": ["host"]}, r'hosts\[0\]: nqn is "host": must be an NQN'),
        ({"hosts": [{"psk": "/k"}]}, r"hosts\[0\]: lacks nqn"),
        ({"hosts": [{"nqn": NQN, "psk": "k"}]}, "psk: must be the absolute path of a key file"),
        ({"hosts": [{"nqn": NQN, "dhchap_ctrlr_key": "/k"}]}, "give dhchap_key too"),
        ({"hosts": [5]}, r"hosts\[0\]: is 5: must be text or a mapping"),
        ({"cache": "Nvme0n1"}, "cache: bdev Nvme0n1 is already the base of ftl0"),
    ],
    ids=lambda value: json.dumps(value)[:40] if isinstance(value, dict) else "",
)
def test_a_fault_in_a_plan_is_named_with_its_place(entry: dict[str, Any], expected: str) -> None:
    with pytest.raises(PlanError, match=expected) as caught:
        plan_of(ftl(**entry))
    assert caught.value.message.startswith("p, line 1: targets[0].ftls[0]")
    assert "bdev_ftl" not in caught.value.message
    assert "(-" not in caught.value.message


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "is empty"),
        ("a: [", "line 1: is not YAML"),
        ("targets: []", "targets: has 0 entries: at least 1"),
        ("[]", r"is \[\]: must be a mapping"),
        ("version: 2\ntargets: [{ftls: []}]", "line 1: version: is 2, but this release supports 1"),
        ("targets:\n  - ftls: []\n    ftls: []", r"line 3: targets\[0\].ftls: is given twice"),
        ("targets:\n  - address: a\n    ftls: []\n  - address: ./a\n    ftls: []", "line 4: .*is twice in the plan"),
        ("targets:\n  - address: ''\n    ftls: []", "line 2: .*an empty address"),
        ("targets:\n  - {}", r"line 2: targets\[0\]: lacks ftls"),
        ("1: 2", "has the key '1': keys must be text"),
        ("? [a]\n: b", "keys must be text"),
        ("targets: 2026-11-29", "is a date: to use it as text, put it in quotation marks"),
        ("targets: !!python/object:os.system x", "is not YAML"),
        ("targets: !!binary aGk=", "is a bytes"),
        ("a: *b", "is not YAML"),
        ("a: &a [*a]", "nested too deeply|is not YAML"),
        ("a: 'x\x07'", "is not YAML"),
        ("---\na: 1\n---\nb: 2", "is not YAML"),
        ("[" * 2000, "is not YAML|too deeply"),
        ("[" * 40 + "]" * 40, "too deeply"),
    ],
)  # fmt: skip
def test_what_is_no_plan_is_refused_with_the_line(text: str, expected: str) -> None:
    with pytest.raises(PlanError, match=expected):
        parse(text.encode(), "p")


def test_two_ftls_may_not_share_name_bdev_or_uuid() -> None:
    with pytest.raises(PlanError, match=r"ftls\[1\].name: FTL ftl0 is on this target twice"):
        plan_of(ftl(), ftl(base="Nvme1n1"))
    with pytest.raises(PlanError, match="bdev Nvme0n1 is already the base of ftl0"):
        plan_of(ftl(), ftl(name="ftl1"))
    with pytest.raises(PlanError, match="bdev C0 is already the cache of ftl0"):
        plan_of(ftl(cache="C0"), ftl(name="ftl1", base="N", cache="C0"))
    with pytest.raises(PlanError, match=f"ftl0 on /t has uuid {UUID} too"):
        plan_of(ftl(uuid=UUID), ftl(name="ftl1", base="N", new_uuid=UUID.upper()))
    two = {"targets": [{"address": "/a", "ftls": [ftl()]}, {"address": "/b", "ftls": [ftl()]}]}
    assert len(parse(json.dumps(two).encode(), "p").targets) == 2


def test_aliases_are_expanded_as_far_as_is_reasonable() -> None:
    text = "targets:\n- ftls:\n  - {name: a, base: b, conf: &c {scrub_days: 3}}\n  - {name: c, base: d, conf: *c}\n"
    (target,) = parse(text.encode(), "p").targets
    assert [each.params["conf"] for each in target.ftls] == [{"scrub_days": 3}] * 2
    laughs = "\n".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9) if i else 'lol'}]" for i in range(12))
    with pytest.raises(PlanError, match="aliases counted in full"):
        parse(laughs.encode(), "p")


def test_a_plan_that_is_too_large_is_refused() -> None:
    with pytest.raises(PlanError, match="has more than 4194304 bytes"):
        parse(b"#" * ((4 << 20) + 1), "p")


def refusal(text: bytes) -> str | None:
    """Any other exception fails the test."""
    try:
        parse(text, "p")
    except ParameterError as error:
        return error.message
    return None


@given(st.binary(max_size=200))
def test_no_bytes_make_anything_but_a_plan_or_a_refusal(text: bytes) -> None:
    told = refusal(text)
    assert told is None or told.startswith("p")


WORDS = st.sampled_from(
    [*plan_schema()["$defs"]["ftl"]["properties"], "targets", "ftls", "address", "nqn", "force", "x", "6MiB", NQN, UUID]
)
SCALARS = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), WORDS, st.text(max_size=8))
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(WORDS, inner, max_size=4)),
    max_leaves=12,
)


@given(st.dictionaries(WORDS, VALUES, max_size=5))
def test_nonsense_in_an_ftl_is_refused_with_its_place(entry: dict[str, Any]) -> None:
    document = {"targets": [{"address": "/t", "ftls": [{"name": "ftl0", "base": "b", **entry}]}]}
    text = json.dumps(document).encode()
    told = refusal(text)
    if told is not None:
        assert re.match(r"p, line 1: targets\[0\]|p(, line 1)?: is no YAML", told), told
    else:
        (ftl_plan,) = parse(text, "p").targets[0].ftls
        schema.load("bdev_ftl_create").check({**ftl_plan.params, "target": "/t"})


def test_lines_are_those_of_the_file() -> None:
    document = read(b"a:\n  b: 1\n  c:\n    - 2\n    - {d: 3}\n", "p")
    assert document.where(("a", "c", 1, "d")) == "p, line 5: a.c[1].d"
    assert document.where(("a", "c")) == "p, line 3: a.c"
    assert document.where(("a", "c", 1, "d", "e")) == "p, line 5: a.c[1].d.e"
