"""A torture run: one world after the other, until there were enough crashes or a promise was broken."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import logging
import random
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from ..runtime.signals import on_signals
from .chained_world import ChainedWorld
from .clock import SimulatedClock, run_simulated
from .options import Options
from .report import Progress, Report
from .result import WorldResult
from .world import World

CRASHES_PER_WORLD: Final = 20
"""Small, so that a run sees many geometries, and a failure can be replayed without everything before it."""


CHAINED_WORLDS: Final = 1 / 3


class Interrupted(KeyboardInterrupt):
    """The user ended a world between two of its lives. The results so far are reported."""

    def __init__(self, result: WorldResult) -> None:
        super().__init__()
        self.result = result


def run_torture(options: Options, report: Report, progress: Progress) -> None:
    """Fills the report. Ends with the first world that breaks a promise. Raises KeyboardInterrupt if the user ends the
    run; the report then has the results so far."""
    began = time.monotonic()
    digest = hashlib.sha256()
    done = 0
    numbers = itertools.count() if options.world is None else iter([options.world])
    with devices_quiet():
        for number in numbers:
            crashes = options.crashes - done
            if options.world is None:
                crashes = min(crashes, CRASHES_PER_WORLD)
            before = done

            def lived(result: WorldResult, number: int = number, before: int = before) -> None:
                progress(before + result.crashes, f"world {number}: {result.shape}")

            interrupted: Interrupted | None = None
            try:
                result = run_world(options, number, crashes, lived)
            except Interrupted as error:
                interrupted, result = error, error.result
            done += result.crashes
            digest.update(result.digest.encode())
            add(report, result)
            report.values["digest"] = digest.hexdigest()
            report.values["elapsed_s"] = round(time.monotonic() - began, 3)
            if result.violations:
                found = [{**dataclasses.asdict(each), "world": number} for each in result.violations]
                found[0].update(after=result.last_crash, crash=result.crashes, shape=result.shape)
                report.violated(found, options.replay(number, crashes))
                return
            if interrupted is not None:
                raise interrupted
            if done >= options.crashes:
                return


def is_chained(options: Options, number: int) -> bool:
    if options.chain is not None:
        return options.chain
    return random.Random(f"{options.seed}/{number}/chained").random() < CHAINED_WORLDS


def run_world(
    options: Options, number: int, crashes: int, progress: Callable[[WorldResult], None] = lambda result: None
) -> WorldResult:
    clock = SimulatedClock()
    kind = ChainedWorld if is_chained(options, number) else World
    world = kind(
        options.seed,
        number,
        every=options.every,
        use_append=options.use_append,
        cache=options.cache,
        faults=options.faults,
        clock=clock,
        cores=options.cores,
        classes=options.classes,
        checkpoint=options.checkpoint,
    )

    async def lived() -> WorldResult:
        with _ending_at_signals(world):
            return await world.run(crashes, lambda: progress(world.result))

    result = run_simulated(clock, lived())
    if world.ending:
        raise Interrupted(result)
    return result


@contextmanager
def _ending_at_signals(world: World) -> Iterator[None]:
    """The first Ctrl-C takes effect between two lives, where everything can be closed in order. A second one takes
    effect at once."""

    def end(_number: signal.Signals) -> None:
        if world.ending:
            raise KeyboardInterrupt
        world.ending = True

    with on_signals(end):
        yield


def add(report: Report, result: WorldResult) -> None:
    report.add(
        worlds=1,
        crashes=result.crashes,
        clean_halts=result.clean_halts,
        loads=result.loads,
        loads_interrupted=result.loads_interrupted,
        checks=result.checks,
        blocks_verified=result.blocks_verified,
        ios=result.io_count,
        media_operations=result.media_operations,
        faults=result.faults,
        growths=result.growths,
        copies=result.copies,
        out_of_space=result.out_of_space,
        **result.stats,
    )
    report.count("kinds", result.kinds)
    report.count("places", result.places)


@contextmanager
def devices_quiet() -> Iterator[None]:
    """Silences the errors that devices log when they are crashed on purpose."""
    logger = logging.getLogger("spdk_ftl_py.ftl")
    before = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        logger.setLevel(before)
