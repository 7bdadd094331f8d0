"""What bdev_ftl_create does not erase, and what it does not take, on a live target."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from e2e.ftl_world import ZNS, FtlWorld, ftl_world

FOREIGN = {
    "an ext2, ext3 or ext4 file system": (0x438, b"\x53\xef"),
    "an xfs file system": (0, b"XFSB"),
    "a partition table (GPT)": (4096, b"EFI PART"),
    "a member of an md raid": (-8192, b"\xfc\x4e\x2b\xa9"),
    "an SPDK blobstore or lvol store": (0, b"SPDKBLOB"),
}


@pytest.fixture
def world(folder: Path) -> Iterator[FtlWorld]:
    with ftl_world(folder, "--zns", ZNS, "--malloc", "name=M0,size=64M", "--malloc", "name=C0,size=64M") as world:
        yield world


@pytest.mark.parametrize("role", ["base", "cache"])
def test_what_somebody_else_has_on_a_bdev_is_erased_only_by_force(folder: Path, role: str) -> None:
    with ftl_world(folder, "--zns", ZNS) as world:
        image = folder / "image"
        for what, (offset, magic) in FOREIGN.items():
            with image.open("wb") as file:
                file.truncate(64 << 20)
                file.seek(offset, 2 if offset < 0 else 0)
                file.write(magic)
            world.call("bdev_aio_create", name="A0", filename=str(image), block_size=4096)
            how = ["-d", "A0", "--zone-capacity", "192"] if role == "base" else ["-d", "Nvme0n1", "-c", "A0"]
            error = world.rpc.fails("bdev_ftl_create", "-b", "ftl0", *how)
            assert error["code"] == -17
            assert f"{role} bdev A0 holds {what}: use another bdev, or give --force to erase it" in error["message"]
            assert image.read_bytes()[offset:][: len(magic)] == magic
            world.rpc("bdev_ftl_create", "-b", "ftl0", *how, "--force")
            world.rpc("bdev_ftl_delete", "-b", "ftl0")
            # Of its own it knows whose it is.
            error = world.rpc.fails("bdev_ftl_create", "-b", "ftl0", *how)
            assert "already holds an FTL" in error["message"]
            world.call("bdev_aio_delete", name="A0")
            if role == "cache":
                return


def test_the_cache_of_another_ftl_is_erased_only_by_force(world: FtlWorld) -> None:
    created = world.rpc("bdev_ftl_create", "-b", "ftl0", "-d", "Nvme0n1", "-c", "C0")
    world.rpc("bdev_ftl_delete", "-b", "ftl0")
    how = ("-d", "M0", "--zone-capacity", "192", "-c", "C0")
    error = world.rpc.fails("bdev_ftl_create", "-b", "ftl0", *how)
    assert f"cache bdev C0 holds the nv cache of FTL {created['uuid']}" in error["message"]
    world.rpc("bdev_ftl_create", "-b", "ftl0", *how, "--force")


@pytest.mark.parametrize("role", ["base", "cache"])
def test_a_bdev_that_keeps_nothing_is_refused(world: FtlWorld, role: str) -> None:
    world.call("bdev_null_create", name="N0", num_blocks=16384, block_size=4096)
    before = world.snapshot()
    how = ["-d", "N0", "--zone-capacity", "192"] if role == "base" else ["-d", "Nvme0n1", "-c", "N0"]
    error = world.rpc.fails("bdev_ftl_create", "-b", "ftl0", *how)
    assert error["code"] == -95
    assert f"{role} bdev N0 does not keep what is written to it" in error["message"]
    assert "use another bdev" in error["message"]
    assert world.snapshot() == before
