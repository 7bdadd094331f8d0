"""SPDK_TGT=/path/to/spdk_tgt names the real target; without it everything here skips, loudly."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from live.spdk_target import SpdkTarget

PROGRAM_ENV = "SPDK_TGT"


@pytest.fixture(scope="session")
def spdk_program() -> str:
    program = os.environ.get(PROGRAM_ENV)
    if not program:
        pytest.skip(
            f"NOTHING TESTED ON A REAL TARGET: name one, e.g. {PROGRAM_ENV}=/usr/local/bin/spdk_tgt tox -e live"
        )
    found = shutil.which(program)
    if found is None:
        pytest.fail(f"{PROGRAM_ENV}={program} is not a program", pytrace=False)
    return str(Path(found).absolute())


@pytest.fixture
def folder() -> Iterator[Path]:
    """Short: the paths of sockets may have 107 characters at most."""
    with tempfile.TemporaryDirectory(prefix="spdk-ftl-") as path:
        yield Path(path)


@pytest.fixture
def spdk_target(spdk_program: str, folder: Path) -> Iterator[SpdkTarget]:
    with SpdkTarget(spdk_program, folder) as target:
        yield target
