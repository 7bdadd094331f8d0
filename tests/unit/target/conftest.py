"""The rig of the embedded target's tests."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager

import pytest

from unit.target.target_box import Box, box


@pytest.fixture
def here() -> AbstractAsyncContextManager[Box]:
    return box()
