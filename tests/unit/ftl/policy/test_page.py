"""docs/policies.md: its policy is used as a reader does it, and its table is complete."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import spdk_ftl_py
from spdk_ftl_py.conf import DEFAULT_RELOC_POLICY, RELOC_POLICIES
from spdk_ftl_py.ftl.policy.registry import make_policy

from .tables import around

PACKAGE = Path(spdk_ftl_py.__file__).resolve().parent  # the installed one: a checkout may have no shim
PAGE = (Path(__file__).resolve().parents[4] / "docs" / "policies.md").read_text(encoding="utf-8")
LINES_MAX = 30
RUN_S = 90


def section(title: str) -> str:
    (found,) = re.findall(rf"^## {re.escape(title)}$(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    return str(found)


def run(*command: str, folder: Path, path: Path) -> str:
    done = subprocess.run(
        [sys.executable, *command],
        env={**os.environ, "PYTHONPATH": os.pathsep.join((str(PACKAGE.parent), str(path)))},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=RUN_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_policy_of_the_page_is_installed_and_used(tmp_path: Path) -> None:
    blocks = re.findall(r"^```(\w+)\n(.*?)^```$", section("How to write a policy"), re.MULTILINE | re.DOTALL)
    assert [kind for kind, _ in blocks] == ["toml", "python", "python"]
    (_, pyproject), (_, policy), (_, script) = blocks
    assert len(policy.splitlines()) <= LINES_MAX
    # What `pip install .` makes of it. A build would need the network, or a build backend in each test environment.
    ((name, table),) = re.findall(r'^\[project.entry-points."(.*?)"\]\n(.*?)\n\n', pyproject, re.MULTILINE | re.DOTALL)
    site = tmp_path / "site"
    information = site / "coldest-1.0.dist-info"
    information.mkdir(parents=True)
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: coldest\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text(f"[{name}]\n{table}\n".replace('"', ""))
    (site / "coldest.py").write_text(policy)
    (tmp_path / "try_it.py").write_text(script)
    said = run("-W", "error", str(tmp_path / "try_it.py"), folder=tmp_path, path=site)
    assert re.fullmatch(r"coldest:least=5: write amplification [1-9]\.\d+\n", said), said


def test_the_page_lists_each_policy_with_its_parameters() -> None:
    rows = re.findall(r"^\| `(\w+)`( \(default\))? .*\| ([^|]+) \|$", section("The policies that ship"), re.MULTILINE)
    assert sorted(name for name, _, _ in rows) == list(RELOC_POLICIES)
    assert [name for name, default, _ in rows if default] == [DEFAULT_RELOC_POLICY]
    for name, _, parameters in rows:
        given = re.findall(r"`(\w+=\w+)`", parameters)
        assert bool(given) == (parameters != "–")
        make_policy(":".join([name, *given]), around())
