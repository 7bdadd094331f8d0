"""What a controller tells of its commands, of its fill level and of its health."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

from spdk_ftl_py import _shim
from spdk_ftl_py.nvme import identify
from spdk_ftl_py.nvme.logs import WARNING_READ_ONLY, WARNING_RELIABILITY, WARNING_SPARE, Smart, build_smart
from spdk_ftl_py.nvme.wire import AdminOp, Cns, LogPage, NvmOp, Sqe
from unit.nvme.nvme_loop import HOSTNQN, Bench, capsule
from unit.nvme.target.test_zone_events import enabled, event_of

FTL_NSID = 4


def add_core(here: Bench) -> _shim.FtlCore:
    media = here.zns()
    config = _shim.CoreConfig(
        uuid=bytes(16), block_count=256, bands=[[64 * zone] for zone in range(2, 16)], zone_size=64, zone_capacity=48,
        write_buffer_blocks=32,
    )  # fmt: skip
    core = _shim.FtlCore(here.reactor.shim, media, config)
    here.subsystem.add_namespace(core, nsid=FTL_NSID)
    return core


def effects_of(page: bytes) -> set[int]:
    return {opcode for opcode in range(256) if struct.unpack_from("<I", page, 1024 + 4 * opcode)[0]}


async def test_only_commands_that_some_namespace_takes_are_advertised(here: Bench) -> None:
    controller = await here.connect()
    page = await controller.identify(Cns.CONTROLLER)
    assert struct.unpack_from("<HH", page, 520) == (0b1_1010_1101, 0)  # no Write Uncorrectable, nothing fused
    assert page[534] == 1
    plain = effects_of(await controller.get_log_page(LogPage.COMMAND_EFFECTS, 4096))
    assert {NvmOp.COMPARE, NvmOp.VERIFY, NvmOp.COPY} < plain
    assert NvmOp.WRITE_UNCORRECTABLE not in plain
    await controller.close()
    core = add_core(here)
    controller = await here.connect()
    page = await controller.identify(Cns.CONTROLLER)
    assert struct.unpack_from("<HH", page, 520) == (0b1_1010_1111, 1)
    assert struct.unpack_from("<H", page, 532) == (0,)  # ACWU: one block
    here.subsystem.hides_fused = lambda hostnqn: hostnqn == HOSTNQN
    assert struct.unpack_from("<HH", await controller.identify(Cns.CONTROLLER), 520) == (0b1_1010_1111, 0)
    effects = effects_of(await controller.get_log_page(LogPage.COMMAND_EFFECTS, 4096))
    assert effects == plain | {NvmOp.WRITE_UNCORRECTABLE}
    limits = await controller.identify(Cns.CSI_CONTROLLER)
    assert 4096 << limits[0] == controller.max_io_bytes  # VSL
    await controller.close()
    core.close()


async def test_zones_bring_compare_and_verify_but_no_copy(here: Bench) -> None:
    here.subsystem.remove_namespace(1)
    here.subsystem.add_namespace(here.zns(), nsid=2)
    controller = await here.connect()
    (oncs,) = struct.unpack_from("<H", await controller.identify(Cns.CONTROLLER), 520)
    assert oncs & (identify.ONCS_COMPARE | identify.ONCS_VERIFY | identify.ONCS_COPY) == 0b1000_0001
    effects = effects_of(await controller.get_log_page(LogPage.COMMAND_EFFECTS, 4096, csi=2))
    assert {NvmOp.COMPARE, NvmOp.VERIFY} < effects
    assert NvmOp.COPY not in effects
    page = await controller.identify(Cns.NAMESPACE, nsid=2)
    assert page[74:81] == bytes(7)
    await controller.close()


async def test_nuse_counts_the_blocks_that_hosts_have_written(here: Bench) -> None:
    core = add_core(here)
    port = _shim.IoPort(here.reactor.shim, core, 8)
    controller = await here.connect()

    async def nuse() -> tuple[int, int, int, int]:
        page = await controller.identify(Cns.NAMESPACE, nsid=FTL_NSID)
        return (*struct.unpack_from("<QQQ", page), page[24])

    features = identify.NSFEAT_THIN | identify.NSFEAT_ATOMICITY | identify.NSFEAT_OPTIMAL_SIZES
    assert await nuse() == (256, 256, 0, features)
    port.submit(_shim.Op.WRITE, 3, 8, bytes(8 * 4096))
    assert core.allocated_blocks() in (0, 8)
    while core.allocated_blocks() < 8:
        pass
    assert await nuse() == (256, 256, 8, features)
    page = await controller.identify(Cns.NAMESPACE, nsid=FTL_NSID)
    assert struct.unpack_from("<HIB", page, 74) == (4096, 4096, 127)
    page = await controller.identify(Cns.NAMESPACE, nsid=1)
    assert (*struct.unpack_from("<QQQ", page), page[24]) == (1024, 1024, 1024, identify.NSFEAT_ATOMICITY)
    await controller.close()
    port.close()
    core.close()


def counter(page: bytes, number: int) -> int:
    return int.from_bytes(page[32 + 16 * number : 48 + 16 * number], "little")


def test_the_smart_page_counts_in_thousands_of_512_bytes_rounded_up() -> None:
    page = build_smart(
        Smart(
            bytes_read=512_000, bytes_written=512_001, read_commands=7, write_commands=1 << 70, media_errors=3,
            spare_percent=9, degraded=True, read_only=True,
        )
    )  # fmt: skip
    assert len(page) == 512
    assert page[0] == WARNING_SPARE | WARNING_RELIABILITY | WARNING_READ_ONLY == 0b1101
    assert page[3:6] == bytes([9, 10, 0])
    assert [counter(page, number) for number in range(10)] == [1, 2, 7, 1 << 70, 0, 0, 0, 0, 3, 0]
    assert build_smart(Smart())[32:] == bytes(480)
    assert build_smart(Smart())[0] == 0


@dataclass
class _Health:
    smart: Smart = field(default_factory=Smart)

    def __call__(self) -> Smart:
        return self.smart


async def test_hosts_that_asked_for_it_are_told_when_a_warning_is_set(here: Bench) -> None:
    here.subsystem.add_namespace(here.zns(), nsid=2)
    health = here.subsystem.smart = _Health()
    host = await enabled(here, WARNING_READ_ONLY | WARNING_SPARE)
    here.subsystem.check_health()
    health.smart = Smart(degraded=True)
    here.subsystem.check_health()  # the host did not ask for this one
    health.smart = Smart(degraded=True, spare_percent=0)
    here.subsystem.check_health()
    assert await event_of(host) == 0x00020201
    await host.send(capsule(Sqe(AdminOp.ASYNC_EVENT_REQUEST, cid=2)))
    here.subsystem.check_health()
    health.smart = Smart(degraded=True, spare_percent=0, read_only=True)
    here.subsystem.check_health()
    assert await event_of(host, cid=2) == 0x00020001
    sqe = Sqe(AdminOp.GET_LOG_PAGE, cid=50, cdw10=127 << 16 | LogPage.SMART, sgl_bytes=512)
    _, log = await host.command(sqe)
    assert log[0] == WARNING_SPARE | WARNING_RELIABILITY | WARNING_READ_ONLY
    host.close()
