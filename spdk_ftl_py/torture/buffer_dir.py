"""The directory of write buffer files, as a crash leaves it behind."""

from __future__ import annotations

import random
import shutil
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Final

SHARED_MEMORY: Final = Path("/dev/shm")
STALE: Final = 0.3
"""How often, where the files are lost, those of an earlier life turn up instead."""

Files = dict[str, bytes]


class BufferDir:
    """A temporary directory for one world; a device that is killed does not get to tidy it up."""

    def __init__(self, rng: random.Random) -> None:
        where = SHARED_MEMORY if SHARED_MEMORY.is_dir() else None
        self.path = Path(tempfile.mkdtemp(prefix="spdk-ftl-torture-", dir=where))
        self._rng = rng
        self._at_crash: Files = {}
        self._earlier: Files = {}

    def __enter__(self) -> BufferDir:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        shutil.rmtree(self.path, ignore_errors=True)

    def freeze(self) -> None:
        """The moment of the crash: what happens to the files from here on did not happen."""
        self._at_crash = {path.name: path.read_bytes() for path in sorted(self.path.iterdir())}

    def thaw(self, *, kept: bool) -> bool:
        """After the device is gone. Whether there are files: also where they are lost one of an earlier life may be,
        which counts if that life had no successor (all loads since were crashed)."""
        if not kept and self._rng.random() < STALE:
            left, self._earlier = self._earlier, self._at_crash
        else:
            left = self._at_crash if kept else {}
            if self._rng.random() < STALE:
                self._earlier = self._at_crash
        for path in self.path.iterdir():
            path.unlink()
        for name, content in left.items():
            (self.path / name).write_bytes(content)
            (self.path / name).chmod(0o600)
        return bool(left)
