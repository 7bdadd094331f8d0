"""Builds the shim with its mutations once; SPDK_FTL_MUTATION_BUILD names a directory where it is kept."""

from __future__ import annotations

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
    kept = os.environ.get(BUILD_ENV)
    build = Path(kept) if kept else tmp_path_factory.mktemp("shim")
    scripts = Path(sys.executable).parent
    environment = {**os.environ, "PATH": f"{scripts}:{os.environ['PATH']}"}
    for command in (
        [
            *("cmake", "-S", str(CHECKOUT), "-B", str(build), "-G", "Ninja", "-DCMAKE_BUILD_TYPE=Release"),
            *("-DSHIM_MUTATIONS=ON", f"-DPython_EXECUTABLE={sys.executable}"),
        ],
        ["cmake", "--build", str(build)],
    ):
        assert shutil.which(command[0], path=environment["PATH"]), f"{command[0]} is missing: pip install cmake ninja"
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    (shim,) = build.glob("_shim.*.so")
    return shim
