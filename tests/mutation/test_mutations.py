"""The crash machine can fail: it notices every one of these defects, and nothing without them."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

import spdk_ftl_py
from mutation.mutations import CROSSING_MUTATIONS, FORGERY, MUTATIONS, RECORDS, Edit, Mutation
from spdk_ftl_py import _shim
from spdk_ftl_py.torture.run import CRASHES_PER_WORLD

PACKAGE = Path(spdk_ftl_py.__file__).parent
CHECKOUT = Path(__file__).resolve().parents[2]
SEED = 20261122
CHOSEN_ENV = "SPDK_FTL_MUTATION"
IN_SHIM = {*(mutation.name for mutation in MUTATIONS if mutation.in_shim), *RECORDS, *CROSSING_MUTATIONS}

pytestmark = pytest.mark.timeout(900)  # the first waits for the build


def mutant(edits: Sequence[Edit], shim: Path, folder: Path) -> Path:
    """A copy of the package with another shim, and with some edits. Its byte code comes along, but for what is edited:
    two processes for each mutation would compile all of it."""
    package = folder / PACKAGE.name
    shutil.copytree(PACKAGE, package, ignore=shutil.ignore_patterns("_shim.*.so"))
    (package / shim.name).symlink_to(shim)
    for name, before, after in edits:
        path = package / name
        text = path.read_text()
        assert text.count(before) == 1, f"{name} has no longer what is edited: {before}"
        path.write_text(text.replace(before, after))
        Path(importlib.util.cache_from_source(str(path))).unlink(missing_ok=True)
    return folder


@pytest.fixture(scope="session")
def mutants(mutated_shim: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Sequence[Edit]], Path]:
    """As mutant(), but of what has the same edits there is one: each copy costs time, and controls of the same folder
    can be forked (support/forks.py)."""
    made: dict[tuple[Edit, ...], Path] = {}

    def of(edits: Sequence[Edit]) -> Path:
        if (key := tuple(edits)) not in made:
            made[key] = mutant(key, mutated_shim, tmp_path_factory.mktemp("mutant"))
        return made[key]

    return of


def torture(folder: Path, arguments: Sequence[str], mutation: str = "") -> dict[str, Any]:
    report = folder / "report.json"
    report.unlink(missing_ok=True)
    done = subprocess.run(
        [sys.executable, "-m", "spdk_ftl_py.cli", "torture", "--plain", "--json", str(report), *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder), CHOSEN_ENV: mutation},
        capture_output=True,
        text=True,
    )
    assert report.exists(), done.stderr
    values: dict[str, Any] = json.loads(report.read_text())
    assert done.returncode == (1 if values["violations"] else 0), done.stderr
    return values


def noticed(mutation: Mutation, folder: Path, chosen: str) -> dict[str, Any]:
    """The report of a run that may notice it: in the world in which it was last, else in all of them."""
    # Two classes of bands in every world, unless the mutation is about more.
    classes = () if "--classes" in mutation.options else ("--classes", "2")
    run = ("--seed", str(SEED), *classes, *mutation.options)
    if mutation.world is not None:
        values = torture(folder, (*run, "--world", str(mutation.world), "--crashes", str(CRASHES_PER_WORLD)), chosen)
        if values["violations"]:
            return values
        print(f"{mutation.name}: no longer in world {mutation.world}: give the one it was found in now")
    values = torture(folder, (*run, "--crashes", str(mutation.crashes)), chosen)
    print(f"{mutation.name}: {values.get('replay')}")
    return values


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_torture_notices(mutation: Mutation, mutants: Callable[[Sequence[Edit]], Path]) -> None:
    """And finds nothing in the same world, to the same crash and beyond, without it: else that were no proof."""
    folder = mutants((*mutation.edits, *mutation.setting))
    chosen = mutation.name if mutation.in_shim else ""
    values = noticed(mutation, folder, chosen)
    assert values["violations"] > 0, f"{mutation.name} went unnoticed through {values['crashes']} crashes"
    program, command, *arguments = shlex.split(values["replay"])
    assert (program, command) == ("spdk-ftl", "torture")
    control = torture(mutants(mutation.setting), arguments)
    assert control["crashes"] > 0
    assert control["violations"] == 0, control["found"]


@pytest.mark.parametrize("chosen", [*RECORDS, ""])
def test_a_kill_at_every_instruction_notices(chosen: str, mutated_shim: Path, tmp_path: Path) -> None:
    """Without a defect it notices nothing."""
    folder = mutant((), mutated_shim, tmp_path)
    done = run_tests(folder, "shim/vfio_user/test_record_steps.py", "any_instruction", chosen)
    assert done.returncode == (1 if chosen else 0), done.stdout + done.stderr


@pytest.mark.parametrize("edits", [FORGERY.edits, ()], ids=[FORGERY.name, ""])
def test_a_forged_header_notices(edits: Sequence[Edit], mutated_shim: Path, tmp_path: Path) -> None:
    """Without the defect it notices nothing."""
    folder = mutant(edits, mutated_shim, tmp_path)
    done = run_tests(folder, "ftl/load/test_forged_headers.py", "does_not_know", "")
    assert done.returncode == (1 if edits else 0), done.stdout + done.stderr


def run_tests(folder: Path, name: str, which: str, chosen: str) -> subprocess.CompletedProcess[str]:
    """Unit tests of that file with the mutant in that folder, and with that defect of the shim."""
    return subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider"),
            *(str(CHECKOUT / "tests" / "unit" / name), "-k", which),
        ],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder), CHOSEN_ENV: chosen},
        capture_output=True,
        text=True,
    )


def test_every_defect_of_the_shim_is_in_the_list() -> None:
    sources = [*CHECKOUT.glob("shim/*/*.cpp"), *CHECKOUT.glob("shim/*/*.hpp")]
    there = {name for path in sources for name in re.findall(r"MUTATED\((\w+)\)", path.read_text())} - {"name"}
    assert there == IN_SHIM


def test_the_product_has_none_of_them(mutated_shim: Path) -> None:
    """Neither the variable nor a name: MUTATED() is a constant there."""
    assert CHOSEN_ENV.encode() in mutated_shim.read_bytes()
    product = Path(str(_shim.__file__)).read_bytes()
    assert CHOSEN_ENV.encode() not in product
    assert not [name for name in IN_SHIM if name.encode() in product]


def test_the_documentation_lists_them() -> None:
    text = (CHECKOUT / "docs" / "testing.md").read_text()
    names = [*(mutation.name for mutation in (*MUTATIONS, FORGERY)), *RECORDS, *CROSSING_MUTATIONS]
    missing = [name for name in names if f"`{name}`" not in text]
    assert not missing, f"docs/testing.md does not list {missing}"
