"""Imports and includes point one way (docs/architecture.md, "Rooms"), and never round in a circle.

Run with -s to see what was looked at.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

import spdk_ftl_py
from support.layers import Rooms, Tree, cycles, include_tree, python_tree, upward

PACKAGE: Final = Path(__file__).resolve().parents[2] / "spdk_ftl_py"
CHECKOUT: Final = PACKAGE.parent
ROOT_NAME: Final = spdk_ftl_py.__name__

BASE: Final = {"version", "errors", "text", "time_limit"}
CONTROL: Final = {*BASE, "_shim", "access", "runtime"}
CONF: Final = {"conf", "ignored_settings"}
NVME: Final = {"nvme", "nvme/auth", "nvme/host", "nvme/target"}
VFIO_USER: Final = {"vfio_user", "vfio_user/target", "vfio_user/host"}
FTL: Final = {"ftl/media", "ftl/load", "ftl/cache", "ftl/policy", "ftl/gc", "ftl"}

ROOMS: Rooms = {
    "version": set(),
    "errors": set(),
    "text": set(),
    "time_limit": set(),
    "_shim": set(),
    "ignored_settings": set(),
    "conf": {*BASE, "ignored_settings"},
    "agreement": {*BASE, "conf"},
    "schema": BASE,
    "strict_json": BASE,
    "rates": set(),
    "outputs": BASE,
    "pictures": {*BASE, "outputs"},
    "access": BASE,
    "usage": {*BASE, "access"},
    "workers": {*BASE, "usage"},
    "runtime": {*BASE, "_shim"},
    "nvme": CONTROL,
    "nvme/auth": BASE,
    "nvme/host": {*CONTROL, "nvme", "nvme/auth"},
    "nvme/target": {*CONTROL, "nvme", "nvme/auth"},
    "vfio_user": BASE,
    "vfio_user/target": {*CONTROL, "nvme", "nvme/auth", "nvme/target", "vfio_user"},
    "vfio_user/host": {*CONTROL, "nvme", "nvme/host", "vfio_user"},
    "nbd": CONTROL,
    "ftl/media": {*CONTROL, "conf", "nvme"},
    "ftl/load": {*CONTROL, "conf", "nvme", "ftl/media"},
    "ftl/cache": {*CONTROL, "conf", "nvme", "ftl/media", "ftl/load"},
    "ftl/policy": {*BASE, "_shim", "conf"},
    "ftl/gc": {*CONTROL, "conf", "nvme", "ftl/media", "ftl/load", "ftl/policy"},
    "ftl": {*CONTROL, *CONF, "nvme", "ftl/media", "ftl/load", "ftl/cache", "ftl/policy", "ftl/gc"},
    "spdk": {*BASE, "access", "runtime"},
    "checked_session": set(),
    "results": set(),
    "rpcs": {"results"},
    "client": {*BASE, "access", "checked_session", "rpcs"},
    "async_client": {"client", "rpcs", "time_limit"},
    "library": {*CONTROL, "nbd", "conf", "results", "rpcs", *NVME, *VFIO_USER, *FTL},
    "daemon": {
        *CONTROL,
        "usage",
        *CONF,
        "agreement",
        "schema",
        "strict_json",
        "rates",
        *NVME,
        *VFIO_USER,
        "nbd",
        *FTL,
        "spdk",
        "client",
    },
    "target": {*CONTROL, "usage", *NVME, *VFIO_USER, "nbd"},
    "demo": {*CONTROL, "usage", "outputs", "conf", *NVME, *FTL, "spdk", "client", "daemon", "target"},
    "torture": {
        *CONTROL,
        "usage",
        "outputs",
        "workers",
        "conf",
        *NVME,
        *FTL,
        "spdk",
        "client",
        "daemon",
        "target",
        "demo",
    },
    "simulate": {*CONTROL, "usage", "pictures", "outputs", "workers", "conf", *FTL},
    "under_test": {*BASE, "results", "client"},
    "bench": {*CONTROL, "usage", "pictures", "outputs", "client", "nvme", "nvme/host", "results", "under_test"},
    "testing": {*BASE, "under_test"},
    "plugin": {*BASE, "client", "schema"},
    "plan": {*BASE, "agreement", "schema", "client"},
    "cli": {
        *BASE,
        "usage",
        "conf",
        "client",
        "rates",
        "schema",
        "plugin",
        "plan",
        "bench",
        "daemon",
        "target",
        "demo",
        "torture",
        "simulate",
    },
    "__main__": {"cli"},
    "__init__": {*BASE, "plugin", "client", "async_client", "conf", "runtime", "library", "ftl/policy"},
}
"""Of the package. ``ftl`` and ``target`` know no daemon, the two sides of NVMe/TCP not each other. What __init__ offers
it imports when it is asked for; its arrows are those that type checkers see (test_face.py compares)."""

SHIM_ROOMS: Rooms = {
    "base": set(),
    "reactor": {"base"},
    "nvme/zns": set(),
    "nvme": {"base", "reactor", "nvme/zns"},
    "nbd": {"base", "reactor"},
    "vfio_user": {"base", "reactor", "nvme"},
    "media": {"base", "reactor", "nvme/zns"},
    "virtual": {"base", "reactor"},
    "ftl": {"base", "reactor", "nvme/zns"},
    "load": {"base", "reactor"},
    "sim": {"base", "ftl"},
    "generated": {"base", "reactor", "media", "ftl"},
    "bind": {
        *("base", "reactor", "nvme/zns", "nvme", "nbd", "vfio_user", "media", "virtual", "ftl", "load", "sim"),
        "generated",
    },
    "fuzz": {"base", "reactor", "nvme", "nbd", "vfio_user", "media", "ftl"},
}
"""Of shim/ and fuzz/. Neither the media nor the FTL knows what carries an Io; what zones look like all do."""


@pytest.fixture(scope="module")
def package() -> Tree:
    return python_tree(PACKAGE)


@pytest.fixture(scope="module")
def shim() -> Tree:
    return include_tree(CHECKOUT / "shim", CHECKOUT / "fuzz")


# --- the package -----------------------------------------------------------------------------------------------------


def test_no_module_imports_itself_by_way_of_others(package: Tree) -> None:
    print(package)
    assert len(package.arrows) > len(package.files) > 100
    assert not cycles(package)


def test_imports_point_down(package: Tree) -> None:
    print(package, f"in {len(ROOMS)} rooms")
    assert not upward(package, ROOMS)


def test_the_init_of_a_folder_imports_nothing(package: Tree) -> None:
    """Else it would be imported with each of its modules. The package's own is its public face."""
    inits = [path for path in sorted(PACKAGE.rglob("__init__.py")) if path.parent != PACKAGE]
    assert len(inits) > 10
    assert not [path for path in inits if len(ast.parse(path.read_text(encoding="utf-8")).body) > 1]


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        (ROOT_NAME, ("argparse", "importlib.util", f"{ROOT_NAME}.client", f"{ROOT_NAME}.plugin")),
        (f"{ROOT_NAME}.plugin", ("numpy", "aiohttp", "jsonschema", "requests", "rich", f"{ROOT_NAME}._shim")),
        (f"{ROOT_NAME}.async_client", ("numpy", "aiohttp", "jsonschema", "requests", "rich", f"{ROOT_NAME}._shim")),
        (
            f"{ROOT_NAME}.target.rpc_plugin",
            ("numpy", "aiohttp", "jsonschema", "requests", "rich", f"{ROOT_NAME}._shim"),
        ),
        (f"{ROOT_NAME}.cli.main", ("numpy", "aiohttp", "jsonschema", "requests", "rich", f"{ROOT_NAME}._shim")),
        (
            f"{ROOT_NAME}.vfio_user.target.keeper",
            ("numpy", "asyncio", "aiohttp", "argparse", "logging", f"{ROOT_NAME}._shim"),
        ),
        (f"{ROOT_NAME}.ftl.loading", (f"{ROOT_NAME}.daemon", f"{ROOT_NAME}.spdk", "aiohttp", "requests")),
    ],
)
def test_what_is_loaded_often_is_light(module: str, absent: tuple[str, ...]) -> None:
    show = f"print(*(name for name in {absent!r} if name in sys.modules))"
    program = f"import sys; sys.path[:] = {sys.path!r}; import {module}; {show}"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split() == []


# --- the shim --------------------------------------------------------------------------------------------------------


def test_no_file_of_the_shim_includes_itself_by_way_of_others(shim: Tree) -> None:
    print(shim)
    assert len(shim.arrows) > len(shim.files) > 60
    assert not shim.lost
    assert not cycles(shim)


def test_includes_point_down(shim: Tree) -> None:
    print(shim, f"in {len(SHIM_ROOMS)} rooms")
    assert not upward(shim, SHIM_ROOMS)


# --- the list in docs/architecture.md --------------------------------------------------------------------------------


def test_the_rooms_of_the_architecture_are_those_of_the_tree(package: Tree, shim: Tree) -> None:
    """Every file is named in the list."""
    text = (CHECKOUT / "docs" / "architecture.md").read_text(encoding="utf-8")
    rooms = text.split("## Rooms")[1].split("## ")[0]
    files = [*package.files, *(f"shim/{name}" for name in shim.files if not name.startswith(("bind/", "fuzz/")))]
    stems = {file: file.rpartition("/")[2].partition(".")[0] for file in files}
    assert not [
        file
        for file, stem in stems.items()
        if stem not in ("__init__", "__main__") and not re.search(rf"\b{stem}\b", rooms)
    ]


# --- the checker finds what is wrong ---------------------------------------------------------------------------------


def write(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return folder


SMALL: Final = {
    "pkg/__init__.py": '"""The face."""\nfrom .top import run\n',
    "pkg/base.py": "import os\nVALUE = os.sep\n",
    "pkg/low/__init__.py": "",
    "pkg/low/one.py": "from ..base import VALUE\n",
    "pkg/low/two.py": "from . import one\n",
    "pkg/top.py": "from .low.two import one\n\ndef run() -> None:\n    import pkg.low.one\n",
}
SMALL_ROOMS: Final[Rooms] = {"base": set(), "low": {"base"}, "top": {"base", "low"}, "__init__": {"top"}}


def test_a_tree_in_order_passes(tmp_path: Path) -> None:
    tree = python_tree(write(tmp_path, SMALL) / "pkg")
    assert str(tree) == "pkg: 6 files, 5 arrows"
    assert {(arrow.source, arrow.target) for arrow in tree.arrows} == {
        ("__init__", "top"),
        ("low/one", "base"),
        ("low/two", "low/one"),
        ("top", "low/two"),
        ("top", "low/one"),
    }
    assert not cycles(tree)
    assert not upward(tree, SMALL_ROOMS)


@pytest.mark.parametrize(
    "closing",
    [
        "from .two import one\n",
        "import pkg.low.two\n",
        "def late() -> None:\n    from . import two\n",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from .two import one\n",
        "from importlib import import_module\nTWO = import_module('pkg.low.two')\n",
    ],
    ids=["plainly", "absolutely", "late", "for-types", "by-name"],
)
def test_an_import_cycle_is_found(tmp_path: Path, closing: str) -> None:
    tree = python_tree(write(tmp_path, SMALL | {"pkg/low/one.py": closing}) / "pkg")
    assert cycles(tree) == ["low/one -> low/two -> low/one"]


def test_what_comes_from_the_init_counts_as_an_import_of_it(tmp_path: Path) -> None:
    tree = python_tree(write(tmp_path, SMALL | {"pkg/base.py": "from . import __version__\n"}) / "pkg")
    assert cycles(tree)[0] == "__init__ -> top -> low/one -> base -> __init__"
    assert upward(tree, SMALL_ROOMS) == ["base:1 -> __init__: base may not use __init__"]


def test_an_upward_import_is_found(tmp_path: Path) -> None:
    tree = python_tree(write(tmp_path, SMALL | {"pkg/low/three.py": "import os\nfrom .. import top\n"}) / "pkg")
    assert not cycles(tree)
    assert upward(tree, SMALL_ROOMS) == ["low/three:2 -> top: low may not use top"]


def test_a_module_in_no_room_is_found(tmp_path: Path) -> None:
    tree = python_tree(write(tmp_path, SMALL | {"pkg/new/thing.py": ""}) / "pkg")
    assert upward(tree, SMALL_ROOMS) == ["new/thing is in no room"]


def test_a_table_that_is_not_in_order_is_found(tmp_path: Path) -> None:
    tree = python_tree(write(tmp_path, SMALL) / "pkg")
    assert upward(tree, {**SMALL_ROOMS, "base": {"top"}}) == ["base stands above top in the table"]


SMALL_SHIM: Final = {
    "shim/base/clock.hpp": "#include <cstdint>\n",
    "shim/io/port.hpp": '#pragma once\n#include "base/clock.hpp"\n',
    "shim/io/port.cpp": '#include "io/port.hpp"\n',
    "fuzz/peer.hpp": '#include "io/port.hpp"\n',
    "fuzz/port.cpp": '#include "peer.hpp"\n',
}
SMALL_SHIM_ROOMS: Final[Rooms] = {"base": set(), "io": {"base"}, "fuzz": {"io"}}


def small_shim(folder: Path, changes: dict[str, str]) -> Tree:
    write(folder, SMALL_SHIM | changes)
    return include_tree(folder / "shim", folder / "fuzz")


def test_a_shim_in_order_passes(tmp_path: Path) -> None:
    tree = small_shim(tmp_path, {})
    assert str(tree) == "shim: 5 files, 4 arrows"
    assert not tree.lost
    assert not cycles(tree)
    assert not upward(tree, SMALL_SHIM_ROOMS)


def test_an_include_cycle_is_found(tmp_path: Path) -> None:
    tree = small_shim(tmp_path, {"shim/base/clock.hpp": '\n# include "io/port.hpp"\n'})
    assert cycles(tree) == ["base/clock.hpp -> io/port.hpp -> base/clock.hpp"]


def test_an_upward_include_is_found(tmp_path: Path) -> None:
    tree = small_shim(tmp_path, {"shim/base/clock.cpp": '#include "base/clock.hpp"\n#include "io/port.hpp"\n'})
    assert not cycles(tree)
    assert upward(tree, SMALL_SHIM_ROOMS) == ["base/clock.cpp:2 -> io/port.hpp: base may not use io"]


def test_one_file_of_a_folder_can_be_a_room(tmp_path: Path) -> None:
    tree = small_shim(tmp_path, {"shim/base/clock.cpp": '#include "io/port.hpp"\n'})
    rooms = {"io/port": {"base"}, "base": {"io/port"}}
    assert upward(tree, {"base": set(), "io/port": {"base"}, "fuzz": {"io/port"}}) == [
        "base/clock.cpp:1 -> io/port.hpp: base may not use io/port"
    ]
    assert "io/port stands above base in the table" in upward(tree, rooms)


def test_an_include_of_nothing_is_found(tmp_path: Path) -> None:
    tree = small_shim(tmp_path, {"shim/base/clock.hpp": '#include "gone.hpp"\n'})
    assert tree.lost == ("base/clock.hpp:1 includes gone.hpp, which is not there",)
