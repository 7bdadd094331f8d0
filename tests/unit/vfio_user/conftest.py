"""The rig of the tests that attach."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest

from support.async_tests import rig_options
from unit.vfio_user.rig import Rig, rig


@pytest.fixture
def folder() -> Iterator[Path]:
    """With a short path, because those of sockets are short."""
    made = Path(tempfile.mkdtemp(prefix="vfu-"))
    yield made
    shutil.rmtree(made)


@pytest.fixture
def here(request: pytest.FixtureRequest, folder: Path) -> AbstractAsyncContextManager[Rig]:
    return rig(folder, **rig_options(request))
