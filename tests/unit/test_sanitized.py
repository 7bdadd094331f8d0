"""`.ci/run` has each unit test once: what the sanitizers run, its unit environment leaves out."""

from __future__ import annotations

import configparser
from pathlib import PurePosixPath

import pytest

from support.sanitized import CHECKOUT, DEFAULT, MALLOC, Part

PLACES = sorted(path.relative_to(CHECKOUT).as_posix() for path in (CHECKOUT / "tests").rglob("test_*.py"))


@pytest.mark.parametrize("marked", [False, True])
def test_each_test_is_in_one_part(marked: bool) -> None:
    assert len(PLACES) > 300
    parts = dict.fromkeys(Part, 0)
    for place in PLACES:
        path = PurePosixPath(place)
        (part,) = [part for part in Part if part.takes(path, seed=0, marked=marked)]
        parts[part] += 1
        assert part.takes_file(path)
        # Other seeds, which SPDK_FTL_FIRST_SEED keeps from the sanitizers.
        assert Part.NOT.takes(path, seed=1, marked=marked)
    assert all(parts.values()) != marked
    assert parts[Part.NOT] > 100


def test_what_is_named_exists() -> None:
    for place in (*MALLOC, *DEFAULT):
        assert (CHECKOUT / place).exists(), place
    assert not Part.MALLOC.takes_file(PurePosixPath("tests/model"))
    assert Part.MALLOC.takes_file(PurePosixPath("tests/unit/nvme"))
    assert not Part.DEFAULT.takes_file(PurePosixPath("tests/unit/nvme"))


def test_ci_leaves_out_only_what_it_runs_elsewhere() -> None:
    tox = configparser.ConfigParser(interpolation=None)
    tox.read(CHECKOUT / "tox.ini")
    commands = tox["testenv:asan"]["commands"]
    assert all(f"--sanitized={part.value} tests/unit}}" in commands for part in (Part.MALLOC, Part.DEFAULT))
    (options,) = [
        block for block in (CHECKOUT / ".ci/run").read_text().split("\nif ")[1].split("\nelse\n")[:1] if "asan" in block
    ]
    assert "SPDK_FTL_UNIT_OPTIONS=--sanitized=not" in options
    assert "TOXENV=asan,system,unit," in options
    assert (CHECKOUT / ".ci/run").read_text().count("--sanitized") == 1
