"""The tests of crossings can fail: they notice each of these defects. Torture with --cores must notice others
(test_mutations.py)."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mutation.mutations import CROSSING_MUTATIONS
from mutation.test_mutations import CHECKOUT, CHOSEN_ENV, mutant

TESTS = "tests/unit/shim/reactor/test_crossing.py"
NOT_THREADED = "not threads"

# Without the end of the interpreter: a queue that lost a completion waits for it there for 30 s.
PROGRAM = "import os, sys, pytest; code = pytest.main(sys.argv[1:]); sys.stdout.flush(); os._exit(code)"

pytestmark = pytest.mark.timeout(900)


def run(folder: Path, mutation: str) -> subprocess.CompletedProcess[str]:
    arguments = ("-x", "-q", "-p", "no:cacheprovider", "-c", str(CHECKOUT / "pyproject.toml"), "-k", NOT_THREADED)
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments, str(CHECKOUT / TESTS)],
        cwd=folder,  # python -c looks there first
        env={**os.environ, "PYTHONPATH": str(folder), CHOSEN_ENV: mutation, "PYTEST_ADDOPTS": "--timeout 100"},
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize("name", CROSSING_MUTATIONS)
def test_the_tests_of_crossings_notice(name: str, mutated_shim: Path, tmp_path: Path) -> None:
    folder = mutant((), mutated_shim, tmp_path / "mutant")
    done = run(folder, name)
    # Also a crash.
    assert done.returncode == 1 or done.returncode < 0, (
        f"{CROSSING_MUTATIONS[name]}\n{done.stdout[-2000:]}{done.stderr}"
    )


def test_they_find_nothing_without_them(mutated_shim: Path, tmp_path: Path) -> None:
    done = run(mutant((), mutated_shim, tmp_path / "mutant"), "")
    assert done.returncode == 0, done.stdout[-2000:]
