"""What a plan changes, and that a second time it changes nothing."""

from __future__ import annotations

import errno
import json
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from spdk_ftl_py import schema
from spdk_ftl_py.agreement import differences
from spdk_ftl_py.conf import LIMIT_NAMES, FtlConf
from spdk_ftl_py.errors import FtlError
from spdk_ftl_py.plan.apply import Outcome, apply, look
from spdk_ftl_py.plan.difference import Changes, compare
from spdk_ftl_py.plan.model import Plan, parse

NQNS = [f"nqn.2026-11.io.example:{name}" for name in "abc"]
TARGET_NQN = "nqn.2026-11.io.spdk-ftl:target:x"
UUID = "b286d19a-0059-4709-abcd-9f7732b1567d"
THRESHOLDS = st.lists(st.integers(0, 30), min_size=4, max_size=4, unique=True).map(
    lambda values: dict(zip(LIMIT_NAMES, sorted(values), strict=True))
)


def plan_of(*ftls: dict[str, Any], address: str = "/t") -> Plan:
    return parse(json.dumps({"targets": [{"address": address, "ftls": list(ftls)}]}).encode(), "p")


def ftl(**entry: Any) -> dict[str, Any]:
    return {"name": "ftl0", "base": "N0", **entry}


class FakeDaemon:
    """Does what a daemon says it does. media: the uuid of the FTL that is on each base, which nothing takes away."""

    def __init__(self, *, settable: bool = True) -> None:
        self.devices: dict[tuple[str, str], dict[str, Any]] = {}
        self.media: dict[tuple[str, str], str] = {}
        self.away: set[str] = set()
        """Bases that do not exist."""
        self.fails: dict[str, int] = {}
        """Methods that are refused, after so many calls."""
        self.calls: list[str] = []
        self._settable = settable

    def call(self, method: str, params: Any = None) -> Any:
        self.calls.append(method)
        if method in self.fails:
            self.fails[method] -= 1
            if self.fails[method] < 0:
                raise FtlError("no")
        if method in schema.methods():
            params = schema.load(method).validate(params)
        result: Any = getattr(self, method)(**params)
        return result

    def bdev_ftl_create(self, *, name: str, base_bdev: str, target: str, **params: Any) -> Any:
        assert not params["force"]
        assert (target, name) not in self.devices
        on_base = self.media.get((target, base_bdev))
        if any(each["target"] == target and each["base_bdev"] == base_bdev for each in self.devices.values()):
            raise FtlError("claimed")
        wanted = params.get("uuid") or params.get("new_uuid")
        if on_base is None and not params["load_or_create"]:
            raise FtlError("there is no such FTL on it")
        if wanted and on_base not in (None, wanted.lower()):
            raise FtlError("another FTL is on it")
        uuid = on_base or (wanted or str(uuid4())).lower()
        there = base_bdev not in self.away
        if there:
            self.media[target, base_bdev] = uuid
        attached = [] if params["no_attach"] else [{"nqn": TARGET_NQN, "is_target": True}]
        self.devices[target, name] = {
            "name": name, "target": target, "uuid": uuid, "base_bdev": base_bdev, "cache": params.get("cache"),
            "state": "online" if there else "deferred", "error": None, "waiting_for": None if there else "its base",
            "allow_any_host": params["allow_any_host"], "hosts": attached, "no_data": False,
            "secure_channel": params["secure_channel"], "params": params,
            "conf": FtlConf.from_params(params).to_dict(),
            "export": {"traddr": (params.get("listen_address") or "127.0.0.1").split(":")[0], "trsvcid": "5"},
        }  # fmt: skip
        return {"name": name, "uuid": uuid}

    def bdev_ftl_delete(self, *, name: str, target: str, force: bool) -> Any:
        assert not force
        del self.devices[target, name]
        return True

    def ftl_get_devices(self, *, target: str) -> Any:
        return [dict(device) for (its, _), device in self.devices.items() if its == target]

    def bdev_ftl_get_properties(self, *, name: str, target: str) -> Any:
        if (target, name) not in self.devices:
            raise FtlError("no such FTL", errno=errno.ENODEV)
        told = dict(self.devices[target, name])
        if told["state"] == "online":
            conf = told.pop("conf")
            told["properties"] = [
                {"name": "conf", "value": conf, "read-only": True},
                {"name": "scrub_days", "value": conf["scrub_days"], "read-only": not self._settable},
                *(
                    {"name": f"limit_{level}{suffix}", "value": None, "read-only": not self._settable}
                    for level in LIMIT_NAMES
                    for suffix in ("", "_threshold")
                ),
            ]
        return told

    def bdev_ftl_set_property(self, *, name: str, target: str, ftl_property: str, value: str) -> Any:
        conf = self.devices[target, name]["conf"]
        if ftl_property.startswith("limit_"):
            level, _, suffix = ftl_property.removeprefix("limit_").partition("_")
            conf["limits"][level]["thld" if suffix else "limit"] = int(value)
            # Also what is on the way from one to the other has to keep the rules.
            FtlConf.from_dict(conf).check()
        else:
            conf[ftl_property] = int(value)
        return True

    def bdev_ftl_add_host(self, *, name: str, target: str, host: str, **keys: str) -> Any:
        hosts = self.devices[target, name]["hosts"]
        assert all(each["nqn"] != host for each in hosts)
        hosts.append({"nqn": host, "is_target": False, **keys})
        return True

    def bdev_ftl_remove_host(self, *, name: str, target: str, host: str) -> Any:
        hosts = self.devices[target, name]["hosts"]
        assert host != TARGET_NQN
        hosts.remove(next(each for each in hosts if each["nqn"] == host))
        return True

    def bdev_ftl_allow_any_host(self, *, name: str, target: str, allow_any_host: bool) -> Any:
        self.devices[target, name]["allow_any_host"] = allow_any_host
        return True


def dry(daemon: FakeDaemon, plan: Plan, **options: Any) -> Changes:
    return compare(plan, look(daemon, plan), **options)


def must_apply(daemon: FakeDaemon, plan: Plan, **options: Any) -> Outcome:
    outcome = apply(daemon, plan, **options)
    assert not outcome.failed, outcome.to_dict()
    return outcome


# --- one by one ------------------------------------------------------------------------------------------------------


def test_parts_of_nv_cache_are_compared_each_by_itself_and_what_is_ignored_is_not() -> None:
    told = {"name": "a", "uuid": "u", "base_bdev": "B", "conf": FtlConf().to_dict(), "params": {}}
    conf = {"nv_cache.max_request_cnt": 5, "nv_cache.max_request_size": 16, "user_io_pool_size": 7}
    found = differences({"base_bdev": "B", "conf": conf}, told)
    assert [(each.name, each.has, each.wanted) for each in found] == [("conf.nv_cache.max_request_cnt", 2048, 5)]


def test_what_is_absent_is_loaded_or_created_and_its_hosts_are_let_in() -> None:
    daemon = FakeDaemon()
    plan = plan_of(ftl(hosts=[NQNS[0], {"nqn": NQNS[1], "psk": "/k"}], allow_any_host=True, overprovisioning=30))
    outcome = must_apply(daemon, plan)
    assert [step.method for step in outcome.done] == ["bdev_ftl_create", "bdev_ftl_add_host", "bdev_ftl_add_host"]
    assert outcome.done[0].params["load_or_create"] is True
    assert outcome.done[0].params["if_absent"] is True
    (device,) = daemon.devices.values()
    assert device["hosts"][2] == {"nqn": NQNS[1], "is_target": False, "psk": "/k"}
    assert device["allow_any_host"] is True
    assert not must_apply(daemon, plan).changed


def test_with_a_uuid_an_ftl_is_loaded_and_never_created() -> None:
    daemon = FakeDaemon()
    outcome = apply(daemon, plan_of(ftl(uuid=UUID)))
    assert outcome.error is not None
    assert "there is no such FTL on it" in outcome.error
    daemon.media["/t", "N0"] = UUID
    assert must_apply(daemon, plan_of(ftl(uuid=UUID.upper()))).done[0].params.get("load_or_create") is None
    assert not must_apply(daemon, plan_of(ftl(uuid=UUID))).changed


def test_applying_again_after_everything_was_lost_but_the_drives_loads_what_is_on_them() -> None:
    daemon = FakeDaemon()
    plan = plan_of(ftl())
    must_apply(daemon, plan)
    media = dict(daemon.media)
    daemon.devices.clear()
    must_apply(daemon, plan)
    assert daemon.media == media


def test_hosts_are_made_those_of_the_plan_and_left_alone_where_it_names_none() -> None:
    daemon = FakeDaemon()
    must_apply(daemon, plan_of(ftl(hosts=[NQNS[0], {"nqn": NQNS[1], "psk": "/k"}])))
    assert not must_apply(daemon, plan_of(ftl())).changed
    outcome = must_apply(daemon, plan_of(ftl(hosts=[{"nqn": NQNS[1], "psk": "/other"}, NQNS[2]])))
    assert [(step.method.removeprefix("bdev_ftl_"), step.params["host"]) for step in outcome.done] == [
        ("remove_host", NQNS[0]),
        ("remove_host", NQNS[1]),
        ("add_host", NQNS[1]),
        ("add_host", NQNS[2]),
    ]
    outcome = must_apply(daemon, plan_of(ftl(hosts=[])))
    assert len(outcome.done) == 2
    (device,) = daemon.devices.values()
    assert device["hosts"] == [{"nqn": TARGET_NQN, "is_target": True}]


def test_settings_are_changed_by_a_daemon_that_can_and_refused_by_one_that_can_not() -> None:
    for settable in (True, False):
        daemon = FakeDaemon(settable=settable)
        must_apply(daemon, plan_of(ftl(conf={"scrub_days": 7})))
        changes = dry(daemon, plan_of(ftl(conf={"scrub_days": 9}, limits={"low": 55})))
        if settable:
            assert [(step.method, step.params["ftl_property"], step.params["value"]) for step in changes.steps] == [
                ("bdev_ftl_set_property", "limit_low", "55"),
                ("bdev_ftl_set_property", "scrub_days", "9"),
            ]
            assert changes.steps[1].text == "conf.scrub_days: 7 -> 9"
        else:
            assert [
                "conf.scrub_days is 7, requested: 9; that can't be changed by this daemon" in each
                for each in changes.problems
            ] == [False, True]


@given(THRESHOLDS, THRESHOLDS)
def test_thresholds_pass_each_other_in_an_order_that_keeps_the_rules(
    before: dict[str, int], after: dict[str, int]
) -> None:
    daemon = FakeDaemon()
    must_apply(daemon, plan_of(ftl(limit_thresholds=before)))
    must_apply(daemon, plan_of(ftl(limit_thresholds=after)))
    assert not must_apply(daemon, plan_of(ftl(limit_thresholds=after))).changed


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"base": "N1"}, 'base_bdev is "N0", requested: "N1"; that can'),
        ({"cache": "C0"}, 'cache is none, requested: "C0"'),
        ({"overprovisioning": 40}, "overprovisioning is 30, requested: 40"),
        ({"attach": False}, "no_attach is false, requested: true"),
        ({"num_punits": 4}, "num_punits is 2, requested: 4"),
        ({"listen": "10.0.0.1"}, "listen_address is "),
        ({"uuid": UUID}, "uuid is "),
        ({"secure_channel": True}, "secure_channel is false"),
        ({"zone_capacity": 5}, "zone_capacity is none"),
    ],
)
def test_what_can_not_be_changed_is_an_error_before_anything_is_changed(changed: dict[str, Any], expected: str) -> None:
    daemon = FakeDaemon()
    must_apply(daemon, plan_of(ftl(overprovisioning=30, num_punits=2)))
    daemon.calls.clear()
    outcome = apply(daemon, plan_of(ftl(**changed, hosts=NQNS), ftl(name="ftl1", base="N9")))
    assert outcome.failed
    assert not outcome.changed
    assert len(outcome.changes.problems) == 1
    assert expected in outcome.changes.problems[0]
    assert outcome.changes.problems[0].startswith("p, line 1: targets[0].ftls[0]: FTL ftl0 on /t: ")
    assert set(daemon.calls) == {"ftl_get_devices", "bdev_ftl_get_properties"}


def test_what_the_plan_lacks_is_told_and_deleted_only_with_prune() -> None:
    daemon = FakeDaemon()
    must_apply(daemon, plan_of(ftl(), ftl(name="ftl1", base="N1")))
    must_apply(daemon, plan_of(ftl(), address="/other"))
    outcome = must_apply(daemon, plan_of(ftl()))
    assert (outcome.changed, outcome.changes.extra) == (False, [("/t", "ftl1")])
    # What it has, another can't have; deleted first, it can.
    renamed = plan_of(ftl(), ftl(name="ftl2", base="N1"))
    assert "FTL ftl1, which the plan lacks, uses bdev N1" in apply(daemon, renamed).changes.problems[0]
    outcome = must_apply(daemon, renamed, prune=True)
    assert [step.method for step in outcome.done] == ["bdev_ftl_delete", "bdev_ftl_create"]
    # Only on targets that the plan names.
    must_apply(daemon, plan_of(), prune=True)
    assert list(daemon.devices) == [("/other", "ftl0")]


def test_what_goes_goes_first_whatever_target_it_is_on() -> None:
    """A drive that was moved to another target has the same FTL on it, which the daemon has but once."""
    daemon = FakeDaemon()
    must_apply(daemon, plan_of(ftl(), address="/z"))
    targets = [{"address": "/a", "ftls": [ftl()]}, {"address": "/z", "ftls": []}]
    outcome = must_apply(daemon, parse(json.dumps({"targets": targets}).encode(), "p"), prune=True)
    assert [step.method for step in outcome.done] == ["bdev_ftl_delete", "bdev_ftl_create"]


def test_a_failure_half_way_is_told_and_the_next_time_goes_on() -> None:
    daemon = FakeDaemon()
    plan = plan_of(ftl(hosts=NQNS))
    daemon.fails = {"bdev_ftl_add_host": 1}
    outcome = apply(daemon, plan)
    assert outcome.error == f"ftl0 on /t: host {NQNS[1]} may connect: no"
    assert [step["done"] for step in outcome.to_dict()["steps"]] == [True, True, False, False]
    daemon.fails = {}
    assert [step.params["host"] for step in must_apply(daemon, plan).done] == NQNS[1:]
    assert not must_apply(daemon, plan).changed


def test_a_dry_run_changes_nothing() -> None:
    daemon = FakeDaemon()
    outcome = apply(daemon, plan_of(ftl(hosts=NQNS)), dry_run=True)
    assert (outcome.changed, outcome.done) == (True, [])
    assert daemon.devices == {}


def test_what_waits_for_its_base_is_no_change_and_is_told() -> None:
    daemon = FakeDaemon()
    daemon.away = {"N0"}
    plan = plan_of(ftl(conf={"scrub_days": 3}))
    assert [each["waiting_for"] for each in must_apply(daemon, plan).waiting] == ["its base"]
    outcome = must_apply(daemon, plan)
    assert (outcome.changed, len(outcome.waiting)) == (False, 1)
    problems = dry(daemon, plan_of(ftl(conf={"scrub_days": 4}))).problems
    assert "while it is deferred" in problems[0]


def test_what_has_failed_is_a_problem() -> None:
    daemon = FakeDaemon()
    must_apply(daemon, plan_of(ftl()))
    daemon.devices["/t", "ftl0"] |= {"state": "failed", "error": "its drive is gone"}
    assert dry(daemon, plan_of(ftl())).problems[0].endswith("is failed: its drive is gone; delete it first")


# --- any two plans ---------------------------------------------------------------------------------------------------

HOSTS = st.lists(
    st.one_of(
        st.sampled_from(NQNS),
        st.fixed_dictionaries({"nqn": st.sampled_from(NQNS)}, optional={"psk": st.sampled_from(["/a", "/b"])}),
    ),
    max_size=3,
    unique_by=lambda host: host if isinstance(host, str) else host["nqn"],
)
FTLS = st.fixed_dictionaries(
    {"name": st.sampled_from(["f0", "f1", "f2"]), "base": st.sampled_from(["N0", "N1", "N2"])},
    optional={
        "conf": st.fixed_dictionaries({}, optional={"scrub_days": st.integers(0, 9)}),
        "limits": st.fixed_dictionaries({}, optional={"low": st.integers(0, 100)}),
        "limit_thresholds": THRESHOLDS,
        "hosts": HOSTS,
        "allow_any_host": st.booleans(),
    },
)
PLANS = st.lists(
    st.fixed_dictionaries(
        {
            "address": st.sampled_from(["/a", "/b"]),
            "ftls": st.lists(FTLS, max_size=3, unique_by=(lambda each: each["name"], lambda each: each["base"])),
        }
    ),
    min_size=1,
    max_size=2,
    unique_by=lambda each: str(each["address"]),
).map(lambda targets: parse(json.dumps({"targets": targets}).encode(), "p"))


@given(PLANS, PLANS, st.booleans(), st.integers(0, 6))
def test_the_second_time_nothing_is_changed_and_nothing_is_ever_erased(
    before: Plan, after: Plan, prune: bool, calls_before_failure: int
) -> None:
    daemon = FakeDaemon()
    must_apply(daemon, before)
    media = dict(daemon.media)
    methods = ("bdev_ftl_create", "bdev_ftl_add_host", "bdev_ftl_set_property", "bdev_ftl_delete")
    daemon.fails = dict.fromkeys(methods, calls_before_failure)
    broken = apply(daemon, after, prune=prune)
    daemon.fails = {}
    if broken.changes.problems:
        assert broken.done == []
    outcome = apply(daemon, after, prune=prune)
    assert {base: daemon.media[base] for base in media} == media
    assume(not outcome.changes.problems)
    assert outcome.error is None
    again = apply(daemon, after, prune=prune)
    assert (again.failed, again.changed) == (False, False), again.to_dict()
    for target in after.targets:
        names = {ftl.name for ftl in target.ftls}
        there = {name for address, name in daemon.devices if address == target.address}
        assert there == names if prune else there >= names
        assert prune or {name for address, name in again.changes.extra if address == target.address} == there - names
