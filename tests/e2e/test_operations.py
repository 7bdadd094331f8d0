"""The drill of docs/operations.md."""

from __future__ import annotations

from pathlib import Path

from support.provision import in_order, provision


def test_the_steps_of_the_operations_page_keep_the_data(folder: Path) -> None:
    told = provision(folder, script="operations.sh")
    verified = "verify: 2048 blocks"
    assert in_order(
        told,
        "== upgrade",
        verified,
        "the same address and NQN",
        "== backup",
        "clean",
        "== disaster: the state directory is lost",
        "is already claimed",
        verified,
        "== move",
        "found: ftl0 ",
        verified,
        "the same NQN",
        "orders on record: 4 loads, 1 refused",
    ), told
