"""The scripts in ci/: what is wrong usage, and what they ask of podman or docker. (Containers run in
`tox -e container`.)"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]
CI = CHECKOUT / "ci"


def run(script: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(CI / script), *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.fixture
def engine(tmp_path: Path) -> Path:
    """A program that tells its arguments, one a line. Its name is not podman's."""
    program = tmp_path / "engine"
    program.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    program.chmod(0o755)
    return program


@pytest.mark.parametrize("script", ["wheels", "image", "live", "reboot-drill"])
def test_help_says_how_it_is_used(script: str) -> None:
    done = run(script, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert "usage: " in done.stdout
    assert "exit codes: " in done.stdout


@pytest.mark.parametrize(
    ("script", "arguments", "said"),
    [
        ("wheels", ("--nonsense",), "--nonsense is no option"),
        ("wheels", ("--python", "3.9"), "say 3.10, 3.11, 3.12 or 3.13"),
        ("wheels", ("--manylinux", "--python", "3.11"), "leave out --python"),
        ("wheels", ("a", "b"), "more than one DIST: a, b"),
        ("image", ("--nonsense",), "--nonsense is no option"),
        ("image", ("--base", "a", "--rootfs", "bookworm"), "either --base or --rootfs"),
        ("image", ("--wheel", "/no/such.whl"), "/no/such.whl: there is no such file"),
        ("live", (), "IMAGE is missing"),
        ("live", ("--nonsense", "image"), "--nonsense is no option"),
        ("live", ("--embedded", "--program", "/a", "image"), "--program is for images with spdk_tgt"),
    ],
)
def test_wrong_usage_is_exit_code_2_and_names_it(script: str, arguments: tuple[str, ...], said: str) -> None:
    done = run(script, *arguments)
    assert done.returncode == 2, done
    assert said in done.stderr


def test_a_target_in_a_container_sees_the_folder_of_the_tests_alone(engine: Path, tmp_path: Path) -> None:
    done = run(
        "spdk_tgt", "--no-huge", "-r", "x.sock", SPDK_FTL_ENGINE=str(engine), SPDK_IMAGE="image", TMPDIR=str(tmp_path)
    )
    words = done.stdout.split("\n")[:-1]
    assert words[:3] == ["run", "--network", "host"]
    assert [words[at + 1] for at, word in enumerate(words) if word == "--volume"] == [f"{tmp_path}:{tmp_path}"]
    assert words[words.index("--entrypoint") + 1 :] == ["spdk_tgt", "image", "--no-huge", "-r", "x.sock"]


def test_the_embedded_target_gets_what_it_knows_of_spdk_tgts_options(engine: Path, tmp_path: Path) -> None:
    options = ("--no-huge", "-s", "2048", "--no-pci", "-m", "[0]", "--disable-cpumask-locks", "-r", "a b", "-c", "f")
    done = run(
        "spdk_tgt",
        *options,
        SPDK_FTL_ENGINE=str(engine),
        SPDK_IMAGE="image",
        SPDK_FTL_EMBEDDED="1",
        TMPDIR=str(tmp_path),
    )
    words = done.stdout.split("\n")[:-1]
    assert words[words.index("--entrypoint") + 1 :] == ["spdk-ftl", "image", "target", "-r", "a b", "-c", "f"]


def test_a_kill_reaches_the_container_of_that_process(tmp_path: Path) -> None:
    """The process that runs it has the pid that its container is named after, and the kill goes to that name."""
    told = tmp_path / "told"
    engine = tmp_path / "engine"
    engine.write_text(f'#!/bin/sh\necho "$$ $*" >>{told}\n')
    engine.chmod(0o755)
    environment = {**os.environ, "SPDK_FTL_ENGINE": str(engine), "TMPDIR": str(tmp_path)}
    process = subprocess.Popen([str(CI / "contained"), "image", "program"], env=environment)
    assert process.wait(60) == 0
    assert run("contained", "--kill", str(process.pid), **environment).returncode == 0
    ran, killed = told.read_text().splitlines()
    assert ran.startswith(f"{process.pid} run ")
    assert f"--name spdk-ftl-ci-{process.pid} " in ran
    assert killed.endswith(f" kill --signal KILL spdk-ftl-ci-{process.pid}")


def test_wheels_of_the_images_and_of_this_machine_leave_openssl_to_the_system() -> None:
    exclude = "--exclude libssl.so.3 --exclude libcrypto.so.3"
    assert f'repair-wheel-command = "auditwheel repair {exclude} ' in (CHECKOUT / "pyproject.toml").read_text()
    assert f'auditwheel" repair {exclude} ' in (CI / "wheels").read_text()
