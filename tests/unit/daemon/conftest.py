"""The rig of the registry's tests (registry_rig.py)."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest

from unit.daemon.registry_rig import World, world


@pytest.fixture
def here(tmp_path: Path) -> AbstractAsyncContextManager[World]:
    return world(tmp_path)
