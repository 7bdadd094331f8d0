"""docs/seed.md names every setting of SPDK's FTL of 2020, and nothing that is not there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import pytest

from spdk_ftl_py import schema
from spdk_ftl_py.cli.main import build_parser
from spdk_ftl_py.conf import DEFAULT_SHARES, LIMIT_NAMES, FtlConf, former_default_thresholds
from spdk_ftl_py.errors import ConfError
from spdk_ftl_py.ignored_settings import IGNORED
from spdk_ftl_py.usage import commands_of

ROOT: Final = Path(__file__).resolve().parents[2]
PAGE: Final = ROOT / "docs" / "seed.md"
VERDICTS: Final = ("same", "changed", "not here")

SETTINGS_OF_2020: Final = {
    "limits": None,
    "invalid_thld": 10,
    "lba_rsvd": 20,
    "write_buffer_size": 6 << 20,
    "band_thld": 90,
    "max_reloc_qdepth": 32,
    "max_active_relocs": 3,
    "user_io_pool_size": 2048,
    "allow_open_bands": False,
    "max_io_channels": 128,
    "nv_cache.max_request_cnt": 2048,
    "nv_cache.max_request_size": 16,
    "use_append": False,
}
"""And their defaults."""


def rows() -> list[tuple[str, str, str]]:
    """Without those that head a group."""
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if line.startswith("| ")]
    assert {len(row) for row in cells} == {3}
    return [(was, verdict, why) for was, verdict, why in cells[1:] if not was.startswith("**")]


def headings() -> list[str]:
    return re.findall(r"^\| \*\*(.+?)\*\* \| \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE)


def row_of(setting: str) -> tuple[str, str, str]:
    (found,) = (row for row in rows() if row[0].startswith(f"`{setting}`"))
    return found


def test_the_page_is_one_table_with_a_verdict_in_each_row() -> None:
    assert len(rows()) > 50
    for was, verdict, why in rows():
        assert verdict in VERDICTS, was
        assert was
        assert why, was
    assert len(headings()) == 6
    assert PAGE.read_text(encoding="utf-8").count("|---|---|---|") == 1


@pytest.mark.parametrize(("setting", "default"), SETTINGS_OF_2020.items(), ids=SETTINGS_OF_2020)
def test_every_setting_of_2020_is_named_and_is_one_here_or_said_not_to_be(setting: str, default: object) -> None:
    _, verdict, _ = row_of(setting)
    create = schema.load("bdev_ftl_create")
    given = {each.name for each in create.parameters} | {each.name for each in create.parameter("conf").properties}
    if verdict == "not here":
        assert setting in IGNORED
        assert IGNORED[setting].default == default
        assert setting in given, "scripts that give it are not refused"
        with pytest.raises(AttributeError):
            FtlConf().setting(setting)
        return
    assert setting not in IGNORED
    value = FtlConf().setting(setting)
    if default is None:
        limits = {f"limit_{name}{suffix}" for name in LIMIT_NAMES for suffix in ("", "_threshold")}
        assert limits <= given
        assert value.keys() == set(LIMIT_NAMES)
        assert [former_default_thresholds(1000)[name] for name in LIMIT_NAMES] == [5, 10, 20, 40]
        assert [DEFAULT_SHARES[name] for name in LIMIT_NAMES] == [0, 5, 40, 100]
        return
    assert value == default
    assert setting in given or (setting == "lba_rsvd" and "overprovisioning" in given)


def test_defaults_in_the_schema_are_those_of_the_conf() -> None:
    told = {each.name: each.default for each in schema.load("bdev_ftl_create").parameter("conf").properties}
    # Where creation decides by the device, no default is told.
    assert {name for name, default in told.items() if default is None} == {*IGNORED, "running_checkpoint"}
    for name in told.keys() - IGNORED.keys():
        assert told[name] == FtlConf().setting(name), name


def test_bounds_that_a_row_tells_are_those_of_the_rule() -> None:
    checked = 0
    for setting in SETTINGS_OF_2020:
        _, verdict, why = row_of(setting)
        bounds = re.search(r"(?:^|[ ,])(\d+) to (\d+)(?= |,|\.|;|$)(?! GiB)", why)
        if verdict == "not here" or bounds is None or setting == "write_buffer_size":
            continue
        whole, _, part = setting.partition(".")
        for value, fits in ((int(bounds[1]), True), (int(bounds[2]), True), (int(bounds[2]) + 1, False)):
            conf = FtlConf.from_dict({whole: {part: value}} if part else {whole: value})
            if fits:
                conf.check()
            else:
                with pytest.raises(ConfError, match=re.escape(setting)):
                    conf.check()
        checked += 1
    assert checked >= 5


def test_code_options_and_commands_that_it_names_exist() -> None:
    text = PAGE.read_text(encoding="utf-8").partition("| 2020 |")[2]
    named = set(re.findall(r"`([^`]+)`", text))
    here = {quoted for _, _, why in rows() for quoted in re.findall(r"`([^`]+)`", why)}
    files = [name for name in named if re.fullmatch(r"[a-z0-9_/]+\.(?:py|cpp|hpp|json)", name)]
    assert len(files) > 10
    for name in files:
        assert any((ROOT / folder / name).is_file() for folder in (".", "spdk_ftl_py")), name
    options = {name for name in named if name.startswith("--")}
    create = schema.load("bdev_ftl_create")
    flags = {flag for each in create.parameters for flag in each.flags} | {"--limit", "--limit-threshold", "--conf"}
    assert len(options) > 10
    known = commands_of(build_parser())
    assert not options - flags - set(known["serve"]._option_string_actions)
    rpcs = {name for name in here if re.fullmatch(r"(?:bdev_)?ftl_[a-z_]+", name)}
    assert "bdev_ftl_get_stats" in rpcs
    for name in rpcs:
        assert name in schema.methods() or name in schema.ALIASES, name
    commands = [name.split() for name in here if re.match(r"spdk-ftl [a-z]", name)]
    assert commands
    for _, command, *_ in commands:
        assert command in known, command
    assert "-v" in known["serve"].format_help()
    for call in (name for name in here if name.startswith("FtlConf")):
        assert hasattr(FtlConf, call.removesuffix("()").partition(".")[2] or "check"), call
