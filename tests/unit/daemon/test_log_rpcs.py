"""ftl_set_log_level: what it changes, and what ftl_get_daemon says of it."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from spdk_ftl_py import schema
from spdk_ftl_py.daemon.log_rpcs import LogRpcs
from spdk_ftl_py.errors import ParameterError
from spdk_ftl_py.runtime.logs import LogLevels


@pytest.fixture(autouse=True)
def _levels() -> Iterator[None]:
    loggers = [logging.getLogger(name) for name in (None, "asyncio", "spdk_ftl_py.ftl.gc", "spdk_ftl_py.audit")]
    before = [(each, each.level) for each in loggers]
    yield
    for each, level in before:
        each.setLevel(level)


async def call(rpcs: LogRpcs, **params: str) -> dict[str, object]:
    method = rpcs.methods["ftl_set_log_level"]
    answer: dict[str, object] = await method(schema.load("ftl_set_log_level").validate(params))
    return answer


async def test_it_changes_the_log_and_says_so() -> None:
    rpcs = LogRpcs(LogLevels("warning"))
    subject = logging.getLogger("spdk_ftl_py.ftl.gc.manager")
    assert await call(rpcs, level="debug", subject="ftl.gc") == rpcs.describe()
    assert rpcs.describe() == {"log_level": "warning", "log_subjects": {"ftl.gc": "debug"}, "audit_log": None}
    assert subject.isEnabledFor(logging.DEBUG)
    assert not logging.getLogger("spdk_ftl_py.daemon").isEnabledFor(logging.INFO)
    assert (await call(rpcs, level="info"))["log_level"] == "info"
    await call(rpcs, level="default", subject="ftl.gc")
    await call(rpcs, level="default")
    assert rpcs.describe() == {"log_level": "warning", "log_subjects": {}, "audit_log": None}
    assert not subject.isEnabledFor(logging.INFO)


@pytest.mark.parametrize("subject", ["ftl.nothing", "os", "nonsense"])
async def test_a_subject_that_there_is_not_is_refused(subject: str) -> None:
    rpcs = LogRpcs(LogLevels())
    with pytest.raises(ParameterError, match="there is no such subject"):
        await call(rpcs, level="debug", subject=subject)
    assert rpcs.describe()["log_subjects"] == {}


async def test_orders_that_go_to_a_file_can_not_be_switched_off() -> None:
    rpcs = LogRpcs(LogLevels(), audit_log="/var/log/audit")
    with pytest.raises(ParameterError, match="all orders go to /var/log/audit"):
        await call(rpcs, level="error", subject="audit")
    assert (await call(rpcs, level="error"))["audit_log"] == "/var/log/audit"
    # In the log they have a level like anything else.
    rpcs = LogRpcs(LogLevels())
    await call(rpcs, level="error", subject="audit")
    assert not logging.getLogger("spdk_ftl_py.audit").isEnabledFor(logging.INFO)
