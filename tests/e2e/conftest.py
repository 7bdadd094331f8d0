"""Fixtures of the end-to-end tests: every program a process of its own."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.processes import EmbeddedTarget, target_process
from support.spdk_clients import RELEASES


@pytest.fixture
def folder() -> Iterator[Path]:
    """Short: the paths of sockets may have 107 characters at most."""
    with tempfile.TemporaryDirectory(prefix="spdk-ftl-") as path:
        yield Path(path)


@pytest.fixture
def target(folder: Path) -> Iterator[EmbeddedTarget]:
    """An embedded target without any bdev."""
    with target_process(folder) as process:
        yield process


@pytest.fixture(params=RELEASES)
def release(request: pytest.FixtureRequest) -> str:
    """Each of the client releases we promise to work with."""
    return str(request.param)
