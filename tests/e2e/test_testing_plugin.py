"""spdk_ftl_py.testing as another project uses it: pytest runs in a folder of that project."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from support.system import surroundings

PAGE = Path(__file__).resolve().parents[2] / "docs" / "testing-your-project.md"
RUN_S = 120
PLUGIN = 'pytest_plugins = ["spdk_ftl_py.testing"]\n'


def pytest_in(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Warnings are errors. What the fixtures make goes to a folder that must be empty again."""
    temporary = folder / "t"
    temporary.mkdir(exist_ok=True)
    given = surroundings(TMPDIR=str(temporary), **environment)
    given.pop("SPDK_TGT", None)
    command = [sys.executable, "-W", "error", "-m", "pytest", "-p", "no:cacheprovider", "-rA", *arguments]
    done = subprocess.run(command, cwd=folder, env=given, capture_output=True, text=True, timeout=RUN_S, check=False)
    assert [path.name for path in temporary.iterdir() if path.name.startswith("spdk-ftl-")] == []
    return done


def example() -> tuple[str, str]:
    """The conftest.py and the tests of the page."""
    conftest, tests = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    return conftest, tests


def programs() -> set[str]:
    """Pids of all programs of ours that run."""
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if b"spdk_ftl_py.cli" in (process / "cmdline").read_bytes():
                found.add(process.name)
        except OSError:
            continue
    return found


@pytest.fixture
def project(folder: Path) -> Path:
    conftest, tests = example()
    (folder / "conftest.py").write_text(conftest, encoding="utf-8")
    (folder / "test_volume.py").write_text(tests, encoding="utf-8")
    return folder


def test_the_example_of_the_page_runs_also_side_by_side(project: Path) -> None:
    done = pytest_in(project, "-n", "2")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 passed" in done.stdout


def test_a_failure_shows_the_logs_and_leaves_nothing(folder: Path) -> None:
    (folder / "conftest.py").write_text(PLUGIN)
    (folder / "test_it.py").write_text(
        "def test_it(ftl, ftl_folder):\n"
        "    print(f'folder: {ftl_folder}')\n"
        "    pids = ftl.daemon.now.process.pid, ftl.target.now.process.pid\n"
        "    print('pids: %d %d' % pids)\n"
        "    assert ftl.device['state'] == 'nonsense'\n"
    )
    done = pytest_in(folder)
    assert done.returncode == 1, done.stdout + done.stderr
    assert re.search(r"^-+ log of the daemon -+$", done.stdout, re.MULTILINE), done.stdout
    assert "ftl0" in done.stdout.split("log of the daemon")[1]
    pids = re.findall(r"^pids: (\d+) (\d+)$", done.stdout, re.MULTILINE)[0]
    assert not set(pids) & programs()


def test_a_wrong_option_is_named_and_nothing_is_started(folder: Path) -> None:
    (folder / "conftest.py").write_text(PLUGIN)
    (folder / "test_it.py").write_text(
        "import pytest\n"
        "@pytest.mark.spdk_ftl(zone=3)\n"
        "def test_name(ftl): pass\n"
        "@pytest.mark.spdk_ftl(zone_mib=0.001)\n"
        "def test_value(ftl): pass\n"
        "@pytest.mark.spdk_ftl(3)\n"
        "def test_positional(ftl): pass\n"
    )
    done = pytest_in(folder)
    assert "3 errors" in done.stdout, done.stdout
    assert "spdk_ftl(zone=…): no such option; there are zones, zone_mib, max_open, hosts, create" in done.stdout
    assert "spdk_ftl(zone_mib=0.001): must be whole blocks of 4096 B" in done.stdout
    assert "give the options by name" in done.stdout
    assert "log of the" not in done.stdout


def test_spdk_tgt_that_is_no_program_is_named(folder: Path) -> None:
    (folder / "test_it.py").write_text("def test_it(spdk_target): pass\n")
    given = surroundings(SPDK_TGT="/no/spdk_tgt", TMPDIR=str(folder))
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "spdk_ftl_py.testing"]
    done = subprocess.run(command, cwd=folder, env=given, capture_output=True, text=True, timeout=RUN_S, check=False)
    assert done.returncode == 1
    assert "SPDK_TGT=/no/spdk_tgt is not a program" in done.stdout
    assert [path.name for path in folder.iterdir() if path.name.startswith("spdk-ftl-")] == []


def test_a_project_that_does_not_ask_for_it_has_nothing_of_it(folder: Path) -> None:
    (folder / "test_it.py").write_text(
        "import sys\ndef test_it(): assert not [name for name in sys.modules if name.startswith('spdk_ftl_py')]\n"
    )
    done = pytest_in(folder, "--strict-markers")
    assert done.returncode == 0, done.stdout + done.stderr
    listed = pytest_in(folder, "--fixtures", "-q")
    assert "spdk_target" not in listed.stdout
