"""What `import spdk_ftl_py` offers: lazily, typed, and nothing else."""

from __future__ import annotations

import ast
import importlib
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

import spdk_ftl_py
from spdk_ftl_py.cli.main import main
from support.python_page import PAGE, examples

PACKAGE: Final = Path(spdk_ftl_py.__file__).parent
WANTED: Final = (
    *("FtlDevice", "FtlConf", "ReactorLoop", "Controller", "NvmfTarget", "DaemonClient", "AsyncDaemonClient"),
    *("FtlError", "spdk_rpc_plugin_initialize", "__version__"),
)


def python(*arguments: str, cwd: Path, timeout: float = 60, **environment: str) -> subprocess.CompletedProcess[str]:
    paths = [str(PACKAGE.parent), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    return subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), **environment},
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def seen_by_type_checkers() -> dict[str, str]:
    """Module by name, as the block for them imports it."""
    tree = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    imports = [node for node in block.body if isinstance(node, ast.ImportFrom)]
    return {alias.name: str(node.module) for node in imports for alias in node.names}


def test_what_is_offered_is_there_and_is_what_type_checkers_see() -> None:
    assert set(WANTED) <= set(spdk_ftl_py.__all__)
    assert spdk_ftl_py.__all__ == sorted(spdk_ftl_py.__all__)
    typed = seen_by_type_checkers()
    assert set(typed) == set(spdk_ftl_py.__all__) - {"__version__"}
    for name, module in typed.items():
        assert getattr(spdk_ftl_py, name) is getattr(importlib.import_module(f"spdk_ftl_py.{module}"), name)


def test_nothing_else_is_offered(tmp_path: Path) -> None:
    with pytest.raises(AttributeError, match="module 'spdk_ftl_py' has no attribute 'FtlDevce'"):
        spdk_ftl_py.FtlDevce  # noqa: B018
    assert not hasattr(spdk_ftl_py, "__path_to_nowhere__")
    assert set(spdk_ftl_py.__all__) <= set(dir(spdk_ftl_py))
    done = python("-c", "from spdk_ftl_py import *; print(*sorted(globals()))", cwd=tmp_path)
    assert done.stderr == ""
    given = {name for name in done.stdout.split() if not name.startswith("__")}
    assert given == {name for name in spdk_ftl_py.__all__ if not name.startswith("__")}


@pytest.mark.parametrize("name", spdk_ftl_py.__all__)
def test_what_is_offered_has_a_docstring_of_its_own(name: str) -> None:
    offered = getattr(spdk_ftl_py, name)
    if name != "__version__":
        assert offered.__doc__
    if isinstance(offered, type):
        own = [member for member in vars(offered).items() if not member[0].startswith("_")]
        bare = [member for member, value in own if callable(value) and not (value.__doc__ or "").strip()]
        assert not bare, name


@pytest.mark.parametrize("name", [name for name in spdk_ftl_py.__all__ if not name.startswith("_")])
def test_the_page_names_what_is_offered(name: str) -> None:
    assert name == "spdk_rpc_plugin_initialize" or f"`{name}" in PAGE.read_text(encoding="utf-8")


def test_the_page_says_what_is_free_to_change() -> None:
    text = " ".join(PAGE.read_text(encoding="utf-8").split())
    assert "Names that are not offered are free to change" in text


def test_every_name_can_be_the_first(tmp_path: Path) -> None:
    """No module relies on another having been imported."""
    names = [name for name in spdk_ftl_py.__all__ if name[0].isupper() and not name.endswith("Error")]
    for name in names:
        done = python("-c", f"from spdk_ftl_py import {name}; print({name}.__name__)", cwd=tmp_path)
        assert (done.stdout, done.stderr) == (f"{name}\n", "")


# --- python -m spdk_ftl_py -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "code"), [(("--help",), 0), (("--version",), 0), (("devices", "--socket", "none"), 1), (("x",), 2)]
)
def test_the_package_can_be_run_as_the_command(
    arguments: tuple[str, ...],
    code: int,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    done = python("-m", "spdk_ftl_py", *arguments, cwd=tmp_path)
    try:
        wanted = main(arguments)
    except SystemExit as end:
        wanted = int(end.code or 0)
    told = capsys.readouterr()
    assert (done.returncode, done.stdout, done.stderr) == (wanted, told.out, told.err)
    assert done.returncode == code
    if arguments == ("--help",):
        assert done.stdout.startswith("usage: spdk-ftl ")


# --- types -----------------------------------------------------------------------------------------------------------

WRONG: Final = """\
from spdk_ftl_py import DaemonClient, FtlDevce
from spdk_ftl_py.results import Device

daemon = DaemonClient()
daemon.bdev_ftl_delete(nam="ftl0")
daemon.bdev_ftl_unmap(name="ftl0", lba="0", num_blocks=1)
daemon.bdev_ftl_create(name="ftl0", base_bdev="b", target="/t", conf={"scrub_day": 1})
print(daemon.ftl_get_daemon()["pdi"])
devices: list[Device] = daemon.bdev_ftl_scan(target="/t")
"""
WRONG_LINES: Final = [1, 5, 6, 7, 8, 9]


def test_mypy_takes_the_examples_and_finds_mistakes(tmp_path: Path) -> None:
    """The package as a user has it, by way of its py.typed."""
    pytest.importorskip("mypy", reason="mypy is there where `tox -e lint` runs this")
    for example in examples():
        (tmp_path / f"{example.name}.py").write_text(example.text, encoding="utf-8")
    (tmp_path / "wrong.py").write_text(WRONG, encoding="utf-8")
    path = {} if "site-packages" in str(PACKAGE) else {"MYPYPATH": str(PACKAGE.parent)}
    options = ("--strict", "--python-version", "3.10", "--cache-dir", str(tmp_path / "cache"))
    done = python("-m", "mypy", *options, ".", cwd=tmp_path, timeout=280, **path)
    assert done.stderr == ""
    errors = re.findall(r"^(\S+\.py):(\d+): error: ", done.stdout, re.MULTILINE)
    assert {(file, int(line)) for file, line in errors} == {("wrong.py", line) for line in WRONG_LINES}, done.stdout
    assert (PACKAGE / "py.typed").is_file()
