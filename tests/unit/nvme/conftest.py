"""The rig of the tests that connect."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager

import pytest

from support.async_tests import rig_options
from unit.nvme.nvme_loop import Bench, bench


@pytest.fixture
def here(request: pytest.FixtureRequest) -> AbstractAsyncContextManager[Bench]:
    return bench(**rig_options(request))
