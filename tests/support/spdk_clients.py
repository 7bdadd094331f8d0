"""Stock spdk-rpc of given releases, from PyPI, each in a folder of its own that test runs share."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

RELEASES = ("25.5", "26.5", "26.9")
"""Oldest, the one whose target we follow, newest."""

INSTALL_TIMEOUT_S = 300.0
RPC_TIMEOUT_S = 120.0
PROGRAM = "import sys; from spdk.spdk_rpc import main; sys.argv[0] = 'spdk-rpc'; sys.exit(main())"
_ROOT = Path(__file__).resolve().parents[2]


def cache_folder() -> Path:
    """SPDK_FTL_TEST_CACHE, else tox's own, else tests/.cache."""
    chosen = os.environ.get("SPDK_FTL_TEST_CACHE")
    if chosen:
        return Path(chosen)
    tox = os.environ.get("TOX_WORK_DIR")
    return Path(tox) / "spdk-clients" if tox else _ROOT / "tests" / ".cache"


def install(release: str) -> Path:
    """The folder with that release, installed if it is not there; any number of test runs may ask at once."""
    cache = cache_folder()
    cache.mkdir(parents=True, exist_ok=True)
    folder = cache / f"spdk-{release}"
    with (cache / f"spdk-{release}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if folder.is_dir():
            return folder
        # Renamed only when it is whole: a run that was killed leaves nothing that looks installed.
        partial = Path(tempfile.mkdtemp(prefix=f"spdk-{release}-", dir=cache))
        try:
            done = subprocess.run(
                [*_installer(), "--quiet", "--no-deps", "--target", str(partial), f"spdk=={release}"],
                capture_output=True,
                text=True,
                timeout=INSTALL_TIMEOUT_S,
                check=False,
            )
            assert done.returncode == 0, f"could not install spdk=={release}:\n{done.stdout}{done.stderr}"
            partial.rename(folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return folder


def _installer() -> list[str]:
    """uv is there in tox's environments, which have no pip."""
    if uv := shutil.which("uv"):
        return [uv, "pip", "install", "--python", sys.executable]
    return [sys.executable, "-m", "pip", "install", "--disable-pip-version-check"]


class SpdkRpc:
    """``spdk-rpc -s SOCKET …`` of one release."""

    def __init__(self, release: str, socket: str, *, plugin: str | None = None, **environment: str) -> None:
        """plugin: as for --plugin; ftltgt is that of the checkout. environment: more variables."""
        self.release = release
        self.socket = socket
        self.plugin = plugin
        self._environment = environment
        self._folder = install(release)

    def run(self, *arguments: str, stdin: str | None = None, global_options: Sequence[str] = ()) -> Any:
        """The finished process: returncode, stdout, stderr. global_options come before the subcommand."""
        # Relative entries would change their meaning with the working directory.
        inherited = [
            str(Path(entry).resolve()) for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry
        ]
        # rpc_plugins/ has spdk_ftl_py too, and the one under test may be an installed one.
        checkout = [str(_ROOT / "rpc_plugins")] if self.plugin == "ftltgt" else []
        path = os.pathsep.join([str(self._folder), *inherited, *checkout])
        plugin = ("--plugin", self.plugin) if self.plugin is not None else ()
        return subprocess.run(
            [sys.executable, "-c", PROGRAM, "-s", self.socket, *global_options, *plugin, *arguments],
            env={**os.environ, **self._environment, "PYTHONPATH": path},
            cwd=self._folder,  # not the checkout: the package under test is the installed one
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            text=True,
            timeout=RPC_TIMEOUT_S,
            check=False,
        )

    def __call__(self, *arguments: str) -> Any:
        """A command that has to succeed: what it printed, decoded where it is JSON (None: nothing)."""
        done = self.run(*arguments)
        assert done.returncode == 0, f"spdk-rpc {self.release} {' '.join(arguments)}:\n{done.stdout}{done.stderr}"
        return decode(done.stdout)

    def fails(self, *arguments: str) -> dict[str, Any]:
        """A command that the target has to refuse: the error object it answered with."""
        done = self.run(*arguments)
        assert done.returncode == 1, f"spdk-rpc {self.release} {' '.join(arguments)} exited with {done.returncode}"
        _, found, text = done.stdout.partition("response:\n")
        assert found, f"no JSON-RPC error from spdk-rpc {' '.join(arguments)}:\n{done.stdout}{done.stderr}"
        error: dict[str, Any] = json.JSONDecoder().raw_decode(text)[0]
        return error

    def script(self, *lines: str) -> list[str]:
        """Many commands in one process, as ``spdk-rpc < FILE``; the first that fails ends it. Its lines of output."""
        done = self.run(stdin="\n".join(lines) + "\n")
        assert done.returncode == 0, f"spdk-rpc {self.release}, script:\n{done.stdout}{done.stderr}"
        printed: list[str] = done.stdout.splitlines()
        return printed


def decode(text: str) -> Any:
    stripped = text.strip()
    if not stripped:
        return None
    try:
        return json.loads(stripped)
    except ValueError:
        return stripped


def spdk_rpc(release: str, socket: str, *, plugin: str | None = None, **environment: str) -> SpdkRpc:
    return SpdkRpc(release, socket, plugin=plugin, **environment)
