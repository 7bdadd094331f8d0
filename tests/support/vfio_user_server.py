"""A process that serves a drive in a file over vfio-user, through a keeper: to be killed.

``python -m support.vfio_user_server DIRECTORY FILE``: says "ready" when a client that was there goes on.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path
from uuid import UUID

from spdk_ftl_py import _shim
from spdk_ftl_py.nvme.target.subsystem import Subsystem
from spdk_ftl_py.nvme.target.traits import TargetLimits
from spdk_ftl_py.runtime.reactor import ReactorLoop
from spdk_ftl_py.vfio_user.target.listener import VfioUserListener

BLOCKS = 4096
NQN = "nqn.2026-11.io.spdk-ftl.test:killed"


class Server:
    def __init__(self, directory: Path, file: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__, str(directory), str(file)], stdout=subprocess.PIPE, text=True,
            stdin=subprocess.DEVNULL, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )  # fmt: skip
        assert self._process.stdout is not None
        self.ready = self._process.stdout.readline().strip() == "ready"

    def kill(self) -> None:
        self._process.kill()
        self.close()

    def stop(self) -> int:
        """In order: its keeper ends, too. Returns the exit status."""
        self._process.terminate()
        return self.close()

    def close(self) -> int:
        with self._process as process:
            return process.wait()


async def main(directory: Path, file: Path) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async with ReactorLoop("served") as reactor:
        subsystem = Subsystem(NQN, allow_any_host=True)
        media = _shim.EmulatedMedia.conventional(reactor.shim, BLOCKS, path=str(file))
        subsystem.add_namespace(media, uuid=UUID(int=1))
        limits = TargetLimits(max_io_bytes=131072, in_capsule_bytes=0, max_queue_depth=128, max_io_qpairs=16)
        listener = VfioUserListener(reactor, subsystem, directory, limits, keeper=True)
        await listener.start()
        print("ready", flush=True)
        await stop.wait()
        await listener.stop()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), Path(sys.argv[2])))
