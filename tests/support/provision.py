"""Scripts of docs/, run as they stand."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import sysconfig
from pathlib import Path

DOCS = Path(__file__).resolve().parents[2] / "docs"
RUN_S = 280


def provision(folder: Path, run_s: float = RUN_S, script: str = "provision.sh", **environment: str) -> str:
    """What it printed; it has to succeed, and to leave nothing. folder: for all that it makes."""
    programs = folder / "bin"
    programs.mkdir()
    # The package under test, whether or not it is installed.
    for name, arguments in (("spdk-ftl", "-m spdk_ftl_py.cli "), ("python3", "")):
        (programs / name).write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} {arguments}"$@"\n')
        (programs / name).chmod(0o755)
    work = folder / "work"
    work.mkdir()
    path = os.pathsep.join([str(programs), sysconfig.get_path("scripts"), os.environ["PATH"]])
    paths = [os.path.abspath(each) for each in os.environ.get("PYTHONPATH", "").split(os.pathsep) if each]
    given = {name: value for name, value in os.environ.items() if name not in ("SPDK_TGT", "ZNS_PCI", "PORT")}
    with (folder / "log").open("w") as log:
        done = subprocess.run(
            ["bash", str(DOCS / script)],
            env={**given, "PATH": path, "PYTHONPATH": os.pathsep.join(paths), "WORK": str(work), **environment},
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            timeout=run_s,
            check=False,
        )
    told = (folder / "log").read_text()
    assert done.returncode == 0, told
    assert not work.exists(), told
    return told


def in_order(told: str, *steps: str) -> bool:
    """Whether each stands in it, behind the one before."""
    behind = 0
    for step in steps:
        found = told.find(step, behind)
        if found < 0:
            return False
        behind = found + len(step)
    return True
