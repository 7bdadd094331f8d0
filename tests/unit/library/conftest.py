"""A reactor and drives as a script has them: a thread, real time."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager

import pytest

from spdk_ftl_py import ReactorLoop


@pytest.fixture
def reactor() -> AbstractAsyncContextManager[ReactorLoop]:
    return ReactorLoop("script")
