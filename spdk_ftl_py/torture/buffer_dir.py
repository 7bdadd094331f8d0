"""The directory of write buffer files, in the state in which a crash leaves it."""

from __future__ import annotations

import random
import shutil
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Final

SHARED_MEMORY: Final = Path("/dev/shm")
STALE: Final = 0.3
"""How often the files of an earlier life appear when those of this life are lost."""

Files = dict[str, bytes]


class BufferDir:
    """A temporary directory for one world. A device that is killed cannot clean it up."""

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
        """Records the files at the moment of the crash. Later changes are undone by thaw()."""
        self._at_crash = {path.name: path.read_bytes() for path in sorted(self.path.iterdir())}

    def thaw(self, *, kept: bool) -> bool:
        """Called after the device is gone. Restores the recorded files if kept; otherwise removes them, or restores
        those of an earlier life. The files of an earlier life still count if all loads since then were crashed. Returns
        whether there are files."""
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
