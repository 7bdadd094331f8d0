"""A campaign: the worlds of a seed from 0 on, run by many workers side by side, until enough crashes have happened.

Which worlds there are depends on nothing but the seed, the options and the number of crashes, and so does the digest
over all results: however many workers there are, in whatever order they answer, and however often one of them dies.
"""

from __future__ import annotations

import dataclasses
import hashlib
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from ..errors import FtlError
from ..workers.identity import identity
from ..workers.journal import Journal, Record
from ..workers.spread import Hooks, spread
from ..workers.work import Answer, Task, Workers
from . import one_world
from .options import Options
from .report import Progress, Report
from .result import WorldResult
from .run import CRASHES_PER_WORLD, add

WORLDS_PER_CHUNK: Final = 8
"""Some 20 seconds. A worker that starts a process for each chunk needs half a second for that."""
VIOLATING_WORLDS_MAX: Final = 100
"""A campaign gives no more worlds then: the code is broken, which they would only say again."""
_FORMAT: Final = 1
_DIGEST_BITS: Final = 256


class Campaign:
    """Gives worlds, and counts what comes back in the report, each world once.

    path: a file that says which worlds were given and what has become of them. If it exists, the campaign goes on.
    Raises FtlError if it is that of another campaign, or of other code.
    """

    def __init__(
        self, options: Options, report: Report, path: Path | None, *, function: str = one_world.FUNCTION
    ) -> None:
        self.options = options
        self.report = report
        self.finished: set[int] = set()
        self.violating: list[int] = []
        """Worlds with violations."""
        self.lost: set[int] = set()
        """Worlds that were given in an earlier run, of which nothing was heard. They are given again."""
        self._function = function
        self._next = 0
        self._pending: set[int] = set()
        self._sum = 0
        self._journal: Journal | None = None
        if path is None:
            return
        self._journal = Journal(path, "campaign")
        try:
            header = {"campaign": _FORMAT, "options": _deciding(options), "code": identity()}
            self._journal.begin(header, "give another file, or the same options with the same package")
            for record in self._journal.records:
                self._read(record)
        except BaseException:
            self._journal.close()
            raise
        self.lost -= self.finished

    def close(self) -> None:
        if self._journal is not None:
            self._journal.close()

    @property
    def crashes(self) -> int:
        return int(self.report.values["crashes"])

    @property
    def dropped(self) -> int:
        """Bytes of the file that a crash has torn."""
        return self._journal.dropped if self._journal is not None else 0

    @property
    def complete(self) -> bool:
        """run() would give no world."""
        enough = self.crashes >= self.options.crashes or len(self.violating) >= VIOLATING_WORLDS_MAX
        # There may be very many, of which none is finished.
        return enough or all(number in self.finished for number in range(self.options.crashes))

    def run(self, workers: Workers, progress: Progress, told: Callable[[str], None]) -> None:
        """Raises FtlError. What is finished by then is in the report, and in the file."""
        began, before = time.monotonic(), self.crashes

        def answered(answers: Sequence[Answer]) -> None:
            # A world that was lost says nothing about the code. It can't be left out either.
            lost = [each for each in answers if each.lost]
            results = {
                each.key: one_world.failed(each.error) if each.error else each.value
                for each in answers
                if not each.lost
            }
            if self._journal is not None and results:
                self._journal.append(*({"world": number, "result": values} for number, values in results.items()))
            for number, values in results.items():
                self._count(number, values)
            elapsed_s = time.monotonic() - began
            rate = (self.crashes - before) / max(elapsed_s, 1e-3)
            self.report.values.update(elapsed_s=round(elapsed_s, 3), crashes_per_s=round(rate, 3))
            note = f"{len(self.finished):,} worlds, {rate:,.1f} crashes/s"
            progress(self.crashes, note + (f", {len(self.violating)} with violations" if self.violating else ""))
            if lost:
                raise FtlError(f"world {lost[0].key}: {lost[0].error}: mend the workers, and start the command again")

        spread(workers, self._function, self._source, Hooks(answered, told, self._given), size=self._size)

    # --- what is given

    def _size(self, capacity: int) -> int:
        """Small at the end, so that all workers are done at the same time."""
        left = (self.options.crashes - self.crashes) // CRASHES_PER_WORLD - len(self._pending)
        return min(WORLDS_PER_CHUNK, left // (2 * capacity))

    def _source(self) -> Task | None:
        """The next world, if those that were given are too few even if none of them ends early."""
        if self.crashes + CRASHES_PER_WORLD * len(self._pending) >= self.options.crashes:
            return None
        while self._next in self.finished:
            self._next += 1
        if len(self.violating) >= VIOLATING_WORLDS_MAX or self._next >= self.options.crashes:
            return None
        number = self._next
        self._next += 1
        self._pending.add(number)
        return Task(number, one_world.argument(self.options, number, CRASHES_PER_WORLD))

    def _given(self, tasks: Sequence[Task]) -> None:
        if self._journal is not None:
            self._journal.append({"given": [task.key for task in tasks]})

    # --- what comes back

    def _read(self, record: Record) -> None:
        self.lost.update(record.get("given", ()))
        if "world" in record and record["world"] not in self.finished:
            self._count(record["world"], record["result"])

    def _count(self, number: int, values: dict[str, Any]) -> None:
        result = one_world.from_dict(values)
        self.finished.add(number)
        self._pending.discard(number)
        add(self.report, result)
        if result.violations:
            self.violating.append(number)
            self._violated(number, result)
        # A sum, because worlds come in any order.
        self._sum += int.from_bytes(hashlib.sha256(f"{number}/{result.digest}".encode()).digest(), "big")
        self.report.values["digest"] = f"{self._sum % (1 << _DIGEST_BITS):0{_DIGEST_BITS // 4}x}"

    def _violated(self, number: int, result: WorldResult) -> None:
        replay = self.options.replay(number, CRASHES_PER_WORLD)
        found = [{**dataclasses.asdict(each), "world": number} for each in result.violations]
        found[0].update(after=result.last_crash, crash=result.crashes, shape=result.shape, replay=replay)
        values = self.report.values
        self.report.violated(found, replay)
        values["found"].sort(key=lambda each: each["world"])
        values["replays"] = [each["replay"] for each in values["found"] if "replay" in each]
        values["replay"] = values["replays"][0]


def _deciding(options: Options) -> dict[str, Any]:
    """Those that decide what happens in a world. A campaign may be given more crashes later."""
    values = dataclasses.asdict(options)
    del values["crashes"], values["world"]
    return values
