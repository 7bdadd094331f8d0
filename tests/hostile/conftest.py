"""Fixtures of the attacks: a daemon that other tests share, since what one peer did must not be seen by the next."""

from __future__ import annotations

import resource
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from hostile.honest_host import ZNS, World
from support.processes import Daemon, target_process


@pytest.fixture
def folder() -> Iterator[Path]:
    """Short: the paths of sockets may have 107 characters at most."""
    with tempfile.TemporaryDirectory(prefix="spdk-ftl-") as path:
        yield Path(path)


@pytest.fixture(params=[0], ids=[""])
def world(request: pytest.FixtureRequest, folder: Path) -> Iterator[World]:
    """Parametrized indirectly: how many files the daemon may have open; 0: as many as we."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    with target_process(folder, "--zns", ZNS) as target:
        target.call("nvmf_create_transport", trtype="TCP")
        if request.param:
            resource.setrlimit(resource.RLIMIT_NOFILE, (request.param, limits[1]))
        try:
            daemon = Daemon(folder)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        with daemon:
            yield World(daemon, target, folder)
        assert daemon.process.returncode == 0, f"no clean halt\n{daemon.log_tail()}"
