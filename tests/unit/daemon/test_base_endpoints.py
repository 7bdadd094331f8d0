"""Where bases are served: what FTLs have left there that were never deleted."""

from __future__ import annotations

import os
import time
from pathlib import Path

from spdk_ftl_py.daemon.base_endpoints import LEFT_S, remove_left_endpoints


def test_what_was_left_empty_is_removed_and_nothing_else(tmp_path: Path) -> None:
    old = time.time() - LEFT_S - 1
    kept = {"new.base", "served.base", "other", "file.base"}
    for name in ("left.base", "left.cache", "new.base", "served.base", "other"):
        (tmp_path / name).mkdir()
    (tmp_path / "served.base" / "cntrl").touch()
    (tmp_path / "file.base").touch()
    for each in tmp_path.iterdir():
        if each.name != "new.base":
            os.utime(each, (old, old))
    remove_left_endpoints(tmp_path)
    assert {each.name for each in tmp_path.iterdir()} == kept


def test_a_directory_that_can_not_be_read_does_no_harm(tmp_path: Path) -> None:
    remove_left_endpoints(tmp_path / "missing")
