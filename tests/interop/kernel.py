"""Debian's stock kernel, straight from its package, and an initramfs for it: busybox, some host tools, modules.

Nothing here needs root: the package is downloaded and unpacked, never installed; the archive is written by ourselves.
"""

from __future__ import annotations

import fcntl
import lzma
import os
import re
import shutil
import stat
import subprocess
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

PACKAGE_ENV = "SPDK_FTL_KERNEL_PACKAGE"
CACHE_ENV = "SPDK_FTL_INTEROP_CACHE"
META_PACKAGE = "linux-image-amd64"
HOST_AUTH = "CONFIG_NVME_HOST_AUTH=y"
"""The host's side of DH-HMAC-CHAP. Debian 12's 6.1 says "CONFIG_NVME_AUTH is not set"."""
LATER_SUITE = "trixie"
"""Debian's first release whose kernel has it."""

# What is kept of a 400 MB package.
KEPT_FOLDERS = (
    *("arch/x86/crypto", "block", "crypto", "lib", "fs/configfs", "fs/ext4", "fs/jbd2", "fs/mbcache", "fs/nls"),
    *("drivers/base", "drivers/block", "drivers/net/virtio_net", "drivers/net/net_failover", "drivers/nvme"),
    *("drivers/virtio", "net/core", "net/handshake", "net/tls"),
)
# Loaded at boot, in this order, each after what it depends on. null_blk: no device but those made through configfs.
MODULES = {
    "virtio_pci": "",
    "virtio_net": "",
    "crc32c-intel": "",
    "crc32c_generic": "",
    "configfs": "",
    "ext4": "",
    "nvme-tcp": "",
    "nvmet-tcp": "",
    "null_blk": "nr_devices=0",
}
HOST_TOOLS = ("mkfs.ext4", "e2fsck", "blkzone", "blkdiscard", "fstrim", "dd")
NVME_CLI = "nvme"
"""In the guest where this machine has it."""
HOST_TOOL_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class KernelUnavailableError(RuntimeError):
    """A tool or package that the guest is made of is missing; the message says which and how to get it."""


@dataclass(frozen=True)
class Kernel:
    version: str
    image: Path
    modules: Path

    @property
    def has_host_auth(self) -> bool:
        """False also where it was unpacked before that was asked."""
        config = self.image.with_name("config")
        return config.exists() and HOST_AUTH in config.read_text().splitlines()


def find_tool(name: str, package: str) -> Path:
    """Where a program of this machine is; sbin is searched too, whatever PATH says."""
    path = shutil.which(name) or shutil.which(name, path=HOST_TOOL_PATH)
    if path is None:
        raise KernelUnavailableError(f"{name} is not installed: apt-get install {package}")
    return Path(path)


def cache_dir() -> Path:
    root = os.environ.get(CACHE_ENV)
    base = Path(root) if root else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "spdk-ftl-py"
    base.mkdir(parents=True, exist_ok=True)
    return base


def fetch_kernel() -> Kernel:
    """The distribution's current kernel, or that of $SPDK_FTL_KERNEL_PACKAGE; downloaded once, then cached.

    Raises KernelUnavailableError where there is neither apt nor a cached kernel.
    """
    cache = cache_dir()
    with _locked(cache / "kernel.lock"):
        package = os.environ.get(PACKAGE_ENV) or _current_package()
        if package is None:
            cached = sorted(path.parent for path in cache.glob("linux-image-*/complete"))
            if not cached:
                raise KernelUnavailableError(
                    f"no {META_PACKAGE} package known to apt and no kernel in {cache}: apt-get update on a Debian "
                    f"machine, or name a package in {PACKAGE_ENV}"
                )
            return _kernel_in(cached[-1])
        return _fetched(package, cache)


def fetch_kernel_with_host_auth() -> Kernel:
    """One that can prove with DH-HMAC-CHAP who it is: the distribution's own, one that is cached, or a later release's.

    That one's package lists have a folder in the cache: nothing that the machine's own apt uses is written. Raises
    KernelUnavailableError where there is none.
    """
    own = fetch_kernel()
    if own.has_host_auth:
        return own
    cache = cache_dir()
    with _locked(cache / "kernel.lock"):
        cached = [_kernel_in(path.parent) for path in sorted(cache.glob("linux-image-*/complete"))]
        able = [kernel for kernel in cached if kernel.has_host_auth]
        if able:
            return able[-1]
        options = _later_lists(cache / LATER_SUITE)
        package = _current_package(options)
        kernel = None if package is None else _fetched(package, cache, options)
    if kernel is None or not kernel.has_host_auth:
        raise KernelUnavailableError(f"neither this release nor {LATER_SUITE} has a kernel with {HOST_AUTH}")
    return kernel


def _later_lists(folder: Path) -> list[str]:
    """Package lists of LATER_SUITE, from where this machine has its own; the options with which apt uses them."""
    sources = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(ORIGIN) $(CODENAME) $(REPO_URI)", "Created-By: Packages"],
        capture_output=True, text=True, check=False,
    ).stdout.split("\n")  # fmt: skip
    found = [line.split()[2] for line in sources if re.fullmatch(r"Debian \w+ \S+", line)]
    if not found:
        raise KernelUnavailableError(f"apt knows no place of Debian's packages, where {LATER_SUITE} may be")
    for name in ("lists/partial", "cache/archives/partial"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / "sources.list").write_text(f"deb {found[0]} {LATER_SUITE} main\n")
    settings = {
        "Dir::Etc::SourceList": folder / "sources.list",
        "Dir::Etc::SourceParts": "/dev/null",
        "Dir::State::Lists": folder / "lists",
        "Dir::Cache": folder / "cache",
        "APT::Sandbox::User": "root",
        "Acquire::Languages": "none",
    }
    options = [word for name, value in settings.items() for word in ("-o", f"{name}={value}")]
    updated = subprocess.run(["apt-get", *options, "update"], capture_output=True, text=True, check=False)
    if updated.returncode:
        raise KernelUnavailableError(f"apt-get update of {LATER_SUITE} failed: {updated.stderr.strip()}")
    return options


def _fetched(package: str, cache: Path, options: Sequence[str] = ()) -> Kernel:
    folder = cache / package
    if not (folder / "complete").exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        _unpack(_download(package, folder, options), folder)
        (folder / "complete").touch()
    return _kernel_in(folder)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _current_package(options: Sequence[str] = ()) -> str | None:
    try:
        answer = subprocess.run(
            ["apt-cache", *options, "depends", META_PACKAGE], capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        return None
    found = re.search(r"Depends:\s*(linux-image-\S+)", answer.stdout)
    return found.group(1) if found else None


def _download(package: str, folder: Path, options: Sequence[str]) -> Path:
    try:
        subprocess.run(
            ["apt-get", *options, "download", package], cwd=folder, capture_output=True, text=True, check=True
        )
    except (FileNotFoundError, subprocess.CalledProcessError) as error:
        detail = getattr(error, "stderr", None) or str(error)
        raise KernelUnavailableError(f"apt-get download {package} failed: {detail.strip()}") from error
    return next(folder.glob("*.deb"))


def _unpack(package: Path, folder: Path) -> None:
    find_tool("dpkg-deb", "dpkg")
    with (
        subprocess.Popen(["dpkg-deb", "--fsys-tarfile", str(package)], stdout=subprocess.PIPE) as process,
        tarfile.open(fileobj=process.stdout, mode="r|") as archive,
    ):
        for member in archive:
            target = _kept_as(member.name) if member.isfile() else None
            content = archive.extractfile(member) if target is not None else None
            if content is not None and target is not None:
                (folder / target).parent.mkdir(parents=True, exist_ok=True)
                (folder / target).write_bytes(content.read())
    if process.returncode:
        raise KernelUnavailableError(f"dpkg-deb can not read {package}")
    package.unlink()


def _kept_as(name: str) -> str | None:
    """Where a file of the package goes below the cache folder; None: it is not needed."""
    if re.search(r"/boot/vmlinuz-[^/]+$", name):
        return "vmlinuz"
    if re.search(r"/boot/config-[^/]+$", name):
        return "config"
    found = re.search(r"lib/modules/[^/]+/(?:kernel/(.*\.ko)(\.xz|\.zst)?|(modules\.builtin))$", name)
    if found is None:
        return None
    if found.group(3):
        return "modules/modules.builtin"
    kept = any(found.group(1).startswith(prefix) for prefix in KEPT_FOLDERS)
    return f"modules/{found.group(1)}{found.group(2) or ''}" if kept else None


def _kernel_in(folder: Path) -> Kernel:
    return Kernel(folder.name.removeprefix("linux-image-"), folder / "vmlinuz", folder / "modules")


# --- modules ------------------------------------------------------------------------------------------------------


def _canonical(module: str) -> str:
    return module.replace("-", "_")


def _read_module(path: Path) -> bytes:
    if path.suffix == ".xz":
        return lzma.decompress(path.read_bytes())
    if path.suffix == ".zst":
        return subprocess.run(
            [str(find_tool("zstd", "zstd")), "-dc", str(path)], capture_output=True, check=True
        ).stdout
    return path.read_bytes()


def load_order(kernel: Kernel) -> list[tuple[str, str, bytes]]:
    """(name, parameters, content) of every module to insert, dependencies first.

    The package has no modules.dep (depmod runs on installation): each module names its dependencies in .modinfo.
    """
    files = {_canonical(path.name.split(".ko")[0]): path for path in kernel.modules.rglob("*.ko*")}
    builtin_list = (kernel.modules / "modules.builtin").read_text().split()
    builtin = {_canonical(Path(line).name.split(".ko")[0]) for line in builtin_list}
    order: dict[str, tuple[str, str, bytes]] = {}

    def add(name: str, parameters: str, needed_by: str) -> None:
        if name in order or name in builtin:
            return
        if name not in files:
            raise KernelUnavailableError(f"kernel {kernel.version} has no module {name} (needed by {needed_by})")
        content = _read_module(files[name])
        dependencies = re.search(rb"\0depends=([^\0]*)\0", content)
        for dependency in (dependencies.group(1).decode() if dependencies else "").split(","):
            if dependency:
                add(_canonical(dependency), "", name)
        order[name] = (name, parameters, content)

    for module, parameters in MODULES.items():
        name = _canonical(module)
        if name.startswith("crc32c") and name not in files:
            continue  # built in, or merged into the kernel's crc library (6.14 and later)
        add(name, parameters, "the guest")
    return list(order.values())


# --- initramfs ----------------------------------------------------------------------------------------------------


class CpioArchive:
    """An initramfs in the kernel's "newc" format, written without root and without cpio."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._names: set[str] = set()

    def _entry(self, name: str, mode: int, content: bytes = b"", device: tuple[int, int] = (0, 0)) -> None:
        inode = len(self._parts) + 1
        encoded = name.encode() + b"\0"
        fields = (inode, mode, 0, 0, 1, 0, len(content), 0, 0, *device, len(encoded), 0)
        header = b"070701" + b"".join(b"%08X" % field for field in fields) + encoded
        self._parts.append(header + bytes(-len(header) % 4) + content + bytes(-len(content) % 4))
        self._names.add(name)

    def _parents(self, name: str) -> None:
        for parent in reversed(Path(name).parents):
            if str(parent) != "." and str(parent) not in self._names:
                self._entry(str(parent), stat.S_IFDIR | 0o755)

    def folder(self, name: str) -> None:
        self._parents(f"{name}/x")

    def file(self, name: str, content: bytes, mode: int = 0o755) -> None:
        if name not in self._names:
            self._parents(name)
            self._entry(name, stat.S_IFREG | mode, content)

    def character_device(self, name: str, major: int, minor: int) -> None:
        self._parents(name)
        self._entry(name, stat.S_IFCHR | 0o600, device=(major, minor))

    def finish(self) -> bytes:
        self._entry("TRAILER!!!", 0)
        return b"".join(self._parts)


def _libraries(program: Path) -> list[Path]:
    """Shared libraries of a program of this machine, its loader included."""
    answer = subprocess.run(["ldd", str(program)], capture_output=True, text=True, check=False).stdout
    return [Path(path) for path in re.findall(r"(/\S+) \(0x", answer)]


def build_initramfs(kernel: Kernel, init_script: str) -> bytes:
    """init_script runs as PID 1 after `@MODULES@` in it was replaced by the commands that insert the modules."""
    archive = CpioArchive()
    for folder in ("bin", "dev", "proc", "sys", "tmp", "mnt", "etc", "run"):
        archive.folder(folder)
    archive.character_device("dev/console", 5, 1)
    archive.file("bin/busybox", find_tool("busybox", "busybox-static").read_bytes())
    tools = [find_tool(name, "e2fsprogs util-linux coreutils") for name in HOST_TOOLS]
    nvme_cli = shutil.which(NVME_CLI, path=HOST_TOOL_PATH)
    for program in tools if nvme_cli is None else [*tools, Path(nvme_cli)]:
        name = program.name
        archive.file(f"host/{name}", program.read_bytes())
        for library in _libraries(program):
            archive.file(str(library).lstrip("/"), library.read_bytes())
    commands = []
    for name, parameters, content in load_order(kernel):
        archive.file(f"modules/{name}.ko", content, 0o644)
        commands.append(f"insmod /modules/{name}.ko {parameters} || echo '@FAILED insmod {name}' >/dev/ttyS1")
    archive.file("init", init_script.replace("@MODULES@", "\n".join(commands)).encode())
    return archive.finish()
