"""Which tests `tox -e asan` runs, with the shim under AddressSanitizer and UndefinedBehaviorSanitizer.

`--sanitized=malloc` and `--sanitized=default` are its two runs, with these values of PYTHONMALLOC. `--sanitized=not` is
the rest of the suite: .ci/run has each test once, so its unit environment leaves out what asan has run. Without the
option everything runs.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from enum import Enum
from pathlib import Path, PurePosixPath
from typing import Final

import pytest

OPTION: Final = "--sanitized"
MARK: Final = "not_sanitized"
CHECKOUT: Final = Path(__file__).parents[2]
MALLOC: Final = (
    *("tests/unit/shim", "tests/unit/runtime"),
    *("tests/unit/nvme/test_io.py", "tests/unit/nvme/host/test_reconnecting.py"),
    *("tests/unit/nvme/target/test_hostile_hosts.py", "tests/unit/nvme/target/test_malformed.py"),
)
"""Tests of the shim and of its peers. There ASan also watches Python's objects of at most 512 bytes, those of the
bindings among them, which makes Python twice as slow."""
DEFAULT: Final = (
    "tests/unit/ftl",
    *("tests/unit/daemon/test_registry.py", "tests/unit/daemon/test_base_in_trouble.py"),
    *("tests/unit/torture/test_torture_finds.py", "tests/unit/torture/test_hosts.py"),
)
"""The others try the same bindings, and their buffers are larger."""


class Part(Enum):
    MALLOC = "malloc"
    DEFAULT = "default"
    NOT = "not"

    def takes_file(self, path: PurePosixPath) -> bool:
        """path: of a file or folder, from the checkout on; of a folder, whether it may have such a file."""
        if self is Part.NOT:
            return True
        places = [PurePosixPath(place) for place in (MALLOC if self is Part.MALLOC else DEFAULT)]
        return any(path in (place, *place.parents) or place in path.parents for place in places)

    def takes(self, path: PurePosixPath, *, seed: int, marked: bool) -> bool:
        """Of a test in that file. seed: 0 for the first, and for tests that have none. marked: with MARK."""
        sanitized = not marked and any(part.takes_file(path) for part in (Part.MALLOC, Part.DEFAULT))
        if self is Part.NOT:
            return not (sanitized and seed == 0)
        return sanitized and self.takes_file(path)


def runs_sanitized() -> bool:
    return "libasan" in os.environ.get("LD_PRELOAD", "")


def part_of(config: pytest.Config) -> Part | None:
    chosen = config.getoption(OPTION)
    return None if chosen is None else Part(chosen)


def place_of(path: Path) -> PurePosixPath | None:
    """From the checkout on; None: it is elsewhere."""
    return PurePosixPath(path.relative_to(CHECKOUT)) if path.is_relative_to(CHECKOUT) else None


def left_out(part: Part, items: Sequence[pytest.Item], seeds: Sequence[int]) -> list[pytest.Item]:
    """Those of the items, with these seeds, that the part does not have."""
    others = []
    for item, seed in zip(items, seeds, strict=True):
        place = place_of(item.path)
        if place is not None and not part.takes(place, seed=seed, marked=item.get_closest_marker(MARK) is not None):
            others.append(item)
    return others
