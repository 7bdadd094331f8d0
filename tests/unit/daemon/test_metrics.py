"""What Prometheus is told: the same as the RPCs, and what docs/monitoring.md promises."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from spdk_ftl_py.daemon.metrics import CONTENT_TYPE, DAEMON_METRICS, METRICS, Metrics
from spdk_ftl_py.errors import MediaError
from spdk_ftl_py.version import __version__
from support.generators import generator
from support.turn_meter import turn_meter
from unit.daemon.registry_rig import Daemon, World, connected, create, gate_of, write

DOCS = Path(__file__).resolve().parents[3] / "docs"
BLOCK = 4096
NAMES = {*(kind.name for kind in METRICS), *(name for name, _, _ in DAEMON_METRICS)}
Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


async def scrape(daemon: Daemon) -> Samples:
    """By name and labels, those of an FTL without what says which FTL it is."""
    reply = await daemon.registry.pages["/metrics"]({})
    assert (reply.status, reply.content_type) == (200, CONTENT_TYPE)
    samples: Samples = {}
    for family in text_string_to_metric_families(reply.body.decode()):
        for sample in family.samples:
            labels = {label: value for label, value in sample.labels.items() if label not in ("target", "uuid")}
            key = (sample.name, frozenset(labels.items()))
            assert key not in samples
            samples[key] = sample.value
    return samples


def of(samples: Samples, name: str, **labels: str) -> float:
    return samples[name, frozenset({"ftl": "ftl0", **labels}.items())]


async def test_its_numbers_are_those_of_the_statistics(here: World) -> None:
    daemon = await here.start()
    await create(here, daemon)
    await write(here, daemon, 30)
    port = gate_of(daemon)
    await port.read(0, 8)
    await port.deallocate(0, 4)
    await port.flush()
    await port.close()
    stats = await daemon.call("bdev_ftl_get_stats", name="ftl0")
    samples = await scrape(daemon)
    assert of(samples, "spdk_ftl_host_written_bytes_total") == stats["host_written_blocks"] * BLOCK == 30 * BLOCK
    assert of(samples, "spdk_ftl_host_read_bytes_total") == stats["host_read_blocks"] * BLOCK >= 8 * BLOCK
    assert of(samples, "spdk_ftl_host_trimmed_bytes_total") == stats["host_trimmed_blocks"] * BLOCK == 4 * BLOCK
    media = sum(of(samples, "spdk_ftl_media_written_bytes_total", kind=kind) for kind in ("user", "gc", "metadata"))
    assert media == stats["media_written_blocks"] * BLOCK > 30 * BLOCK
    assert of(samples, "spdk_ftl_write_amplification_ratio") == stats["write_amplification"] > 1
    assert of(samples, "spdk_ftl_free_bands") == stats["free_bands"]
    assert of(samples, "spdk_ftl_limit_free_bands") == stats["limit_free_bands"]
    for state, count in stats["bands"].items():
        assert of(samples, "spdk_ftl_bands", state=state) == count
    assert of(samples, "spdk_ftl_all_bands") == sum(stats["bands"].values())
    assert of(samples, "spdk_ftl_user_share_ratio") == stats["user_share"] / 100
    assert of(samples, "spdk_ftl_limit", limit=stats["limit"]) == 1
    assert of(samples, "spdk_ftl_lost_blocks") == stats["lost_blocks"] == 0
    assert of(samples, "spdk_ftl_throttled_seconds_total") == pytest.approx(stats["core"]["throttled_ns"] / 1e9)
    for op, latency in stats["latency"].items():
        assert of(samples, "spdk_ftl_host_latency_seconds_count", op=op) == latency["count"] > 0
        assert of(samples, "spdk_ftl_host_latency_seconds_sum", op=op) == pytest.approx(latency["sum_us"] / 1e6)
        assert of(samples, "spdk_ftl_host_latency_seconds_bucket", op=op, le="+Inf") == latency["count"]
        for bound, count in latency["buckets"]:
            assert of(samples, "spdk_ftl_host_latency_seconds_bucket", op=op, le=str(bound / 1e6)) == count
        for error, count in stats["host_errors"][op].items():
            assert of(samples, "spdk_ftl_host_errors_total", op=op, **{"class": error}) == count
    assert of(samples, "spdk_ftl_reactor_busy_seconds_total") >= stats["reactor"]["busy_us"] / 1e6 > 0
    assert of(samples, "spdk_ftl_state", state="online") == 1
    assert sum(value for (name, _), value in samples.items() if name == "spdk_ftl_state") == 1
    device = await daemon.device()
    assert of(samples, "spdk_ftl_capacity_bytes") == device["num_blocks"] * BLOCK
    assert of(samples, "spdk_ftl_info", base_bdev="Nvme0n1", cache_bdev="") == 1
    assert samples["spdk_ftl_build_info", frozenset({"version": __version__}.items())] == 1
    assert samples["spdk_ftl_devices", frozenset()] == 1
    assert samples["process_open_fds", frozenset()] > 0
    await daemon.halt()


async def test_hosts_are_counted_while_they_are_connected(here: World) -> None:
    daemon = await here.start()
    await create(here, daemon)
    assert of(await scrape(daemon), "spdk_ftl_hosts") == 0
    controller = await connected(here, daemon)
    assert of(await scrape(daemon), "spdk_ftl_hosts") == 1
    await controller.close()
    await daemon.halt()


async def test_a_scrape_asks_no_target_and_tells_of_an_ftl_that_waits(here: World) -> None:
    daemon = await here.start()
    await create(here, daemon)
    await write(here, daemon, 5)
    await here.remove_drive()
    await daemon.wait_for("waiting")
    here.line.hold()
    samples = await scrape(daemon)
    assert of(samples, "spdk_ftl_state", state="waiting") == 1
    assert of(samples, "spdk_ftl_host_gate", state="holding") == 1
    assert of(samples, "spdk_ftl_host_latency_seconds_count", op="write") == 5
    assert ("spdk_ftl_free_bands", frozenset({("ftl", "ftl0")})) not in samples
    here.line.release()
    await daemon.halt()


async def test_errors_that_hosts_see_are_counted_by_class(here: World) -> None:
    daemon = await here.start()
    await create(here, daemon)
    daemon.managed().front.fail()
    port = gate_of(daemon)
    with pytest.raises(MediaError):
        await port.write(0, bytes(BLOCK))
    await port.close()
    samples = await scrape(daemon)
    assert of(samples, "spdk_ftl_host_errors_total", op="write", **{"class": "gone"}) == 1
    assert of(samples, "spdk_ftl_host_gate", state="failing") == 1
    await daemon.halt()


async def test_a_daemon_without_ftls_tells_of_itself(here: World) -> None:
    daemon = await here.start()
    samples = await scrape(daemon)
    assert samples["spdk_ftl_devices", frozenset()] == 0
    assert not [name for name, labels in samples if dict(labels).get("ftl")]
    await daemon.halt()


async def test_many_ftls_do_not_hold_up_the_event_loop(here: World) -> None:
    """64 of them. Their text is written in a thread."""
    daemon = await here.start()
    await create(here, daemon)
    metrics = Metrics(lambda: [daemon.managed()] * 64)
    await metrics.page({})
    async with turn_meter() as meter:
        reply = await metrics.page({})
    assert reply.body.count(b"spdk_ftl_all_bands{") == 64
    assert meter.turns > 8
    assert meter.longest_s < 0.1, f"{meter.longest_s * 1000:.0f} ms"
    await daemon.halt()


# --- names -----------------------------------------------------------------------------------------------------------


def test_names_follow_the_conventions_of_prometheus() -> None:
    assert len(NAMES) == len(METRICS) + len(DAEMON_METRICS)
    for kind in METRICS:
        assert re.fullmatch(r"spdk_ftl_[a-z_]+[a-z]", kind.name)
        assert kind.name.endswith("_total") is (kind.type == "counter"), kind.name
        assert kind.text
        assert not kind.text.endswith(".")
        assert not re.search(r"_(ms|us|ns|mib|kib|percent)(_|$)", kind.name)
        # Those of a histogram's samples.
        assert not kind.name.endswith(("_count", "_sum", "_bucket"))


def named_in(expression: str) -> set[str]:
    return {re.sub(r"_(bucket|count|sum)$", "", name) if base(name) in NAMES else name for name in words(expression)}


def base(name: str) -> str:
    return re.sub(r"_(bucket|count|sum)$", "", name)


def words(expression: str) -> list[str]:
    return re.findall(r"\bspdk_ftl_\w+", expression)


def test_the_page_has_every_metric_as_the_collector_has_it() -> None:
    page = (DOCS / "monitoring.md").read_text(encoding="utf-8")
    assert generator("generate_metrics").generate(page) == page
    assert {base(name) if name not in NAMES else name for name in words(page)} <= NAMES | {base(name) for name in NAMES}


def test_alert_rules_name_metrics_and_labels_that_exist() -> None:
    rules = yaml.safe_load((DOCS / "monitoring" / "alerts.yml").read_text(encoding="utf-8"))
    alerts = [rule for group in rules["groups"] for rule in group["rules"]]
    assert len(alerts) > 10
    assert len({rule["alert"] for rule in alerts}) == len(alerts)
    for rule in alerts:
        assert named_in(rule["expr"]), rule
        check(rule["expr"])
        assert rule["labels"]["severity"] in ("critical", "warning", "info")
        assert rule["annotations"]["summary"]


def test_the_dashboard_names_metrics_and_labels_that_exist() -> None:
    board: dict[str, Any] = json.loads((DOCS / "monitoring" / "grafana-dashboard.json").read_text(encoding="utf-8"))
    panels = [panel for panel in board["panels"] if panel["type"] != "row"]
    assert len(panels) > 15
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    for panel in panels:
        for target in panel["targets"]:
            assert words(target["expr"]) or "process_" in target["expr"]
            check(target["expr"])
            labels = set(re.findall(r"{{(\w+)}}", target["legendFormat"]))
            known = {"ftl", "target", "uuid", "instance"}
            for name in named_in(target["expr"]):
                known |= {*LABELS[name]}
            assert labels <= known, panel["title"]
    for variable in board["templating"]["list"]:
        check(str(variable["query"]))


LABELS = {kind.name: kind.labels for kind in METRICS} | {name: labels for name, _, labels in DAEMON_METRICS}


def check(expression: str) -> None:
    """Each name is one of the collector's, and is asked for labels that it has; state values exist."""
    for name, selector in re.findall(r"\b(spdk_ftl_\w+)(?:{([^}]*)})?", expression):
        known = name if name in NAMES else base(name)
        assert known in NAMES, name
        for label in re.findall(r"(\w+)\s*(?:=~|!=|!~|=)", selector):
            assert label in ("ftl", "target", "uuid", "job", "le", *LABELS[known]), (name, label)
