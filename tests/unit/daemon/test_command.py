"""`spdk-ftl serve`: what it refuses before it does anything, and its end where nobody takes its one line."""

from __future__ import annotations

import asyncio
import logging
import socket
from pathlib import Path

import pytest

from spdk_ftl_py.cli import main as cli
from spdk_ftl_py.daemon import command, registry
from spdk_ftl_py.daemon.command import serve
from spdk_ftl_py.daemon.control_sockets import SocketOptions


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--socket", "", "an empty path"),
        ("--state-dir", "", "an empty path"),
        ("--buffer-dir", "", "an empty path"),
        ("--peer-timeout", "soon", "'soon' is not a number of seconds"),
        ("--peer-timeout", "-1", "'-1' is not a number of seconds"),
        ("--peer-timeout", "nan", "'nan' is not a number of seconds"),
    ],
)
def test_wrong_options_are_named(option: str, value: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["serve", option, value])
    assert ended.value.code == 2
    assert f"argument {option}: {said}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "No such file or directory"),
        ("{", "is not JSON"),
        ('{"subsystems": [{"subsystem": "ftl", "config": [{"method": "ftl_create_bdev"}]}]}', "entry 1 of section ftl"),
    ],
)
def test_a_configuration_that_is_wrong_ends_it_before_anything_is_done(
    text: str | None, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "saved.json"
    if text is not None:
        config.write_text(text)
    made = [("--socket", tmp_path / "s"), ("--state-dir", tmp_path / "state"), ("--buffer-dir", tmp_path / "buffers")]
    options = [str(each) for option in made for each in option]
    assert cli.main(["serve", "--config", str(config), *options]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"spdk-ftl: configuration {config}")
    assert said in line
    assert not [path for _, path in made if path.exists()]


def test_a_configuration_without_ftls_is_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = tmp_path / "saved.json"
    config.write_text('{"subsystems": [{"subsystem": "bdev", "config": []}]}')
    assert not command._saved(config)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert f'{config} has no section "ftl", so there is nothing to load' in record.getMessage()


def test_a_ready_line_that_nobody_takes_ends_in_a_halt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """FTLs of a predecessor may be loading by then: half of a load is to be taken back."""
    halted: list[registry.Registry] = []
    real = registry.Registry.halt

    async def halt(self: registry.Registry, *, undo: bool) -> None:
        halted.append(self)
        await real(self, undo=undo)

    monkeypatch.setattr(registry.Registry, "halt", halt)
    caplog.set_level(logging.INFO)

    def no_room(*_args: object, **_kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("builtins.print", no_room)
    with pytest.raises(OSError, match="No space left"):
        asyncio.run(
            serve(
                SocketOptions(tmp_path / "s"),
                tmp_path / "state",
                "127.0.0.1",
                peer_timeout_s=1.0,
                buffer_directory=tmp_path / "buffers",
            )
        )
    assert len(halted) == 1
    assert "halting" in caplog.text
    assert not (tmp_path / "s").exists()


def test_metrics_at_an_address_that_is_taken_end_it_without_a_trace(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        options = ["--socket", str(tmp_path / "s"), "--state-dir", str(tmp_path / "state")]
        buffers = ["--buffer-dir", str(tmp_path / "buffers")]
        assert cli.main(["serve", "--metrics", address, *options, *buffers]) == 1
    assert f"--metrics {address}: can't listen on {address}: Address already in use" in capsys.readouterr().err
    assert not (tmp_path / "s").exists()
