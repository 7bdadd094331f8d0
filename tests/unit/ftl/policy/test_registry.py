"""Policies by name: shipped, installed as an entry point, or MODULE:CLASS."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from spdk_ftl_py.conf import DEFAULT_RELOC_POLICY
from spdk_ftl_py.errors import ConfError
from spdk_ftl_py.ftl.policy.guard import Guard
from spdk_ftl_py.ftl.policy.registry import find_class, make_policy

from .tables import around

MODULES = {
    "minepkg/__init__.py": "",
    "minepkg/good.py": """
from spdk_ftl_py import Policy

class Mine(Policy):
    def __init__(self, surroundings, share=1, fast=False, name="x"):
        super().__init__(surroundings)
        self.given = share, fast, name

class Broken(Policy):
    def __init__(self, surroundings):
        raise OSError("no tea\\x1b[2J")

class Leaves(Policy):
    def __init__(self, surroundings):
        raise SystemExit(0)

class Other:
    pass

class Disguised(Policy):
    def __new__(cls, surroundings):
        return Other()

value = 5
""",
    "minepkg/bad.py": "1 / 0\n",
    "minepkg/leaves.py": "raise SystemExit(4)\n",
    "minepkg/wants.py": "import no_such_library\n",
    "mine-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: mine\nVersion: 1.0\n",
    "mine-1.0.dist-info/entry_points.txt": (
        "[spdk_ftl_py.policies]\nmine = minepkg.good:Mine\nbroken-mine = minepkg.bad:Mine\n"
        "no_policy = minepkg.good:Other\ngreedy = minepkg.good:Mine\n"
    ),
}


@pytest.fixture(autouse=True)
def _installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name, text in MODULES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    yield
    for name in [name for name in sys.modules if name.partition(".")[0] == "minepkg"]:
        del sys.modules[name]


def test_a_class_is_named_by_its_module_or_its_entry_point() -> None:
    for name in ("minepkg.good:Mine", "mine"):
        policy = make_policy(f"{name}:share=7:fast=true:name=a-b", around())
        assert (type(policy).__name__, policy.given) == ("Mine", (7, True, "a-b"))  # type: ignore[attr-defined]
    assert make_policy("mine:share=-0.5", around()).given[0] == -0.5  # type: ignore[attr-defined]


def test_a_shipped_name_can_not_be_taken() -> None:
    assert find_class("greedy").__module__.startswith("spdk_ftl_py.")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("lazy", "no such policy: use age_threshold, .*, the name of an entry point in group spdk_ftl_py.policies, or"),
        ("no_such_package.mine:Mine", "there is no module no_such_package: install its package for .*PYTHONPATH"),
        ("minepkg.none:Mine", "there is no module minepkg.none: "),
        ("minepkg.bad:Mine", "module minepkg.bad can't be imported: ZeroDivisionError: division by zero"),
        ("minepkg.leaves:Mine", "module minepkg.leaves can't be imported: SystemExit: 4"),
        ("minepkg.wants:Mine", "minepkg.wants can't be imported: ModuleNotFoundError: No module named 'no_such_lib"),
        (
            "minepkg.good:mine",
            "minepkg.good has no class mine: its policies are Broken, Disguised, Leaves, Mine",
        ),
        ("minepkg:Mine", "module minepkg has no class Mine: and it has no policy"),
        ("minepkg.good:Other", "minepkg.good:Other is not a subclass of spdk_ftl_py.Policy"),
        ("minepkg.good:value", "minepkg.good:value is not a subclass"),
        ("no_policy", "the entry point no_policy is not a subclass"),
        ("broken-mine", r"the entry point broken-mine \(minepkg.bad:Mine\) can't be loaded: ZeroDivisionError"),
        ("minepkg.good:Broken", r"Broken can't be made: OSError: no tea\\x1b\[2J"),
        ("minepkg.good:Leaves", "Leaves can't be made: SystemExit: 0"),
        ("minepkg.good:Disguised", "Disguised makes a Other, not a policy"),
        ("mine:tea=1", r"Mine takes the parameters share=1, fast=False, name='x': "),
        ("minepkg.good:Mine:share", "is not the name of a policy"),
        ("minepkg.good:Mine\n", "is not the name of a policy"),
        ("../mine:Mine", "is not the name of a policy"),
        ("", "is not the name of a policy"),
    ],
)
def test_what_can_not_be_had_is_named_with_the_remedy(name: str, message: str) -> None:
    with pytest.raises(ConfError, match=message) as caught:
        make_policy(name, around())
    assert caught.value.message.startswith(f"conf reloc_policy = {name!r}: ")
    # Nor does it keep an FTL from being loaded.
    guard = Guard.loaded(name, around())
    assert (guard.in_use, guard.replaced) == (DEFAULT_RELOC_POLICY, caught.value.message)


def test_a_stored_name_alone_imports_nothing() -> None:
    guard = Guard.loaded("minepkg.bad:Mine", around(), may_import=False)
    assert guard.in_use == DEFAULT_RELOC_POLICY
    assert "set reloc_policy again" in str(guard.replaced)
    assert "minepkg.bad" not in sys.modules
    # Who installed an entry point has said that it is a policy.
    assert Guard.loaded("mine", around(), may_import=False).in_use == "mine"
    # It is imported by now.
    assert Guard.loaded("minepkg.good:Mine", around(), may_import=False).in_use == "minepkg.good:Mine"
