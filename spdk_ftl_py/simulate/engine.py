"""Runs a simulation: the product's band manager gives its orders to a SimCore, beside a workload's requests."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from .. import _shim
from ..conf import BLOCK_BYTES, write_buffer_blocks
from ..errors import FtlError, ParameterError
from ..ftl.gc.manager import BandManager
from ..ftl.gc.reloc import surroundings
from ..ftl.media.band import Bands
from ..ftl.media.zone_map import ZoneMap
from ..ftl.policy.guard import Guard
from ..ftl.policy.registry import make_policy
from .drive import geometry_of
from .spec import FILL, Spec
from .turns import MediaTurns
from .workloads.base import WRITE, Requests
from .workloads.parse import parse
from .workloads.trace import Trace

SAMPLES: Final = 100
"""Points of write_amplification_over_time."""
STEADY_PART: Final = 0.5
"""The last part of the writes; write_amplification is that of this part."""
REACTION_PART: Final = 0.25
"""Of a band: what reaches media at most until the band manager learns of an event, unless something waits for it."""
FILL_BATCH: Final = 1 << 20
IDLE_REQUESTS_MAX: Final = 10_000_000
"""So many requests in a row without a write: the workload writes nothing."""
_MIB: Final = 1 << 20
_DECISION, _BLOCKED = _shim.SimStop.DECISION, _shim.SimStop.BLOCKED
_BAND_NEXT_NEEDED, _BAND_RESET_DONE = _shim.EventKind.BAND_NEXT_NEEDED, _shim.EventKind.BAND_RESET_DONE


def simulate(spec: Spec, progress: Callable[[float], None] | None = None) -> dict[str, Any]:
    """The result of a simulation, JSON-able (docs/policies.md, "The simulator"). It depends only on the spec, except
    for elapsed_s and writes_per_s.

    progress(part) is called now and then, with 0 to 1. Raises ParameterError for an impossible spec, FtlError if no
    write can continue.
    """
    spec.check()
    return _Simulation(spec, progress or (lambda part: None)).run()


class _Simulation:
    def __init__(self, spec: Spec, progress: Callable[[float], None]) -> None:
        self._spec = spec
        self._progress = progress
        self._workload = parse(spec.workload, spec.block_count)
        geometry, conf = geometry_of(spec)
        self._core = _shim.SimCore(
            block_count=spec.block_count,
            band_count=spec.bands,
            band_blocks=spec.band_blocks,
            max_active_relocs=conf.max_active_relocs,
            band_threshold=conf.band_thld,
            shared_stream=spec.shared,
            reaction_blocks=int(spec.band_blocks * REACTION_PART),
        )
        self._bands = Bands(geometry, ZoneMap(geometry))
        self._turns = MediaTurns(spec.band_blocks)
        self._stuck: str | None = None
        self._resets = np.zeros(spec.bands, np.int64)
        around = surroundings(geometry, conf)
        # A limit on the time of calls would make the result depend on the machine.
        policy = Guard(conf.reloc_policy, make_policy(conf.reloc_policy, around), around, cpu_ns=lambda: 0)
        self._manager = BandManager(
            self._core,
            geometry,
            conf,
            self._bands,
            buffer_blocks=write_buffer_blocks(conf, geometry),
            policy=policy,
            on_stuck=self._on_stuck,
            on_replaced=self._on_replaced,
            turns=self._turns,
        )
        while self._manager.take_account():
            pass
        self._manager.start()

    def run(self) -> dict[str, Any]:
        total = self._spec.write_blocks
        filled = self._spec.block_count if self._spec.precondition == FILL else 0
        for lbas in self._fill() if filled else ():
            self._write(lbas)
            self._progress(self._core.next_seq / (filled + total))
        self._core.forget_stalls()
        before, resets_before = self._core.stats(), self._resets.copy()
        limits_before = dict(self._manager.limits_applied)
        moves_before = self._manager.moves_started
        began = time.perf_counter()
        points = [_Point(0, 0)]
        step = -(-total // SAMPLES)
        ended = False
        idle = 0
        requests = self._workload.requests(self._spec.seed)
        batch = next(requests, None)
        at = 0
        while batch is not None and not ended:
            wrote = self._core.next_seq - before.next_seq
            goal = min(total, (wrote // step + 1) * step)
            at, idle = self._serve(batch, at, goal - wrote, idle)
            wrote = self._core.next_seq - before.next_seq
            if wrote >= goal:
                points.append(_Point(wrote, self._core.stats().reloc_moved_blocks - before.reloc_moved_blocks))
                self._progress((filled + wrote) / (filled + total))
            ended = wrote >= total
            if at == len(batch.lba):
                batch, at = next(requests, None), 0
            if idle > IDLE_REQUESTS_MAX:
                raise FtlError(f"workload {self._spec.workload!r}: {idle} requests in a row write nothing: add writes")
        elapsed = time.perf_counter() - began
        after = self._core.stats()
        if after.next_seq == before.next_seq:
            raise FtlError(f"workload {self._spec.workload!r}: it ended without a write: use one that writes")
        if points[-1].host < after.next_seq - before.next_seq:
            moved = after.reloc_moved_blocks - before.reloc_moved_blocks
            points.append(_Point(after.next_seq - before.next_seq, moved))
        self._manager.stop()
        return self._result(
            before, after, points, elapsed, ended, self._resets - resets_before,
            moves=self._manager.moves_started - moves_before,
            limits={
                name: count - limits_before.get(name, 0)
                for name, count in self._manager.limits_applied.items()
                if count > limits_before.get(name, 0)
            },
        )  # fmt: skip

    # --- requests

    def _fill(self) -> Iterator[NDArray[np.uint64]]:
        for first in range(0, self._spec.block_count, FILL_BATCH):
            yield np.arange(first, min(first + FILL_BATCH, self._spec.block_count), dtype=np.uint64)

    def _serve(self, batch: Requests, at: int, blocks: int, idle: int) -> tuple[int, int]:
        """From request `at` on, until so many blocks were written or more: the next request, and the requests without
        a write at the end."""
        before = self._core.next_seq
        op, lba, lengths = batch.op[at:], batch.lba[at:], batch.blocks[at:]
        if not op.any() and (lengths == 1).all():
            done = self._write(lba[:blocks])
        else:
            ends = np.cumsum(np.where(op == WRITE, lengths, 0), dtype=np.int64)
            done = int(np.searchsorted(ends, blocks)) + 1
            done = self._write(lba[:done], lengths[:done], op[:done])
        return at + done, 0 if self._core.next_seq != before else idle + done

    def _write(
        self,
        lbas: NDArray[np.uint64],
        lengths: NDArray[np.uint32] | None = None,
        op: NDArray[np.uint8] | None = None,
    ) -> int:
        core, manager, turns = self._core, self._manager, self._turns
        at, count = 0, len(lbas)
        media = core.media_written_blocks
        while at < count:
            done, stop = core.run(
                lbas[at:],
                None if lengths is None else lengths[at:],
                None if op is None else op[at:],
                media_blocks=turns.blocks_left(),
            )
            at += done
            now = core.media_written_blocks
            if stop is _DECISION:
                self._take_events()
                manager.pump()
                turns.wrote(now - media)
            elif stop is _BLOCKED:
                turns.wrote(now - media)
                if now == media and not turns.skip():
                    raise FtlError("the band manager waits for nothing, and hosts wait for it")
            else:
                turns.wrote(now - media)
            media = now
            if self._stuck is not None:
                raise FtlError(f"out of space: {self._stuck}: use more reserve or more bands")
        return count

    def _take_events(self) -> None:
        for kind, number in self._core.take_events():
            if kind is _BAND_NEXT_NEEDED:
                self._manager.band_wanted(number)
            elif kind is _BAND_RESET_DONE:
                self._resets[number] += 1

    def _on_replaced(self, reason: str) -> None:
        raise FtlError(f"policy {self._spec.policy}: {reason}: with an FTL, the default would take its place")

    def _on_stuck(self, reason: str) -> None:
        self._stuck = reason

    # --- the result

    def _result(
        self,
        before: _shim.SimStats,
        after: _shim.SimStats,
        points: list[_Point],
        elapsed: float,
        ended: bool,
        resets: NDArray[np.int64],
        *,
        moves: int,
        limits: dict[str, int],
    ) -> dict[str, Any]:
        spec = self._spec
        host = after.next_seq - before.next_seq
        moved = after.reloc_moved_blocks - before.reloc_moved_blocks
        steady_from = next(i for i, point in enumerate(points) if point.host >= host * (1 - STEADY_PART))
        steady_from = min(steady_from, len(points) - 2)
        steady = _amplification(points[steady_from], points[-1])
        per_block_s = BLOCK_BYTES / (spec.media_mib_per_s * _MIB)
        share = spec.block_count / (spec.bands * spec.band_blocks)
        return {
            "spec": spec.to_dict(),
            "trace": asdict(self._workload.counts) if isinstance(self._workload, Trace) else None,
            "write_amplification": round(steady, 4),
            "write_amplification_whole": round((host + moved) / host, 4),
            "write_amplification_model": round(model(share), 4),
            "write_amplification_over_time": [
                {"writes": round(b.host / spec.block_count, 4), "write_amplification": round(_amplification(a, b), 4)}
                for a, b in itertools.pairwise(points)
            ],
            "steady_writes": points[-1].host - points[steady_from].host,
            "block_count": spec.block_count,
            "host_writes": host,
            "trimmed": after.user_trimmed_blocks - before.user_trimmed_blocks,
            "media_writes": host + moved,
            "relocated": moved,
            "workload_ended": not ended,
            "gc": {
                "moves": moves,
                "valid_part": round(moved / (moves * spec.band_blocks), 4) if moves else 0.0,
                "relocated_per_write": round(moved / host, 4),
                "scanned": after.scanned_blocks - before.scanned_blocks,
            },
            "wear": {
                "resets": int(resets.sum()),
                "min": int(resets.min()),
                "mean": round(float(resets.mean()), 2),
                "max": int(resets.max()),
                "max_to_mean": round(float(resets.max() / resets.mean()), 3) if resets.any() else 1.0,
            },
            "limits_applied": limits,
            "limits": self._manager.limits.to_dict(),
            "free_bands": self._bands.free_count,
            "latency": {
                "media_mib_per_s": spec.media_mib_per_s,
                "host_iops": round(1 / (steady * per_block_s)),
                "host_write_us": round(steady * per_block_s * 1e6, 2),
                "wait_us_p99": round(_quantile(after.stalls, 0.99) * per_block_s * 1e6, 1),
                "wait_us_p999": round(_quantile(after.stalls, 0.999) * per_block_s * 1e6, 1),
                "wait_us_max": round(after.stall_blocks_max * per_block_s * 1e6, 1),
            },
            "elapsed_s": round(elapsed, 3),
            "writes_per_s": round(host / elapsed) if elapsed else 0,
            "memory_bytes": self._core.memory_bytes,
        }


class _Point:
    def __init__(self, host: int, moved: int) -> None:
        self.host = host
        self.moved = moved


def _amplification(a: _Point, b: _Point) -> float:
    return 1 + (b.moved - a.moved) / (b.host - a.host)


def _quantile(counts: list[int], part: float) -> int:
    """counts[i]: how often a number was below 2^i, and at least half of that. The bound above this part of them."""
    seen, goal = 0, part * sum(counts)
    for i, number in enumerate(counts):
        seen += number
        if seen >= goal:
            return (1 << i) - 1
    return 0


def model(share: float) -> float:
    """The WA of uniform writes with greedy choice, with a large number of bands, for the ratio of logical to physical
    blocks: 1 / (1 - v), where v = exp((v - 1) / share) is the valid part of the victims."""
    if not 0 < share < 1:
        raise ParameterError(f"a share of {share}: must be between 0 and 1")
    valid = 0.5
    for _ in range(10_000):
        after = math.exp((valid - 1) / share)
        if abs(after - valid) < 1e-12:
            break
        valid = after
    return 1 / (1 - valid)
