"""Builds the shim with its mutations, once for all workers.

SPDK_FTL_MUTATION_BUILD names a directory where it is kept.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]
BUILD_ENV = "SPDK_FTL_MUTATION_BUILD"


@pytest.fixture(scope="session")
def mutated_shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The extension with -DSHIM_MUTATIONS=ON."""
    if kept := os.environ.get(BUILD_ENV):
        build = Path(kept)
    else:
        # pytest-xdist gives each worker a folder of its own below that of the run.
        base = tmp_path_factory.getbasetemp()
        build = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "shim"
    build.mkdir(parents=True, exist_ok=True)
    with (build / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return _built(build)


def _built(build: Path) -> Path:
    scripts = Path(sys.executable).parent
    environment = {**os.environ, "PATH": f"{scripts}:{os.environ['PATH']}"}
    for command in (
        [
            *("cmake", "-S", str(CHECKOUT), "-B", str(build), "-G", "Ninja", "-DCMAKE_BUILD_TYPE=Release"),
            *("-DSHIM_MUTATIONS=ON", "-DSHIM_WERROR=ON", f"-DPython_EXECUTABLE={sys.executable}"),
        ],
        ["cmake", "--build", str(build)],
    ):
        assert shutil.which(command[0], path=environment["PATH"]), f"{command[0]} is missing: pip install cmake ninja"
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    (shim,) = build.glob("_shim.*.so")
    return shim
