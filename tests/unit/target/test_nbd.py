"""ftltgt_nbd_*: bdevs of the embedded target over NBD, and their claims."""

from __future__ import annotations

import asyncio
import errno
import os
from pathlib import Path

from support.nbd_client import BLOCK, EPERM, FLUSH, READ, WRITE, NbdClient
from unit.target.target_box import Box


async def client(path: Path) -> NbdClient:
    return await asyncio.to_thread(NbdClient.connect, path)


async def claimed(here: Box, name: str) -> bool:
    return bool((await here.rpc("bdev_get_bdevs", name=name))[0]["claimed"])


async def test_a_bdev_is_served_and_claimed_meanwhile(here: Box, tmp_path: Path) -> None:
    await here.malloc("M0")
    path = tmp_path / "m0"
    export = await here.rpc("ftltgt_nbd_start", name="M0", socket_path=str(path))
    assert (export["name"], export["num_blocks"], export["read_only"]) == ("M0", 1024, False)
    assert await claimed(here, "M0")
    one, data = await client(path), os.urandom(2 * BLOCK)
    await asyncio.to_thread(one.ok, WRITE, BLOCK, data=data)
    await asyncio.to_thread(one.ok, FLUSH)
    assert await asyncio.to_thread(one.ok, READ, BLOCK, 2 * BLOCK) == data
    (told,) = await here.rpc("ftltgt_nbd_get")
    assert (told["connections"], told["write_blocks"]) == (1, 2)
    assert (await here.refusal("bdev_passthru_create", base_bdev_name="M0", name="P0"))[0] == -errno.EPERM
    code, message = await here.refusal("ftltgt_nbd_start", name="M0", socket_path=str(tmp_path / "again"))
    assert (code, f"already served by NBD, at {path}" in message) == (-errno.EEXIST, True)
    assert await here.rpc("ftltgt_nbd_stop", name="M0") is True
    assert not await claimed(here, "M0")
    assert list(tmp_path.iterdir()) == []
    assert one.socket.recv(1) == b""
    one.close()


async def test_a_claimed_bdev_is_served_read_only_alone(here: Box, tmp_path: Path) -> None:
    await here.malloc("M0")
    await here.rpc("bdev_passthru_create", base_bdev_name="M0", name="P0")
    where = {"name": "M0", "socket_path": str(tmp_path / "m0")}
    code, message = await here.refusal("ftltgt_nbd_start", **where)
    assert (code, "is claimed by" in message) == (-errno.EPERM, True)
    assert list(tmp_path.iterdir()) == []
    await here.rpc("ftltgt_nbd_start", read_only=True, **where)
    one = await client(tmp_path / "m0")
    assert (await asyncio.to_thread(one.run, WRITE, 0, data=bytes(BLOCK))).error == EPERM
    await asyncio.to_thread(one.ok, READ, 0, BLOCK)
    one.close()
    await here.rpc("ftltgt_nbd_stop", name="M0")
    assert await claimed(here, "M0")  # by the passthru


async def test_it_goes_with_its_bdev_and_with_the_target(here: Box, tmp_path: Path) -> None:
    for name in ("M0", "M1"):
        await here.malloc(name)
        await here.rpc("ftltgt_nbd_start", name=name, socket_path=str(tmp_path / name))
    one = await client(tmp_path / "M0")
    await here.rpc("bdev_malloc_delete", name="M0")
    assert one.socket.recv(1) == b""
    one.close()
    assert [each["name"] for each in await here.rpc("ftltgt_nbd_get")] == ["M1"]
    await here.target.close()
    assert list(tmp_path.iterdir()) == []


async def test_refusals_say_what_is_wrong_and_leave_nothing(here: Box, tmp_path: Path) -> None:
    await here.zns("Zns0")
    await here.malloc("M0")
    taken = tmp_path / "taken"
    taken.write_text("precious")
    for params, code, why in (
        ({"name": "M9", "socket_path": str(tmp_path / "s")}, -errno.ENODEV, "there is no bdev M9"),
        ({"name": "M0", "socket_path": "s"}, -errno.EINVAL, "parameter socket_path: must be an absolute path"),
        ({"name": "M0", "socket_path": str(taken)}, -errno.EEXIST, "not a socket: remove it, or give another"),
        ({"name": "M0", "socket_path": "/" + "d" * 107}, -errno.ENAMETOOLONG, "longer than 107 bytes"),
        ({"name": "Zns0", "socket_path": str(tmp_path / "s")}, -errno.ENOTSUP, "ask for read_only"),
    ):
        told = await here.refusal("ftltgt_nbd_start", **params)
        assert (told[0], why in told[1]) == (code, True), told
    assert not await claimed(here, "M0")
    assert not await claimed(here, "Zns0")
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]
    for name, why in (("M0", "is not served by NBD"), ("M9", "there is no bdev M9")):
        code, message = await here.refusal("ftltgt_nbd_stop", name=name)
        assert (code, why in message) == (-errno.ENODEV, True)
    await here.rpc("ftltgt_nbd_start", name="Zns0", socket_path=str(tmp_path / "zns"), read_only=True)
    (await client(tmp_path / "zns")).close()
