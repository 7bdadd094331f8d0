"""Wrong usage is exit code 2, and says which argument is meant: of every value that every command takes."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator

import pytest

from spdk_ftl_py.cli import main as cli
from spdk_ftl_py.client import DaemonClient
from spdk_ftl_py.usage import commands_of, show, values_of

ANY_TEXT: tuple[str, ...] = ()
LONG_PATH = "/" + "d" * 107
UUID = "b286d19a-0059-4709-abcd-9f7732b1567d"
UUID_NIL = "00000000-0000-0000-0000-000000000000"

NONSENSE: dict[str, tuple[str, ...]] = {
    # Files, directories, bdevs: every text but an empty one may be right, as far as we can see.
    "FILE": ANY_TEXT,
    "DIR": ANY_TEXT,
    "BASE": ANY_TEXT,
    "PLAN": ANY_TEXT,
    "PATH": (LONG_PATH,),
    "SOCKET": (LONG_PATH, "host:0", "host:70000", "a b:1", "::1:5"),
    "TARGET": (LONG_PATH, "host:0", "host:70000", "a b:1", "::1:5"),
    "GROUP": ("a:b", "a/b", "99999999999"),
    "MASK": ("xyz", "0", "[3-1]", "[1,,2]", "-1", "ff" * 600),
    "USER": ("a:b", "a/b", "99999999999"),
    "N": ("x", "1.5", "-1", "9" * 30, "0x10", "１"),
    "K": ("x", "1.5", "-1"),
    "MIB": ("x", "1.5", "0", "-1", "9" * 30),
    "BLOCKS": ("x", "0", "-1", "4294967296"),
    "SECONDS": ("x", "-1", "inf", "nan"),
    "SIZE": ("x", "-1", "5", "16M", "513M", "1P", "4096T"),
    "UUID": ("x", UUID[:-1], UUID + "\n"),
    # Whoever could be let in can be shut out.
    "remove-host --host": ("a" * 224,),
    "HOST": ("x", "nqn.", "nqn.a\n"),
    "NEW_UUID": ("x", UUID[:-1], UUID + "\n"),
    "NQN": ("x", "nqn.", "nqn.a\n"),
    "ADDRESS[:PORT]": ("x", "no.such", "127.0.0.1:70000", "::1", "[::1", "127.0.0.1:"),
    "--sweep": ("x", "=1", "seed=", "seed=1,,2", "seed=1,1", "a b=1"),
    "--out": ("results", "results.xlsx", ".csv"),
    "--scheduler": ("x", "tcp://", "tcp://host", "http://host:1", "tcp://host:123456", "tcp://a b:1", "host"),
    "[ADDRESS:]PORT": ("x", "no.such:80", "127.0.0.1", "127.0.0.1:70000", "::1:80", "[::1]", ":80"),
    "HOSTNAME": ("a b", "a:80", "http://a", "é", "*"),
    "LISTEN_ADDRESS": ("no.such", "127.0.0.1:70000", "::1", "[::1"),
    "TRANSPORT": ("x", "TCP", "vfio_user", "rdma"),
    "NAME=VALUE": (
        "x",
        "colour=5",
        "half_open=x",
        "half_open=0",
        "io_queues_per_host_percent=101",
        "kato_ms_min=2000000",
    ),
    "NAME=VALUE,...": (
        "x",
        "colour=5",
        "band_thld=0",
        "band_thld=x",
        "verify_reads=maybe",
        "reloc_policy=a b",
        "write_buffer_size=0",
        "write_buffer_size=40001",
        "band_thld=5,colour=5",
    ),
    "NAME:PERCENT,...": ("x", "most:5", "crit:101", "crit:-1", "crit", "crit:x"),
    "NAME:BANDS,...": ("x", "most:5", "crit:-1", "crit:x", "crit:1,crit"),
    "NAME": ("a/b", "-", "a b", "a" * 64),
    "name": ("a/b", "a b", "a" * 64),
    "BASE_BDEV": ("a\nb", "a" * 256),
    "CACHE": ("a\nb", "a" * 256),
    "[SUBJECT=]LEVEL": ("x", "=debug", "ftl.gc", "ftl.gc=loud", "no.such=debug", "../ftl=debug", "ftl..gc=debug"),
    "LEVEL": ("x", "INFO", "loud"),
    "SUBJECT": ("FTL", "a b", "ftl..gc", "a" * 50),
    "WORKLOAD": ("x", "zipf", "zipf:x", "uniform:1"),
    "POLICY": ("x", "Greedy"),
    "WRITES": ("x", "0", "-1", "0x", "x10", "1e3", "10 x", "9" * 17),
    "WORKLOADS": ("x", "read-qd1,x", "read-qd1,", "gc/read-qd1"),
    "ENGINE": ("x", "Native", "zoned"),
    "CORE_MASK": ("a\nb", "a" * 256),
    "FTL_PROPERTY": ("a\nb", "a" * 64),
    "VALUE": ("a\nb", "a" * 256),
    "NEW_NAME": ("a/b", "-", "a b", "a" * 64),
    "DHCHAP_KEY": ("relative", "/a\nb"),
    "DHCHAP_CTRLR_KEY": ("relative", "/a\nb"),
    "PSK": ("relative", "/a\nb"),
    "TARGET_PSK": ("relative", "/a\nb"),
    "--zns": (
        "x",
        "colour=5",
        "name=a",
        "name=a,zone_size=16M",
        "name=a,name=b,zone_size=16M,zones=9",
        "name=a,zone_size=16M,zones=9,size=1G",
        "name=,zone_size=16M,zones=9",
        "name=a,zone_size=16Q,zones=9",
        "name=a,zone_size=12M,zones=9",
        "name=a,zone_size=0,zones=9",
        "name=a,zone_size=1,zones=9",
        "name=a,zone_size=16M,zones=0",
        "name=a,zone_size=16M,zones=4G",
        "name=a,zone_size=16M,size=17M",
        "name=a,zone_size=16M,zones=9,capacity=17M",
        "name=a,zone_size=16M,zones=9,capacity=0",
        "name=a,zone_size=16M,zones=9,capacity=5",
        "name=a,zone_size=16M,zones=9,block_size=1024",
        "name=a,zone_size=16M,zones=9,max_open=9,max_active=8",
        "name=a,zone_size=16M,zones=9,max_active=4G",
        "name=a,zone_size=16M,zones=9,max_append=4096",
        "name=a,zone_size=16M,zones=9,path=",
        "name=a,zone_size=16M,zones=9,uuid=5",
        "name=a,zone_size=1T,zones=65",
    ),
    "--malloc": (
        "x",
        "colour=5",
        "name=a",
        "size=5",
        "size=0",
        "size=1M,block_size=100",
        "size=1M,block_size=600",
        "size=1M,md_size=7",
        "size=65T",
        "size=1M,uuid=5",
    ),
}
"""For each value, by its option, or else by what --help calls it: nonsense by itself. An empty one always is."""

NEEDED = {
    "-b": "ftl0",
    "-d": "Nvme0n1",
    "--host": "nqn.2026-11.io.example:host",
    "-u": UUID,
    "-c": "Cache0",
    "--lba": "0",
    "--num-blocks": "1",
    "-p": "band_thld",
    "-v": "80",
    "--new-name": "ftl1",
    "-l": "debug",
}
"""So that an argument that is missing is not what is wrong."""


class NotRefused(Exception):
    """A command has begun its work."""


@pytest.fixture(autouse=True)
def nothing_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    def begin(*arguments: object, **_: object) -> None:
        for argument in arguments:
            if hasattr(argument, "close"):
                argument.close()  # a coroutine that nobody awaits
        raise NotRefused

    monkeypatch.setattr("asyncio.run", begin)
    monkeypatch.setattr("spdk_ftl_py.daemon.check_command._check_bdev", begin)
    monkeypatch.setattr("spdk_ftl_py.torture.run.run_torture", begin)
    monkeypatch.setattr("spdk_ftl_py.simulate.engine.simulate", begin)
    monkeypatch.setattr(DaemonClient, "call", begin)
    monkeypatch.setenv("SPDK_FTL_SOCK", "/nowhere")


def _commands() -> Iterator[tuple[str, argparse.ArgumentParser]]:
    yield from commands_of(cli.build_parser()).items()


VALUES = {
    f"{command} {show(action)}": (command, parser, action)
    for command, parser in _commands()
    for action in values_of(parser)
}


def _nonsense(command: str, action: argparse.Action) -> tuple[str, ...]:
    names = [
        f"{command} {show(action)}",
        *action.option_strings,
        str(action.metavar or action.dest.upper()),
        action.dest,
    ]
    for name in names:
        if name in NONSENSE:
            return NONSENSE[name]
    pytest.fail(
        f"say in NONSENSE what can't be right for {'/'.join(names)}, whatever the machine's state (ANY_TEXT: nothing "
        "but an empty value), and refuse it with a type of spdk_ftl_py/usage.py"
    )


def _arguments(command: str, parser: argparse.ArgumentParser, action: argparse.Action, value: str | None) -> list[str]:
    """All that the command needs, and this one value."""
    words, positional = [command], []
    for each in parser._actions:
        given = None
        if each is action:
            given = value
        elif each.required or (not each.option_strings and each.nargs is None):
            given = next((NEEDED[name] for name in each.option_strings if name in NEEDED), "x")
        if given is None:
            continue
        if isinstance(each, argparse.BooleanOptionalAction):
            words.append(each.option_strings[0])
        elif each.option_strings:
            words.append(f"{each.option_strings[-1]}={given}")
        else:
            positional.append(given)
    return [*words, *(["--", *positional] if positional else [])]


@pytest.mark.parametrize("value", VALUES)
def test_nonsense_is_wrong_usage_that_names_the_argument(value: str, capsys: pytest.CaptureFixture[str]) -> None:
    command, parser, action = VALUES[value]
    for nonsense in ("", *_nonsense(command, action)):
        with pytest.raises(SystemExit) as ended:
            cli.main(_arguments(command, parser, action, nonsense))
        told = capsys.readouterr()
        assert (ended.value.code, told.out) == (2, ""), nonsense
        usage, _, error = told.err.rpartition("error: ")
        assert usage.startswith("usage: spdk-ftl ")
        assert re.match(rf"argument {re.escape(show(action))}: ", error), error
        assert error.count("\n") == 1


SENSE = {
    "serve": "--socket /s --socket-group 100 --listen [::1]:4420 --discovery 127.0.0.1:8010 --peer-timeout 0 "
    "--limit half-open=5 --target-user 0 --log-level warning --log-level ftl.gc=debug --log-level audit=info "
    "--reactors 2 --cpu-mask 0x1 --loads 1 --load-memory 64 --halt-timeout 0.5",
    "target": "-r /s -c f --zns name=a,zone_size=16M,capacity=12M,zones=8 --malloc size=1M,block_size=512,md_size=8",
    "demo": "--json f --size 512M --writes 1 --time 0.5 --seed 0",
    "torture": "--seed 0 --crashes 1 --every 0 --world 0 --cores 1",
    "simulate": "--bands 64 --band-blocks 128 --zones 2 --reserved 20 --workload zipf:0.9 --policy greedy --writes 2x",
    "check": "x -s host:5 --target-user 0 --zone-capacity 1",
    "scrub": "ftl0 --socket s --daemon-user root",
    "nbd": "ftl0 --socket /s --read-only --control-socket s --json",
    "status": "--json",
    "devices": "",
    "list": "",
    "stats": "ftl0",
    "properties": "ftl0",
    "hosts": "ftl0",
    "create": "-b ftl0 -d x -s [::1]:5 --conf band_thld=1,write_buffer_size=32768,verify_reads=off --host nqn.a",
    "delete": "-b ftl0 --engine native -s /t",
    "add-host": "-b ftl0 --host nqn.a --psk /f",
    "remove-host": "-b ftl0 --host nqn.a",
    "allow-any-host": "-b ftl0 --no-allow-any-host",
    "remove-buffers": UUID,
    "load": f"-b ftl0 -d x -u {UUID} -f --l2p-dram-limit 5 --core-mask [0]",
    "unload": "-b ftl0 -f",
    "unmap": "-b ftl0 --lba 0 --num-blocks 1",
    "set-property": "-b ftl0 -p band_thld -v 80",
    "set-cache": "-b ftl0 -c x",
    "remove-cache": "-b ftl0",
    "rename": "-b ftl0 --new-name ftl1",
    "set-uuid": f"-d x -u {UUID} --zone-capacity 1 -f",
    "save-config": "-s /t -o f",
    "set-log-level": "-l debug --subject ftl.gc",
}


@pytest.mark.parametrize("command", SENSE)
def test_what_makes_sense_is_not_refused(command: str) -> None:
    with pytest.raises(NotRefused):
        cli.main([command, *SENSE[command].split()])


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ("create -b x -d y --limit crit:1 --limit-crit 2", "limit_crit is given twice: 2 and 1"),
        ("create -b x -d y --conf band_thld=5 --conf band_thld=6", "conf band_thld is given twice: 5 and 6"),
        ("create -b x -d y --limit-threshold crit:3 --limit-high-threshold 2", "limit-threshold high = 2 is not above"),
        (
            "create -b x -d y --load-or-create --force",
            "--force erases the base, --load-or-create never does",
        ),
        ("create -b x -d y --load-or-create --no-data", "an FTL made with --no-data can't be loaded again"),
        (f"create -b x -d y -u {UUID} --new-uuid {UUID}", "-u loads an FTL, --new-uuid creates one"),
        ("set-property -b x -p colour -v 1", "no property 'colour' can be changed: use one of limit_crit, "),
        ("set-property -b x -p band_thld -v 200", "band_thld is '200': must be a number"),
        (
            "set-property -b x -p use_append -v true",
            "use_append can't be changed, because it determines the size of batches",
        ),
        (
            f"set-uuid -d y -u {UUID} --new-uuid {UUID_NIL}",
            "argument --new-uuid: is the nil UUID, which no FTL can have",
        ),
        (f"set-uuid -d y -u {UUID} --new-uuid {UUID}", "argument --new-uuid: is the same as -u"),
        (f"create -b x -d y --new-uuid {UUID_NIL}", "argument --new-uuid: is the nil UUID, which no FTL can have"),
        ("create -b x -d y --engine native", "cache (-c) is missing: SPDK's own FTL needs a cache bdev"),
        (
            "create -b x -d y -c z --engine native --zone-capacity 5 --if-absent",
            "if_absent (--if-absent), zone_capacity (--zone-capacity): SPDK's own FTL has no such option",
        ),
        ("delete -b x -s /t --engine native --force", "force (--force): SPDK's own FTL has no such option"),
        (f"load -b x -d y -c z -u {UUID_NIL} --engine native", "uuid is the nil UUID, which no FTL has"),
        ("create -b x", "the following arguments are required: -d/--base-bdev"),
        (
            "target --malloc name=A,size=1M --zns name=A,zones=9,zone_size=1M",
            "argument --malloc: name=A,size=1M: --zns name=A,zones=9,zone_size=1M already has that name",
        ),
        (
            "serve --limit kato_ms_min=5000 --limit kato_ms_max=4000",
            "argument --limit: limit kato_ms_min 5000 is above",
        ),
        (
            "serve --audit-log f --log-level audit=error",
            "argument --log-level: the subject audit has no level if --audit-log is given",
        ),
        ("torture --processes --every 5", "--every can't be used with --processes"),
        ("torture --jobs 2 --scheduler tcp://host:8786", "--jobs can't be used with --scheduler"),
        ("torture --campaign c --processes", "--processes can't be used with --campaign"),
        ("torture --scheduler [::1]:8786 --world 0", "--world can't be used with --scheduler"),
    ],
)
def test_what_does_not_go_together_is_wrong_usage(
    arguments: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments.split())
    assert ended.value.code == 2
    assert told in capsys.readouterr().err
