"""The documentation says what the schemas say, and links to what there is."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from spdk_ftl_py import plugin, schema
from spdk_ftl_py.cli.main import build_parser
from spdk_ftl_py.usage import commands_of
from support.generators import generator

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"


def test_the_tables_of_rpc_md_are_those_of_the_schemas() -> None:
    document = (DOCS / "rpc.md").read_text(encoding="utf-8")
    assert generator().generate(document) == document, "run python docs/generate_rpc.py"


def test_the_manual_page_is_that_of_the_parsers() -> None:
    made = generator("generate_man")
    page = made.PAGE.read_text(encoding="utf-8")
    assert made.generate() == page, "run python docs/generate_man.py"
    for name, command in commands_of(build_parser()).items():
        assert name.replace("-", "\\-") in page
        for option in (option for action in command._actions for option in action.option_strings if "_" not in option):
            assert option == "-h" or option == "--help" or option.replace("-", "\\-") in page, (name, option)
    if groff := shutil.which("groff"):
        done = subprocess.run([groff, "-man", "-ww", "-Tutf8", "-z", made.PAGE], capture_output=True, check=True)
        assert done.stderr == b""


def test_the_readme_names_what_there_is() -> None:
    """Commands, and files of ours; nothing that is planned."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    known = commands_of(build_parser())
    for command in re.findall(r"spdk-ftl ([a-z][a-z-]*)", text):
        assert command in known, command
    for name in re.findall(r"(?:packaging|docs|rpc_plugins)/[A-Za-z0-9_./-]*[A-Za-z0-9_/]", text):
        assert (ROOT / name).exists(), name
    for named in ("packaging/systemd/", "packaging/man/spdk-ftl.1", "spdk-ftl completion"):
        assert named in text
    served = (ROOT / "spdk_ftl_py" / "daemon").rglob("*.py")
    assert ("/metrics" in text) == any("/metrics" in path.read_text(encoding="utf-8") for path in served)


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


def readme_commands(root: Path, name: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([root / ".ci" / "readme", name], capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("name", "begin"),
    [
        ("packages", "apt-get update && apt-get install -y "),
        ("demo", "python3 -m venv .venv && "),
        ("test packages", "apt-get install -y "),
        ("tests", "python3 -m venv .venv && "),
    ],
)
def test_ci_runs_the_commands_of_the_readme(name: str, begin: str) -> None:
    done = readme_commands(ROOT, name)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(begin)
    assert f"\n{done.stdout}" in (ROOT / "README.md").read_text(encoding="utf-8")
    assert re.search(rf'(readme|\.ci/readme) "?{name}"?\)?$', (ROOT / ".ci" / "run").read_text(), re.MULTILINE)


@pytest.mark.parametrize(
    "readme",
    [
        "```sh\ntrue\n```\n",
        "<!-- ci: other -->\n```sh\ntrue\n```\n",
        "<!-- ci: demo -->\nNo commands here.\n\n```sh\ntrue\n```\n",
        "<!-- ci: demo -->\n```sh\n\n```\n",
        "<!-- ci: demo -->\n```sh\ntrue\n",
        "<!-- ci: demo -->\n```sh\ntrue\n```\n" * 2,
    ],
    ids=["no mark", "another mark", "text between", "no command", "open end", "two"],
)
def test_a_readme_without_the_commands_fails_ci(tmp_path: Path, readme: str) -> None:
    (tmp_path / ".ci").mkdir()
    shutil.copy(ROOT / ".ci" / "readme", tmp_path / ".ci")
    (tmp_path / "README.md").write_text(readme)
    done = readme_commands(tmp_path, "demo")
    assert done.returncode == 1
    assert "README.md has to have one line <!-- ci: demo -->" in done.stderr
