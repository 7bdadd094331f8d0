"""The units of systemd say what the daemon expects. (No systemd runs where the tests do.)"""

from __future__ import annotations

from configparser import ConfigParser
from pathlib import Path

import pytest

from spdk_ftl_py.access.unix_sockets import RUN_DIRECTORY
from spdk_ftl_py.cli.main import build_parser
from spdk_ftl_py.client import SOCKET_OF_ROOT
from spdk_ftl_py.daemon.control_sockets import CONTROL, MONITOR

UNITS = Path(__file__).resolve().parents[2] / "packaging" / "systemd"


def unit(name: str) -> ConfigParser:
    parser = ConfigParser(interpolation=None, delimiters="=", comment_prefixes="#")
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
    # There all other users would have the same number.
    assert "PrivateUsers" not in service
    # The target's socket is in /var/tmp.
    assert "PrivateTmp" not in service
