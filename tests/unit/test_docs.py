"""The documentation says what the schemas say, and links to what there is."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

from spdk_ftl_py import plugin, schema

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"


def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate_rpc", DOCS / "generate_rpc.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_tables_of_rpc_md_are_those_of_the_schemas() -> None:
    document = (DOCS / "rpc.md").read_text(encoding="utf-8")
    assert generator().generate(document) == document, "run python docs/generate_rpc.py"


def test_every_method_and_command_has_its_section_and_table() -> None:
    document = (DOCS / "rpc.md").read_text(encoding="utf-8")
    for method in {*schema.methods(), *plugin._METHODS}:
        assert re.search(rf"^## {method}$", document, re.MULTILINE), method
        assert f"<!-- parameters: {method} -->" in document, method


@pytest.mark.parametrize("page", sorted(DOCS.glob("*.md")), ids=lambda page: page.name)
def test_what_a_page_links_to_exists(page: Path) -> None:
    for link in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8")):
        if "://" not in link:
            assert (page.parent / link).exists(), link


def test_every_page_is_in_the_index() -> None:
    index = (DOCS / "README.md").read_text(encoding="utf-8")
    for page in DOCS.glob("*.md"):
        assert page.name == "README.md" or f"({page.name})" in index
