"""Traces: what is written in a file is what a simulation gets, and whatever else is in it does no harm."""

from __future__ import annotations

import gzip
import os
import random
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from spdk_ftl_py.errors import ParameterError, TraceError, UnsupportedError
from spdk_ftl_py.simulate.workloads import chunks, trace
from spdk_ftl_py.simulate.workloads.base import BATCH, BATCH_BLOCKS, READ, TRIM, WRITE, Requests
from spdk_ftl_py.simulate.workloads.formats import FORMATS, recognised
from spdk_ftl_py.simulate.workloads.parse import parse
from spdk_ftl_py.simulate.workloads.trace import Trace

BLOCKS: Final = 1 << 24


@dataclass(frozen=True)
class Asked:
    """A request as a host made it."""

    op: int
    offset: int
    size: int
    time_us: int

    def as_block_range(self) -> tuple[int, int, int]:
        if self.op == TRIM:
            first, last = -(-self.offset // 4096), (self.offset + self.size) // 4096
        else:
            first, last = self.offset // 4096, -(-(self.offset + self.size) // 4096)
        return self.op, first, last - first


def sample(count: int, *, trims: bool, seed: int = 5) -> list[Asked]:
    """Sectors, aligned to blocks or not."""
    rng = random.Random(seed)
    asked, now = [], 1000
    for _ in range(count):
        op = rng.choice([WRITE, READ, TRIM] if trims else [WRITE, READ])
        size = rng.choice([512, 4096, 8192, 65536, 20 * 512])
        offset = rng.randrange(1 << 26) * 512
        if op == TRIM:
            offset, size = offset // 4096 * 4096, -(-size // 4096) * 4096
        now += rng.choice([0, 1, 17, 1000])
        asked.append(Asked(op, offset, size, now))
    return asked


def as_msr(asked: list[Asked]) -> str:
    word = {READ: "Read", WRITE: "Write"}
    start = 128166372003061629
    return "".join(f"{start + a.time_us * 10},hm,1,{word[a.op]},{a.offset},{a.size},413\n" for a in asked)


def as_alibaba(asked: list[Asked]) -> str:
    return "".join(
        f"419,{'R' if a.op == READ else 'W'},{a.offset},{a.size},{1577808000000626 + a.time_us}\n" for a in asked
    )


FIO_WORDS: Final = {READ: "read", WRITE: "write", TRIM: "trim"}


def as_fio2(asked: list[Asked]) -> str:
    lines = "".join(f"/dev/x {FIO_WORDS[a.op]} {a.offset} {a.size}\n/dev/x wait 100 0\n" for a in asked)
    return f"fio version 2 iolog\n/dev/x add\n/dev/x open\n{lines}/dev/x sync 0 0\n/dev/x close\n"


def as_fio3(asked: list[Asked]) -> str:
    lines = "".join(f"{a.time_us} /dev/x {FIO_WORDS[a.op]} {a.offset} {a.size}\n" for a in asked)
    return (
        f"fio version 3 iolog\n0 /dev/x add\n0 /dev/x open\n{lines}9999999 /dev/x datasync 0 0\n9999999 /dev/x close\n"
    )


def as_blkparse(asked: list[Asked]) -> str:
    word = {READ: "RA", WRITE: "FWFS", TRIM: "DS"}
    text = ""
    for number, a in enumerate(asked):
        time = f"{a.time_us // 10**6:5d}.{a.time_us % 10**6 * 1000:09d}"
        for action in ("Q", "G", "I", "D", "C"):
            tail = "[0]" if action == "C" else "[a b c]"
            head = f"  8,0    1 {number:8d} {time}  697  {action:>2} {word[a.op]:>3}"
            text += f"{head} {a.offset // 512} + {a.size // 512} {tail}\n"
        text += f"  8,0    1 {number:8d} {time}  697   m   N cfq697S / alloced\n"
        text += f"  8,0    1 {number:8d} {time}  697   P   N [a b c]\n  8,0    1 0 {time}  697   Q FWS [a b c]\n"
    return text + "CPU0 (8,0):\n Reads Queued:          14,       56KiB\t Writes Queued:           0,        0KiB\n\n"


WRITERS: Final[dict[str, tuple[Callable[[list[Asked]], str], str, bool]]] = {
    "msr": (as_msr, "msr", False),
    "alibaba": (as_alibaba, "alibaba", False),
    "fio2": (as_fio2, "fio", True),
    "fio3": (as_fio3, "fio", True),
    "blkparse": (as_blkparse, "blkparse", True),
}


def read(spec: str, block_count: int = BLOCKS) -> Requests:
    parts = list(parse(spec, block_count).requests(0))
    assert all(len(part) <= BATCH and int(part.blocks.sum(dtype=np.uint64)) <= BATCH_BLOCKS for part in parts)
    times = None if parts[0].time_ns is None else np.concatenate([p.time_ns for p in parts if p.time_ns is not None])
    op, lba, blocks = (np.concatenate([getattr(part, name) for part in parts]) for name in ("op", "lba", "blocks"))
    assert int((lba + blocks).max()) <= block_count
    assert int(blocks.min()) >= 1
    return Requests(op, lba, blocks, times)


def rows(requests: Requests) -> list[tuple[int, int, int]]:
    return list(zip(requests.op.tolist(), requests.lba.tolist(), requests.blocks.tolist(), strict=True))


def msr_line(op: str = "Write", offset: object = 0, size: object = 4096, *, time: object = 100, disk: int = 1) -> str:
    return f"{time},hm,{disk},{op},{offset},{size},1\n"


def with_checksum(data: bytes) -> bytes:
    return zstandard.ZstdCompressor(write_checksum=True).compress(data)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "trace"


# --- round trips -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("pack", [bytes, gzip.compress, zstandard.compress], ids=["plain", "gzip", "zstd"])
def test_what_hosts_asked_for_comes_out(writer: str, pack: Callable[[bytes], bytes], file: Path) -> None:
    write, kind, trims = WRITERS[writer]
    asked = sample(700, trims=trims)
    file.write_bytes(pack(write(asked).encode()))
    expected = [a.as_block_range() for a in asked]
    times = None if writer == "fio2" else [(a.time_us - asked[0].time_us) * 1000 for a in asked]
    for spec in (f"{kind}:{file}", f"trace:{file}"):
        requests = read(spec)
        assert rows(requests) == expected
        assert (None if requests.time_ns is None else requests.time_ns.tolist()) == times


def test_a_trace_of_many_chunks(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "CHUNK_BYTES", 3000)
    asked = sample(1000, trims=True)
    for write in (as_fio3, as_blkparse):
        text = write(asked).encode()
        for data in (text, gzip.compress(text[:9000]) + gzip.compress(text[9000:]), zstandard.compress(text)):
            file.write_bytes(data)
            assert rows(read(f"trace:{file}")) == [a.as_block_range() for a in asked]


def test_lines_may_end_as_those_of_windows_and_the_last_not_at_all(file: Path) -> None:
    asked = sample(50, trims=False)
    for write in (as_msr, as_fio3, as_blkparse):
        text = write(asked).replace("\n", "\r\n")
        file.write_text(text.removesuffix("\r\n"), newline="")
        assert rows(read(f"trace:{file}")) == [a.as_block_range() for a in asked]


def test_a_header_is_no_request(file: Path) -> None:
    file.write_text("Timestamp,Hostname,DiskNumber,Type,Offset,Size,ResponseTime\n" + msr_line(disk=1))
    assert rows(read(f"trace:{file}:device=1")) == [(WRITE, 0, 1)]
    file.write_text("device_id,opcode,offset,length,timestamp\n7,W,8192,1,1\n")
    assert rows(read(f"trace:{file}:device=7")) == [(WRITE, 2, 1)]


def test_writes_grow_and_trims_shrink_to_whole_blocks(file: Path) -> None:
    file.write_text(
        "fio version 2 iolog\n/x write 4095 2\n/x trim 4095 2\n/x trim 1 8191\n/x trim 4096 4096\n/x read 512 0\n"
    )
    assert rows(read(f"fio:{file}")) == [(WRITE, 0, 2), (TRIM, 1, 1), (TRIM, 1, 1)]


# --- options ---------------------------------------------------------------------------------------------------------


def test_requests_of_several_devices_need_a_choice(file: Path) -> None:
    file.write_text(msr_line(disk=0) + msr_line(offset=4096, disk=1) + msr_line(offset=8192, disk=0))
    with pytest.raises(TraceError, match=r"several devices \(device 0 and 1\): choose one \(…:device=VALUE\)"):
        parse(f"msr:{file}", BLOCKS)
    assert rows(read(f"msr:{file}:device=1")) == [(WRITE, 1, 1)]
    assert rows(read(f"msr:{file}:device=0")) == [(WRITE, 0, 1), (WRITE, 2, 1)]
    assert len(read(f"msr:{file}:device=any")) == 3
    with pytest.raises(TraceError, match=r"no request in its 3 lines \(3 passed over, 0 malformed\).*device=7"):
        read(f"msr:{file}:device=7")


def test_devices_are_told_apart_across_chunks(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "CHUNK_BYTES", 1000)
    file.write_text("0,W,0,1,1\n" * 1000 + "1,W,0,1,1\n")
    workload = parse(f"alibaba:{file}", BLOCKS)
    with pytest.raises(TraceError, match="several devices"):
        list(workload.requests(0))


def test_the_filters_of_the_other_formats(file: Path) -> None:
    file.write_text("fio version 2 iolog\n/a write 0 1\n/b write 4096 1\n")
    assert rows(read(f"fio:{file}:device=/b")) == [(WRITE, 1, 1)]
    file.write_text(
        "8,0 1 1 0.000000000 1 Q W 0 + 8 [x]\n"
        "8,0 1 1 0.000000000 1 D W 8 + 8 [x]\n"
        "8,16 1 1 0.000000000 1 D R 16 + 8 [x]\n"
    )
    assert rows(read(f"blkparse:{file}")) == [(WRITE, 0, 1)]
    assert rows(read(f"blkparse:{file}:action=D:device=8,16")) == [(READ, 2, 1)]
    with pytest.raises(TraceError, match="several devices"):
        read(f"blkparse:{file}:action=D")
    file.write_text(msr_line().replace("hm", "usr") + msr_line(offset=4096))
    with pytest.raises(TraceError, match=r"\(host usr and hm\)"):
        read(f"msr:{file}")
    assert rows(read(f"msr:{file}:host=hm")) == [(WRITE, 1, 1)]


def test_an_address_beyond_the_device_is_refused_with_its_line(file: Path) -> None:
    file.write_text(msr_line() + msr_line(offset=99 * 4096, size=2 * 4096))
    with pytest.raises(TraceError, match=r"trace, line 2: blocks 99 to 100 of 100: fit=fold, fit=scale or fit=pack"):
        read(f"msr:{file}", 100)
    assert rows(read(f"msr:{file}", 101))[1] == (WRITE, 99, 2)


def test_folding_goes_on_at_the_beginning(file: Path) -> None:
    lines = [(99, 2), (100, 1), (250, 7), (5, 3000), (0, 100)]
    file.write_text("".join(msr_line(offset=first * 4096, size=blocks * 4096) for first, blocks in lines))
    assert rows(read(f"msr:{file}:fit=fold", 100)) == [
        (WRITE, 99, 1), (WRITE, 0, 1), (WRITE, 0, 1), (WRITE, 50, 7), (WRITE, 5, 95), (WRITE, 0, 5), (WRITE, 0, 100),
    ]  # fmt: skip


def test_scaling_keeps_lengths(file: Path) -> None:
    lines = [(0, 1), (500, 4), (999, 1), (990, 10)]
    file.write_text("".join(msr_line(offset=first * 4096, size=blocks * 4096) for first, blocks in lines))
    expected = [(WRITE, 0, 1), (WRITE, 50, 4), (WRITE, 99, 1), (WRITE, 90, 10)]
    assert rows(read(f"msr:{file}:fit=scale", 100)) == expected
    assert rows(read(f"msr:{file}:fit=scale:span=4000K", 100)) == expected
    assert rows(read(f"msr:{file}:fit=scale", 10_000))[1] == (WRITE, 5000, 4)
    with pytest.raises(TraceError, match="line 3: blocks 999 to 999 of 900: set span="):
        read(f"msr:{file}:fit=scale:span={900 * 4096}", 100)


def test_packing_fills_the_device_in_the_order_of_the_trace(file: Path) -> None:
    lines = [(256 * 1000 + 3, 1), (7, 300), (256 * 1000 + 3, 1), (256 * 5000, 1)]
    file.write_text("".join(msr_line(offset=first * 4096, size=blocks * 4096) for first, blocks in lines))
    first, start, over, again, last = rows(read(f"msr:{file}:fit=pack", 1024))
    assert first == again == (WRITE, 3, 1)
    assert (start, over) == ((WRITE, 256 + 7, 249), (WRITE, 512, 51))
    assert last == (WRITE, 768, 1)
    with pytest.raises(TraceError, match=r"line 4: the trace touches more than the 3 MiB that the device has"):
        read(f"msr:{file}:fit=pack", 1023)


def test_a_trace_can_be_run_again_and_again(file: Path) -> None:
    file.write_text(msr_line(time=100) + msr_line(offset=4096, time=130))
    requests = read(f"msr:{file}:repeat=3")
    assert requests.lba.tolist() == [0, 1] * 3
    assert requests.time_ns is not None
    assert requests.time_ns.tolist() == [0, 3000, 3000, 6000, 6000, 9000]
    forever = parse(f"msr:{file}:repeat=forever", BLOCKS).requests(0)
    assert [next(forever).lba.tolist() for _ in range(50)] == [[0, 1]] * 50


def test_times_never_fall(file: Path) -> None:
    file.write_text("".join(msr_line(time=time) for time in (100, 90, 130, 110, 10**19 - 1, 140)))
    times = read(f"msr:{file}").time_ns
    assert times is not None
    assert times[:4].tolist() == [0, 0, 3000, 3000]
    assert times[4] == times[5] > 4 * 10**18


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (":fit=sideways", "fit=sideways: must be one of refuse, fold, scale, pack"),
        (":colour=red", "there is no option colour=: there are action, device,"),
        (":repeat=0", "repeat=0: must be a whole number, at least 1 or forever"),
        (":repeat=-1", "repeat=-1: must be"),
        (":malformed=1.5", "malformed=1.5: must be a whole number, at least 0"),
        (":span=1G", "span= has a meaning only with fit=scale"),
        (":fit=scale:span=1", "span=1: must be a number of bytes"),
        (":fit=scale:span=99999999999T", "span=99999999999T: must be a number of bytes"),
        (":device=1:device=2", "device= is there twice"),
        (":device=", "device= has no value"),
        (":action=Q", "a trace of format msr has no action"),
        (":device=1:x", "'x' stands behind an option, but is none"),
    ],
)
def test_an_option_that_means_nothing_is_refused(options: str, says: str, file: Path) -> None:
    file.write_text(msr_line())
    with pytest.raises(ParameterError) as refused:
        parse(f"msr:{file}{options}", BLOCKS)
    assert says in refused.value.message
    assert "workload 'msr:" in refused.value.message


def test_a_path_may_have_colons_and_signs(tmp_path: Path) -> None:
    file = tmp_path / "a:b+c*(d)=e"
    file.write_text(msr_line())
    assert len(read(f"msr:{file}:device=1")) == 1
    with pytest.raises(ParameterError, match="the path of the trace is missing"):
        parse("msr:", BLOCKS)
    with pytest.raises(ParameterError, match="action=X: must be Q"):
        parse(f"blkparse:{file}:action=X", BLOCKS)


# --- files that are not what they should be --------------------------------------------------------------------------


def test_what_is_no_trace_is_refused_at_once(tmp_path: Path) -> None:
    file = tmp_path / "x"
    with pytest.raises(TraceError, match="x can't be read: No such file"):
        parse(f"msr:{file}", BLOCKS)
    with pytest.raises(TraceError, match="is a directory"):
        parse(f"msr:{tmp_path}", BLOCKS)
    for content, says in [
        (b"", "is empty"),
        (b"hello\nworld\n", "begins like no known trace: name its format"),
        (b"\x07taeb\0\0\0", "is binary: make text of it"),
        (b"\x7fELF\0\0", "is not text"),
        (b"a" * 257 + b"ustar\0", "is a tar archive"),
        (gzip.compress(b"a" * 257 + b"ustar\0"), "is a tar archive"),
        (b"x" * 100_000, "a line of more than 65536 bytes"),
    ]:
        file.write_bytes(content)
        with pytest.raises(TraceError, match=says):
            parse(f"trace:{file}", BLOCKS)
    for content, says in [
        (b"hello\n", 'the first line is not "fio version 2 iolog"'),
        (b"fio version 1 iolog\n", "version 1 of fio's iolog: must be 2 or 3"),
    ]:
        file.write_bytes(content)
        with pytest.raises(TraceError, match=says):
            parse(f"fio:{file}", BLOCKS)


@pytest.mark.parametrize("pack", [gzip.compress, with_checksum], ids=["gzip", "zstd"])
def test_a_file_that_is_cut_off_or_damaged_says_so(pack: Callable[[bytes], bytes], file: Path) -> None:
    random.seed(3)
    data = pack("".join(msr_line(offset=random.randrange(10**10)) for _ in range(5000)).encode())
    for cut in (12, len(data) // 2, len(data) - 1):
        file.write_bytes(data[:cut])
        with pytest.raises(TraceError, match=r"can't be read: .*: the file is .*damaged, fetch it again"):
            read(f"msr:{file}")
    damaged = bytearray(data)
    damaged[len(data) // 2] ^= 0x55
    file.write_bytes(damaged)
    with pytest.raises(TraceError):
        read(f"msr:{file}")
    file.write_bytes(data + b"rest")
    with pytest.raises(TraceError):
        read(f"msr:{file}")
    file.write_bytes(data + data)
    assert len(read(f"msr:{file}")) == 10_000


def test_a_pipe_is_read_once(file: Path) -> None:
    os.mkfifo(file)
    with pytest.raises(TraceError, match="is no regular file and can't be read twice, which repeat= needs"):
        parse(f"msr:{file}:repeat=2", BLOCKS)
    with pytest.raises(TraceError, match="which fit=scale without span= needs"):
        parse(f"msr:{file}:fit=scale", BLOCKS)
    for spec in (f"trace:{file}", f"msr:{file}:fit=scale:span=1G"):
        workload = parse(spec, BLOCKS)
        writer = threading.Thread(target=lambda: file.write_bytes(gzip.compress(msr_line().encode() * 1000)))
        writer.start()
        assert sum(len(batch) for batch in workload.requests(0)) == 1000
        writer.join()


def test_zstd_without_its_module_says_what_to_install(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_bytes(zstandard.compress(msr_line().encode()))
    monkeypatch.setitem(sys.modules, "zstandard", None)
    monkeypatch.setitem(sys.modules, "compression", None)
    with pytest.raises(UnsupportedError, match=r"needs zstandard \(pip install 'spdk-ftl-py\[traces\]'\)"):
        parse(f"msr:{file}", BLOCKS)


def test_a_bomb_is_read_in_small_pieces(file: Path) -> None:
    """32 MiB of ends of lines, in 33 KiB or less."""
    for pack in (gzip.compress, zstandard.compress):
        file.write_bytes(pack(b"\n" * (32 << 20)))
        assert max(len(chunk) for chunk in chunks.chunks(file)) <= chunks.CHUNK_BYTES + chunks.LINE_BYTES_MAX
        file.write_bytes(pack(b"x" * (32 << 20)))
        with pytest.raises(TraceError, match="a line of more than"):
            list(chunks.chunks(file))


@pytest.mark.parametrize(
    "line",
    [
        msr_line(offset=-4096), msr_line(size=-1), msr_line(offset=1 << 64), msr_line(offset=(1 << 63) + 1),
        msr_line(size=1 << 60), msr_line(offset="0x10"), msr_line(offset="1e3"), msr_line(offset=" 1"),
        msr_line(offset=""), msr_line(op="Wrote"), msr_line(op="write"), msr_line(time=""), msr_line(time=10**25),
        msr_line(size="4٠96"), "1,2,3\n", "100,hm,1,Write,0,4096\n", "\x01\n", ",,,,,,\n",
    ],
)  # fmt: skip
def test_a_malformed_line_is_counted_and_passed_over(line: str, file: Path) -> None:
    file.write_text(msr_line(offset=4096) + line + msr_line(offset=8192))
    workload = parse(f"msr:{file}:device=any:host=any", BLOCKS)
    assert isinstance(workload, Trace)
    assert [batch.lba.tolist() for batch in workload.requests(0)] == [[1, 2]]
    assert (workload.counts.malformed, workload.counts.requests, workload.counts.lines) == (1, 2, 3)
    assert workload.counts.first_malformed.startswith("line 2: ")
    with pytest.raises(TraceError, match=r"trace, line 2: more than 0 malformed lines. The first is line 2: .*like '1"):
        list(parse(f"msr:{file}:device=any:host=any:malformed=0", BLOCKS).requests(0))


def test_malformed_lines_of_the_other_formats(file: Path) -> None:
    for text, malformed in [
        ("1,W,0,4096,1\n1,X,0,4096,1\n1,W,0,4096,-1\n1,W,0,4096\n\n", 3),
        ("fio version 3 iolog\n1 /x write 0 4096\n1 /x erase 0 1\n1 /x explode\nx /x write 0 1\n1 /x write 0\n\n", 4),
        ("8,0 1 1 0.000000000 1 Q W 0 + 8 [x]\n8,0 1 1 0.000000000 1 Q W 0 - 8 [x]\n8,0 1 1 0.1 1 Q W 0 + 8 [x]\n", 1),
        ("8,0 1 1 0.000000000 1 Q W 0 + 8 [x]\n8,0 1 1 0.000000000 1 Q W 1 + x [x]\n", 1),
    ]:
        file.write_text(text)
        workload = parse(f"trace:{file}", BLOCKS)
        assert isinstance(workload, Trace)
        list(workload.requests(0))
        assert workload.counts.malformed == malformed, text
        assert workload.counts.requests == 1


def test_the_line_of_the_error_is_the_first_one_too_many(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "CHUNK_BYTES", 500)
    file.write_text(msr_line() * 50 + "?\n" + msr_line() * 50 + "?\n" * 3 + msr_line() * 50)
    with pytest.raises(TraceError, match=r"line 103: more than 2 malformed lines. The first is line 51: '\?'"):
        read(f"msr:{file}:malformed=2")
    assert len(read(f"msr:{file}:malformed=4")) == 150


def test_a_huge_request_comes_in_parts_and_a_huger_one_in_bounded_memory(file: Path) -> None:
    count = 3 * BATCH_BLOCKS + 7
    file.write_text(msr_line(size=4096) + msr_line(size=count * 4096) + msr_line(offset=4096))
    requests = read(f"msr:{file}", count)
    assert requests.blocks.tolist() == [1, BATCH_BLOCKS, BATCH_BLOCKS, BATCH_BLOCKS, 7, 1]
    assert requests.lba.tolist() == [0, 0, BATCH_BLOCKS, 2 * BATCH_BLOCKS, 3 * BATCH_BLOCKS, 1]
    file.write_text(msr_line(size=1 << 52) * 1000)
    for fit in ("fold", "scale", "pack"):
        # 2**40 blocks a thousand times: the first batches come at once.
        batches = parse(f"msr:{file}:fit={fit}", 1 << 40).requests(0)
        assert sum(int(next(batches).blocks.sum(dtype=np.uint64)) for _ in range(3)) == 3 * BATCH_BLOCKS


# --- anything --------------------------------------------------------------------------------------------------------

BYTES_OF_TRACES: Final = st.sampled_from(list(b"0123456789,,  \n\n\r-+.QDCWRFwritead[]x\xff\t"))
ODD_NUMBERS: Final = ("-1", "", "4096", "00000000000000000001", "9" * 19, "9" * 20, "1.5")
NUMBERS: Final = st.one_of(st.integers(0, 1 << 70).map(str), st.sampled_from(ODD_NUMBERS))
NAMES: Final = st.sampled_from("01")
LINES: Final = st.one_of(
    st.tuples(NUMBERS, st.just("hm"), NAMES, st.sampled_from(["Read", "Write", "?"]), NUMBERS, NUMBERS, NUMBERS).map(
        ",".join
    ),
    st.tuples(NAMES, st.sampled_from("RWX"), NUMBERS, NUMBERS, NUMBERS).map(",".join),
    st.tuples(NUMBERS, NAMES, st.sampled_from(["write", "trim", "wait", "add"]), NUMBERS, NUMBERS).map(" ".join),
    st.tuples(
        st.sampled_from(["8,0 1 1", "8,1 1"]),
        st.builds("{}.{}".format, NUMBERS, NUMBERS) | st.just("0.000000001"),
        st.just("1"),
        st.sampled_from("QDC"),
        st.sampled_from(["W", "D", "FWS", "F", "R", "N"]),
        NUMBERS,
        st.just("+"),
        NUMBERS,
        st.just("[x]"),
    ).map(" ".join),
    st.just("fio version 3 iolog"),
    st.text(max_size=12).filter(lambda text: "\n" not in text),
)


def try_all(file: Path) -> None:
    """Nothing but the documented error, and batches that keep their promises."""
    for kind in (*FORMATS, "trace"):
        for options in ("", ":fit=fold:device=any", ":fit=pack", ":fit=scale:malformed=0:repeat=2"):
            got = 0
            try:
                for batch in parse(f"{kind}:{file}{options}", 1000).requests(0):
                    assert 0 < len(batch) <= BATCH
                    assert int((batch.lba + batch.blocks).max()) <= 1000
                    assert int(batch.blocks.min()) >= 1
                    assert batch.time_ns is None or not (np.diff(batch.time_ns.astype(np.int64)) < 0).any()
                    got += len(batch)
                    if got > 5000:
                        break
            except TraceError as error:
                assert str(file) in error.message  # noqa: PT017
                assert len(error.message) < 1500  # noqa: PT017
                assert error.message.isprintable()  # noqa: PT017


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.one_of(st.binary(max_size=400), st.lists(BYTES_OF_TRACES, max_size=200).map(bytes)))
def test_any_bytes_raise_nothing_else(data: bytes, file: Path) -> None:
    for head in (b"", b"fio version 2 iolog\n", b"\x1f\x8b\x08\0", b"\x28\xb5\x2f\xfd"):
        file.write_bytes(head + data)
        try_all(file)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lines=st.lists(LINES, min_size=1, max_size=12))
def test_any_lines_raise_nothing_else(lines: list[str], file: Path) -> None:
    file.write_text("\n".join(lines), encoding="utf-8", errors="surrogatepass", newline="")
    try_all(file)


@settings(max_examples=200, deadline=None)
@given(text=st.text(alphabet="msrtacefio:=/.0123456789KGany ", max_size=30))
def test_any_options_raise_nothing_else(text: str) -> None:
    try:
        trace.TraceOptions.of(text)
    except ParameterError as error:
        assert error.message  # noqa: PT017


@pytest.mark.parametrize("name", FORMATS)
def test_the_example_of_each_format_is_one(name: str, file: Path) -> None:
    head = "fio version 3 iolog\n" if name == "fio" else ""
    file.write_text(f"{head}{FORMATS[name].example}\n")
    assert recognised(file.read_bytes()) == name
    assert len(read(f"{name}:{file}", 1 << 40)) == 1
    page = Path(__file__).resolve().parents[4] / "docs" / "policies.md"
    assert f"`{FORMATS[name].example}`" in page.read_text(encoding="utf-8")
