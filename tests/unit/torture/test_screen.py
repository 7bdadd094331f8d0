"""What torture and the demo show fits into the terminal there is, one line at a time."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from spdk_ftl_py.demo.screen import Screen

NOTE = "world 12: 34 emulated zones of 32/64 blocks, 2 punits, 10 open, write buffer of 16 blocks, append, non-vss"
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def shown(width: int, *, terminal: bool, name: str = "torture", note: str = NOTE, last: str = "") -> str:
    written = io.StringIO()
    console = Console(file=written, width=width, force_terminal=terminal, color_system=None)
    with Screen(console).phase(name, 500) as phase:
        for done in range(0, 500, 50):
            phase.update(done, note)
        phase.note = last or note
    return written.getvalue()


@pytest.mark.parametrize("width", [40, 59, 60, 80, 119, 120, 200])
@pytest.mark.parametrize("name", ["torture", "sequential write, 128 KiB"])
def test_progress_takes_one_line_of_any_terminal(width: int, name: str) -> None:
    text = shown(width, terminal=True, name=name, last="500 crashes, 1,234,567 blocks verified")
    # Of more lines than one the cursor would go up by more, to draw them again.
    assert set(re.findall(r"\x1b\[(\d+)A", text)) <= {"1"}
    lines = re.split(r"[\r\n]+", ESCAPES.sub("", text))
    assert max(map(len, lines)) <= width
    assert any("world 12" in line for line in lines) or width < 60
    assert "1,234,567 blocks verified" in " ".join(text.split())


def test_what_stays_is_whole_where_it_needs_more_than_a_line() -> None:
    text = ESCAPES.sub("", shown(40, terminal=True, last=NOTE)).rpartition("✓")[2]
    assert NOTE in " ".join(text.split())
    assert max(map(len, text.splitlines())) <= 40


def test_not_on_a_terminal_there_is_one_plain_line() -> None:
    text = shown(40, terminal=False)
    assert re.fullmatch(rf"✓ torture {{23}}  +\d+\.\d s  {re.escape(NOTE)}\n", text)
