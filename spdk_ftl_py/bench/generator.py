"""The process that does the I/O: an NVMe/TCP host with load generators, which the bench drives by lines of JSON.

``python -m spdk_ftl_py.bench.generator``: each line on standard input is a request, each line on standard output its
answer, ``{"error": …}`` if it failed. The process sleeps when it has nothing to do, as a host that is not SPDK does.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from typing import Any, Final

from .. import _shim
from ..errors import FtlError, MediaError, NotFoundError, ParameterError
from ..nvme.host.controller import Controller
from ..nvme.wire import status_text
from ..runtime.reactor import ReactorLoop, load_ended
from .cpu import cpu_ns

QUEUE_DEPTH_MAX: Final = 128
IO_BLOCKS_MAX: Final = 32
BLOCKS_MAX: Final = 1 << 32
"""Of one generator."""
SEED: Final = 1
"""One for all, so that each generator recognizes what another one wrote."""
KATO_MS: Final = 60_000
END_S: Final = 30.0
"""A window that takes so much longer than planned is stuck."""


class Device:
    """One namespace, with a queue and generators for each of its qpairs. Its reactor is its own: what idles on another
    device costs nothing here."""

    def __init__(self, reactor: ReactorLoop, controller: Controller, block_count: int) -> None:
        self.block_count = block_count
        self.reactor = reactor
        self._controller = controller
        self._qpairs: list[_shim.BlockDevice] = []
        self._generators: dict[tuple[int, int, int], _shim.LoadGenerator] = {}
        self._verify = "whole"

    @classmethod
    async def connect(
        cls, *, traddr: str, trsvcid: str, subnqn: str, qpairs: int, verify: str, hostnqn: str,
        header_digest: bool, data_digest: bool,
    ) -> Device:  # fmt: skip
        """Raises FtlError."""
        reactor = ReactorLoop("bench client")
        await reactor.start()
        try:
            controller = await Controller.connect(
                traddr, trsvcid, subnqn, hostnqn=hostnqn, header_digest=header_digest, data_digest=data_digest,
                kato_ms=KATO_MS,
            )  # fmt: skip
        except BaseException:
            await reactor.stop()
            raise
        try:
            namespaces = await controller.namespaces()
            if not namespaces:
                raise NotFoundError(f"{subnqn} has no namespace that {hostnqn} may use")
            namespace = namespaces[0]
            self = cls(reactor, controller, namespace.block_count)
            self._verify = verify
            for _ in range(qpairs):
                qpair = await controller.create_io_qpair(reactor, namespace, queue_depth=QUEUE_DEPTH_MAX)
                self._qpairs.append(qpair)
        except BaseException:
            await controller.close()
            await reactor.stop()
            raise
        return self

    async def close(self) -> None:
        for generator in self._generators.values():
            with contextlib.suppress(RuntimeError):
                generator.close()
        self._generators.clear()
        await self._controller.close()
        await self.reactor.stop()

    def generators(self, qpairs: int, blocks: int, spare: int = 0) -> list[_shim.LoadGenerator]:
        """One for each qpair, for equal parts of the first blocks. spare: leaves out so many qpairs."""
        if not 1 <= qpairs + spare <= len(self._qpairs):
            raise ParameterError(f"qpairs {qpairs + spare}: the device has {len(self._qpairs)}")
        part = min(min(blocks or self.block_count, self.block_count) // qpairs, BLOCKS_MAX)
        found = []
        for index in range(qpairs):
            key = (index + spare, index * part, part)
            if key not in self._generators:
                self._generators[key] = _shim.LoadGenerator(
                    self.reactor.shim, self._qpairs[index + spare], first_lba=index * part, lba_count=part, seed=SEED,
                    max_queue_depth=QUEUE_DEPTH_MAX, max_io_blocks=IO_BLOCKS_MAX, verify=self._verify,  # type: ignore[arg-type]
                )  # fmt: skip
            found.append(self._generators[key])
        return found


class Bench:
    def __init__(self) -> None:
        self._devices: dict[str, Device] = {}

    async def close(self) -> None:
        for device in self._devices.values():
            with contextlib.suppress(FtlError):
                await device.close()

    async def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        do = request.pop("do")
        if do == "connect":
            return await self._connect(**request)
        if do == "disconnect":
            device = self._devices.pop(request["device"], None)
            if device is not None:
                await device.close()
            return {}
        if do == "run":
            return await self._run(**request)
        raise ParameterError(f"do {do!r}: must be connect, disconnect or run")

    async def _connect(self, device: str, **how: Any) -> dict[str, Any]:
        if device in self._devices:
            await self._devices.pop(device).close()
        self._devices[device] = found = await Device.connect(**how)
        return {"block_count": found.block_count}

    async def _run(
        self, device: str, *, run: dict[str, Any], qpairs: int, blocks: int, seconds: float, total_blocks: int,
        warm_s: float, pids: dict[str, int], beside: dict[str, Any] | None,
    ) -> dict[str, Any]:  # fmt: skip
        """One window. blocks: of the device, from the first on; 0: all. total_blocks: at most so many, of all qpairs
        together; 0: no limit. beside: a run on a further qpair meanwhile."""
        found = self._devices.get(device)
        if found is None:
            raise NotFoundError(f"device {device!r} is not connected")
        generators = found.generators(qpairs, blocks)
        others = found.generators(1, blocks, spare=qpairs) if beside is not None else []
        limit: dict[str, Any] = {} if total_blocks == 0 else {"total_blocks": max(1, total_blocks // qpairs)}
        for other in others:
            other.start(**(beside or {}), time_limit_s=warm_s + seconds + END_S)
        try:
            warm_blocks = 0
            if warm_s:
                warm = await self._window(found, generators, seconds=warm_s, run=run, limit=limit)
                warm_blocks = _sum(warm, "done_blocks")
            busy_before = {name: cpu_ns(pid) for name, pid in pids.items()}
            beside_before = [other.progress().done_blocks for other in others]
            results = await self._window(found, generators, seconds=seconds, run=run, limit=limit)
            busy_after = {name: cpu_ns(pid) for name, pid in pids.items()}
            beside_blocks = sum(
                other.progress().done_blocks - before for other, before in zip(others, beside_before, strict=True)
            )
        finally:
            await self._stop(others)
        return {
            **_merged(results),
            "warm_blocks": warm_blocks,
            "beside_blocks": beside_blocks,
            "cpu_ns": {
                name: after - before
                for name, after in busy_after.items()
                if after is not None and (before := busy_before[name]) is not None
            },
        }

    async def _window(
        self, device: Device, generators: list[_shim.LoadGenerator], *, seconds: float, run: dict[str, Any],
        limit: dict[str, Any],
    ) -> list[_shim.LoadProgress]:  # fmt: skip
        ended = {generator.id: asyncio.Event() for generator in generators}
        for generator in generators:
            self._subscribe(device.reactor, generator, ended[generator.id])
        try:
            for generator in generators:
                generator.start(**run, **limit, time_limit_s=seconds)
            waiting = asyncio.gather(*(event.wait() for event in ended.values()))
            done, _ = await asyncio.wait([asyncio.ensure_future(waiting)], timeout=(seconds or 600) + END_S)
            if not done:
                waiting.cancel()
                raise MediaError(f"{run['kind']}: outstanding I/O has not completed for {END_S:g} s")
        finally:
            for generator in generators:
                device.reactor.unsubscribe(generator.id)
        return [_checked(run["kind"], generator.progress()) for generator in generators]

    @staticmethod
    def _subscribe(reactor: ReactorLoop, generator: _shim.LoadGenerator, ended: asyncio.Event) -> None:
        reactor.subscribe(generator.id, lambda event: ended.set() if load_ended(event, generator) else None)

    async def _stop(self, generators: list[_shim.LoadGenerator]) -> None:
        for generator in generators:
            generator.stop()
        for _ in range(int(END_S / 0.01)):
            if not any(generator.progress().running for generator in generators):
                return
            await asyncio.sleep(0.01)
        raise MediaError(f"writes beside the reads have not completed for {END_S:g} s")


def _checked(kind: str, progress: _shim.LoadProgress) -> _shim.LoadProgress:
    if progress.io_errors:
        raise MediaError(
            f"{kind}: {progress.io_errors} I/Os failed, last at block {progress.last_error_lba}: "
            f"{status_text(progress.last_error_status)}"
        )
    if progress.verify_errors:
        first = progress.mismatches[0].as_dict() if progress.mismatches else {}
        raise MediaError(f"{kind}: {progress.verify_errors} blocks had wrong content; the first: {first}")
    return progress


def _sum(results: list[_shim.LoadProgress], field: str) -> int:
    return sum(int(getattr(result, field)) for result in results)


def _merged(results: list[_shim.LoadProgress]) -> dict[str, Any]:
    """Of several generators: sums; of latencies the mean weighted by I/Os, of percentiles the worst."""
    ios = _sum(results, "done_ios")
    latencies = [result.latency_ns.as_dict() for result in results]
    merged = {key: max(each[key] for each in latencies) for key in latencies[0]}
    merged["min"] = min(each["min"] for each in latencies)
    merged["mean"] = sum(
        each["mean"] * result.done_ios for each, result in zip(latencies, results, strict=True)
    ) // max(1, ios)
    return {
        "ios": ios,
        "blocks": _sum(results, "done_blocks"),
        "written_blocks": _sum(results, "written_blocks"),
        "seconds": max(result.elapsed_ns for result in results) / 1e9,
        "latency_us": {key: value / 1e3 for key, value in merged.items()},
    }


async def serve() -> None:
    """Answers requests until standard input ends."""
    loop = asyncio.get_running_loop()
    bench = Bench()
    try:
        while line := await loop.run_in_executor(None, sys.stdin.readline):
            try:
                answer = await bench.answer(json.loads(line))
            except FtlError as error:
                answer = {"error": error.message}
            except (OSError, ValueError, RuntimeError) as error:
                answer = {"error": f"{type(error).__name__}: {error}"}
            print(json.dumps(answer), flush=True)
    finally:
        await bench.close()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve())
