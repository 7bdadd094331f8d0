"""A stock Linux machine in QEMU under software emulation, driven over its second serial port.

The guest reaches services on this machine's loopback at ``HOST_ADDRESS``; this machine reaches a port of the guest
through ``Guest.forward``. The first serial port is the kernel's console, kept in a file for the report of a failure.
"""

from __future__ import annotations

import base64
import ctypes
import json
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from interop.kernel import Kernel, build_initramfs, fetch_kernel, find_tool

HOST_ADDRESS = "10.0.2.2"  # QEMU's user network: this machine's loopback
GUEST_ADDRESS = "10.0.2.15"
MEMORY_MIB = 640
BOOT_TIMEOUT_S = 180.0
MONITOR_TIMEOUT_S = 60.0
OUTPUT_BYTES_MAX = 4 << 20
CONSOLE_TAIL_LINES = 60
PR_SET_PDEATHSIG = 1

# A request is one line "ID SECONDS BASE64"; the answer is base64 lines between "@BEGIN ID" and "@END ID EXITCODE".
# Nothing else is written to ttyS1, and base64 keeps a script's output from ever looking like a marker.
# The reader is not PID 1: that gets a SIGCHLD for every orphan that ends, and busybox's `read` throws away what it has
# of a line when one comes.
INIT_SCRIPT = f"""#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/host:/bin HOME=/tmp
mount -t proc none /proc
mount -t sysfs none /sys
mount -t devtmpfs none /dev
mount -t tmpfs none /tmp
mount -t tmpfs none /run
@MODULES@
mount -t configfs none /sys/kernel/config
ip link set lo up
ip link set eth0 up
ip address add {GUEST_ADDRESS}/24 dev eth0
ip route add default via {HOST_ADDRESS}
stty -F /dev/ttyS1 raw -echo
(
    exec </dev/ttyS1 >/dev/ttyS1 2>/dev/console
    echo @READY
    while read -r id seconds script; do
        echo "$script" | base64 -d >/tmp/script
        timeout -s KILL "$seconds" sh /tmp/script </dev/null >/tmp/output 2>&1
        code=$?
        echo "@BEGIN $id"
        base64 /tmp/output
        echo "@END $id $code"
    done
) &
wait $!
"""


class GuestError(RuntimeError):
    """The guest did not boot, died, or did not answer in time; it is of no further use. Ends with its console."""


class CommandFailedError(AssertionError):
    """A command in the guest exited with another code than 0."""


@dataclass(frozen=True)
class Result:
    code: int
    output: str


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


class Guest:
    """One running guest. Not thread-safe, but any one thread may use it (asyncio tests use asyncio.to_thread)."""

    def __init__(self, kernel: Kernel | None = None, *, memory_mib: int = MEMORY_MIB) -> None:
        """Boots (None: the distribution's kernel), and returns when the guest takes commands. Raises
        KernelUnavailableError or GuestError."""
        kernel = kernel or fetch_kernel()
        qemu = find_tool("qemu-system-x86_64", "qemu-system-x86")
        # Not pytest's folder: socket paths may have 107 characters at most.
        self._folder = Path(tempfile.mkdtemp(prefix="spdk-ftl-guest-"))
        self.kernel_version = kernel.version
        self._serial: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._pending = b""
        self._next_id = 1
        self._broken: str | None = None
        try:
            initramfs = self._folder / "initramfs"
            initramfs.write_bytes(build_initramfs(kernel, INIT_SCRIPT))
            self._start(qemu, kernel.image, initramfs, memory_mib)
            deadline = time.monotonic() + BOOT_TIMEOUT_S
            while (line := self._read_line(deadline)) != "@READY":
                if line.startswith("@FAILED"):
                    raise self._error(f"boot of kernel {kernel.version}: {line}")
            initramfs.unlink()
        except BaseException:
            self.close()
            raise

    def _start(self, qemu: Path, image: Path, initramfs: Path, memory_mib: int) -> None:
        self.console_path.touch()
        with (self._folder / "qemu.log").open("wb") as log:
            self._process = subprocess.Popen(
                [
                    *(str(qemu), "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"),
                    *("-machine", "pc", "-accel", "tcg", "-cpu", "max", "-smp", "1", "-m", str(memory_mib)),
                    *("-kernel", str(image), "-initrd", str(initramfs)),
                    *("-append", "console=ttyS0 panic=-1 loglevel=5 mitigations=off nokaslr rdinit=/init"),
                    *("-serial", f"file:{self.console_path}"),
                    *("-chardev", f"socket,id=command,path={self._folder}/serial,server=on,wait=off"),
                    *("-serial", "chardev:command"),
                    *("-qmp", f"unix:{self._folder}/qmp,server=on,wait=off"),
                    *("-netdev", "user,id=net0", "-device", "virtio-net-pci,netdev=net0,romfile="),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=_die_with_parent,
            )
        self._serial = self._connect("serial")

    def _connect(self, name: str) -> socket.socket:
        """QEMU makes its sockets a moment after it starts."""
        deadline = time.monotonic() + BOOT_TIMEOUT_S
        while True:
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                connection.connect(f"{self._folder}/{name}")
                return connection
            except OSError:
                connection.close()
                if self._process is None or self._process.poll() is not None or time.monotonic() > deadline:
                    raise self._error(f"QEMU did not start: {(self._folder / 'qemu.log').read_text()}") from None
                time.sleep(0.02)  # a wait for another process; nothing announces the socket

    @property
    def is_broken(self) -> bool:
        """It hung or died: of no further use."""
        return self._broken is not None

    @property
    def console_path(self) -> Path:
        return self._folder / "console.log"

    def console_tail(self, lines: int = CONSOLE_TAIL_LINES) -> str:
        text = self.console_path.read_text(errors="replace") if self.console_path.exists() else ""
        return "\n".join(text.splitlines()[-lines:])

    def _error(self, message: str) -> GuestError:
        self._broken = message
        return GuestError(f"{message}\n--- guest console ---\n{self.console_tail()}")

    def _read_line(self, deadline: float) -> str:
        assert self._serial is not None
        while b"\n" not in self._pending:
            if len(self._pending) > OUTPUT_BYTES_MAX:
                raise self._error("the guest sends without end")
            self._serial.settimeout(max(0.01, deadline - time.monotonic()))
            try:
                received = self._serial.recv(65536)
            except TimeoutError:
                raise self._error("the guest did not answer in time") from None
            if not received:
                raise self._error("the guest died")
            self._pending += received
        line, self._pending = self._pending.split(b"\n", 1)
        return line.decode(errors="replace").strip("\r")

    def run(self, script: str, timeout_s: float = 60.0, *, check: bool = True) -> Result:
        """Runs a shell script as root; stdout and stderr come back together.

        Raises CommandFailedError on another exit code than 0 (unless check is False; 137: killed after timeout_s),
        GuestError when the guest itself hangs or died.
        """
        if self._broken is not None or self._serial is None:
            raise GuestError(f"the guest is of no use any more: {self._broken or 'closed'}")
        request, self._next_id = self._next_id, self._next_id + 1
        encoded = base64.b64encode(script.encode()).decode()
        self._serial.settimeout(timeout_s)
        self._serial.sendall(f"{request} {int(timeout_s) + 1} {encoded}\n".encode())
        deadline = time.monotonic() + timeout_s + 30.0  # the guest's own time-out comes first
        while self._read_line(deadline) != f"@BEGIN {request}":
            pass
        body: list[str] = []
        while not (line := self._read_line(deadline)).startswith(f"@END {request} "):
            body.append(line)
        result = Result(int(line.split()[2]), base64.b64decode("".join(body)).decode(errors="replace"))
        if check and result.code != 0:
            raise CommandFailedError(
                f"exit code {result.code} of\n{script}\n--- output ---\n{result.output}\n"
                f"--- guest console ---\n{self.console_tail()}"
            )
        return result

    def forward(self, guest_port: int) -> int:
        """Makes a TCP port of the guest reachable at 127.0.0.1; returns the port here (chosen by the system)."""
        if (known := self._forwarded(guest_port)) is not None:
            return known
        self._monitor(f"hostfwd_add net0 tcp:127.0.0.1:0-:{guest_port}")
        port = self._forwarded(guest_port)
        if port is None:
            raise self._error(f"QEMU does not forward port {guest_port}: {self._monitor('info usernet')}")
        return port

    def _forwarded(self, guest_port: int) -> int | None:
        pattern = rf"TCP\[HOST_FORWARD\]\s+\d+\s+127\.0\.0\.1\s+(\d+)\s+\S+\s+{guest_port}\s"
        found = re.search(pattern, self._monitor("info usernet"))
        return int(found.group(1)) if found else None

    def _monitor(self, command: str) -> str:
        with self._connect("qmp") as connection, connection.makefile("rw") as stream:
            connection.settimeout(MONITOR_TIMEOUT_S)
            stream.readline()  # greeting
            answer = {}
            for request in (
                {"execute": "qmp_capabilities"},
                {"execute": "human-monitor-command", "arguments": {"command-line": command}},
            ):
                stream.write(json.dumps(request) + "\n")
                stream.flush()
                answer = json.loads(stream.readline())
                while "event" in answer:
                    answer = json.loads(stream.readline())
            return str(answer.get("return", answer))

    def close(self) -> None:
        """Kills the machine; idempotent."""
        if self._serial is not None:
            self._serial.close()
            self._serial = None
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
        shutil.rmtree(self._folder, ignore_errors=True)

    def __enter__(self) -> Guest:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
