"""The units of systemd say what the daemon expects, and systemd understands them. (None runs as pid 1 where the tests
do: docs/operations.md, "systemd", says what was tried by hand.)"""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
from configparser import ConfigParser
from pathlib import Path

import pytest

from spdk_ftl_py.access.unix_sockets import RUN_DIRECTORY
from spdk_ftl_py.cli.main import build_parser
from spdk_ftl_py.client import SOCKET_OF_ROOT
from spdk_ftl_py.daemon.control_sockets import CONTROL, MONITOR
from spdk_ftl_py.runtime.watchdog import EXTEND_EVERY_S, LOOKS_PER_PERIOD
from support.tools import need

UNITS = Path(__file__).resolve().parents[2] / "packaging" / "systemd"


def unit(name: str) -> ConfigParser:
    parser = ConfigParser(strict=False, interpolation=None, delimiters="=", comment_prefixes="#")
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string((UNITS / name).read_text(encoding="utf-8"))
    return parser


@pytest.mark.parametrize(
    ("name", "descriptor", "path"),
    [
        ("spdk-ftl.socket", CONTROL, SOCKET_OF_ROOT),
        ("spdk-ftl-monitor.socket", MONITOR, f"{RUN_DIRECTORY}/monitor.sock"),
    ],
)
def test_sockets_have_the_names_and_modes_that_the_daemon_expects(name: str, descriptor: str, path: str) -> None:
    listens = unit(name)["Socket"]
    assert (listens["FileDescriptorName"], listens["ListenStream"]) == (descriptor, path)
    # systemd's own default is 0666.
    assert listens["SocketMode"] == "0600"
    assert listens.get("Accept", "no") == "no"
    assert listens.get("Service", name.replace(".socket", ".service")) == "spdk-ftl.service"


def test_the_service_runs_a_command_that_there_is_and_keeps_its_sockets() -> None:
    service = unit("spdk-ftl.service")["Service"]
    program, *arguments = service["ExecStart"].split()
    assert program.endswith("/spdk-ftl")
    assert build_parser("serve").parse_args(arguments).command == "serve"
    assert service["Type"] == "notify"
    assert int(service["FileDescriptorStoreMax"]) > 0
    # Keepers of vfio-user endpoints outlive the daemon.
    assert service["KillMode"] == "process"
    # There all other users would have the same number.
    assert "PrivateUsers" not in service
    # The target's socket is in /var/tmp.
    assert "PrivateTmp" not in service


# --- by systemd itself -----------------------------------------------------------------------------------------------

SERVICES = {"spdk-ftl.service": 3.0, "spdk-ftl-target.service": 2.5}
"""With the highest exposure that `systemd-analyze security` may find (0: none, 10: all)."""


def analyze(*arguments: str) -> subprocess.CompletedProcess[str]:
    need("systemd-analyze")
    done = subprocess.run(["systemd-analyze", *arguments], capture_output=True, text=True, timeout=60)
    # Before version 250 it can't.
    if "--offline=yes" in arguments and "unrecognized option" in done.stderr:
        pytest.skip("this systemd has no security --offline")
    return done


@pytest.fixture
def units(tmp_path: Path) -> Path:
    """Copies whose programs exist here."""
    for path in UNITS.iterdir():
        text = re.sub(r"/usr/local/bin/[a-z-]+", "/bin/true", path.read_text(encoding="utf-8"))
        # As the comment in that unit says.
        name = "spdk_tgt.service" if path.name == "spdk-ftl-target.service" else path.name
        (tmp_path / name).write_text(text)
    return tmp_path


def test_systemd_finds_nothing_wrong_with_the_units(units: Path) -> None:
    names = sorted(map(str, units.iterdir()))
    assert len(names) == 4
    done = analyze("verify", "--man=no", *names)
    wrong = [line for line in done.stderr.splitlines() if str(units) in line]
    # It is of version 254.
    unknown = [line for line in wrong if "FileDescriptorStorePreserve" in line and "ignoring" in line]
    assert (done.returncode, [line for line in wrong if line not in unknown]) == (0, []), done.stderr
    # So that the test says something.
    broken = units / "broken.service"
    broken.write_text((units / "spdk-ftl.service").read_text().replace("Type=notify", "Type=nonsense\nColour=red"))
    told = analyze("verify", "--man=no", str(broken)).stderr
    assert "nonsense" in told
    assert "Colour" in told


@pytest.mark.parametrize("name", SERVICES)
def test_a_unit_may_do_little_more_than_it_needs(name: str, units: Path) -> None:
    path = units / ("spdk_tgt.service" if "target" in name else name)
    threshold = round(SERVICES[name] * 10)
    done = analyze("security", "--no-pager", f"--threshold={threshold}", "--offline=yes", str(path))
    assert "Overall exposure level" in done.stdout, done
    assert done.returncode == 0, done.stdout
    # Without its settings it would be above that.
    path.write_text(
        re.sub(r"^(SystemCallFilter|Protect|Restrict|Capability|Private).*\n", "", path.read_text(), flags=re.M)
    )
    assert analyze("security", "--no-pager", f"--threshold={threshold}", "--offline=yes", str(path)).returncode != 0


def test_the_daemon_is_watched_and_has_what_it_needs() -> None:
    service = unit("spdk-ftl.service")["Service"]
    assert float(service["WatchdogSec"]) > 10 * LOOKS_PER_PERIOD
    assert float(service["TimeoutStopSec"]) > EXTEND_EVERY_S
    # The write buffers.
    assert service["ReadWritePaths"] == "/dev/shm"
    # The names of the processes that give orders.
    assert "ProtectProc" not in service
    # A start that ends with 2 would end so again.
    assert service["RestartPreventExitStatus"] == "2"


def test_the_target_for_ci_runs_commands_that_there_are() -> None:
    service = unit("spdk-ftl-target.service")["Service"]
    program, *arguments = service["ExecStart"].split()
    assert program.endswith("/spdk-ftl")
    args = build_parser("target").parse_args(arguments)
    assert args.zns[0][2]["name"] == "Nvme0n1"
    assert service["StateDirectory"] in args.zns[0][2]["path"]


# --- what a wheel has besides the package ----------------------------------------------------------------------------

PAGE = UNITS.parent / "man" / "spdk-ftl.1"
SHARED = {
    "share/man/man1/spdk-ftl.1": PAGE,
    "share/bash-completion/completions/spdk-ftl": UNITS.parent / "completion" / "spdk-ftl",
    "share/zsh/site-functions/_spdk-ftl": UNITS.parent / "completion" / "_spdk-ftl",
}


def installed() -> dict[str, Path]:
    """By the ends of their paths. Skips the test if the package runs from a checkout."""
    try:
        files = importlib.metadata.files("spdk-ftl-py") or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    found = {name: Path(str(each.locate())) for each in files for name in SHARED if str(each).endswith(name)}
    if not found and not any(str(each).startswith("spdk_ftl_py/") for each in files):
        pytest.skip("the package is not installed, or is editable")
    return found


def test_a_wheel_brings_the_manual_page_and_completion() -> None:
    found = installed()
    assert set(found) == set(SHARED)
    for name, source in SHARED.items():
        assert found[name].read_bytes() == source.read_bytes()


def test_man_finds_the_installed_page_beside_the_command(tmp_path: Path) -> None:
    """man-db looks below share/man beside each directory of $PATH, such as that of an active environment."""
    need("man")
    prefix = tmp_path / "prefix"
    (prefix / "bin").mkdir(parents=True)
    (prefix / "share" / "man" / "man1").mkdir(parents=True)
    (prefix / "share" / "man" / "man1" / PAGE.name).write_bytes(PAGE.read_bytes())
    environment = {"PATH": f"{prefix}/bin:/usr/bin:/bin", "HOME": str(tmp_path), "LC_ALL": "C.UTF-8"}
    done = subprocess.run(["man", "-w", "spdk-ftl"], capture_output=True, text=True, env=environment, check=True)
    assert Path(done.stdout.strip()) == prefix / "share" / "man" / "man1" / PAGE.name
    text = subprocess.run(
        ["man", "--warnings", "-P", "cat", "spdk-ftl"],
        capture_output=True,
        text=True,
        env={**environment, "MANWIDTH": "80", "MAN_KEEP_FORMATTING": ""},
        check=True,
    )
    assert text.stderr == ""
    for heading in ("NAME", "SYNOPSIS", "COMMANDS", "FILES", "SEE ALSO"):
        assert f"\n{heading}\n" in text.stdout
    assert re.search("spdk-ftl +- flash translation layer", text.stdout)
    # For apropos.
    named = subprocess.run(["lexgrog", str(PAGE)], capture_output=True, text=True, check=True)
    assert '"spdk-ftl - flash translation layer for zoned bdevs of a live SPDK target"' in named.stdout
