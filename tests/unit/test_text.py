"""What strangers chose, in logs and on terminals: it is shown without doing anything."""

from __future__ import annotations

import io
import logging

import pytest

from spdk_ftl_py.text import (
    LINE_SHOWN_MAX,
    NAME_SHOWN_MAX,
    SHOWN_MAX,
    ShownFormatter,
    show_line,
    show_name,
    show_names,
    shown,
)

NQN = "nqn.2014-08.org.nvmexpress:uuid:5f5b1c1e-5d2c-4ef0-9d6a-6f7a0c1e2d3b"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("nqn.2026-11.io.example:höst", "nqn.2026-11.io.example:höst"),
        ("\x1b[2J", "\\x1b[2J"),
        ("a\nb\rc\td", "a\\nb\\rc\\td"),
        ("a\u202eb\u2028c\u200bd", "a\\u202eb\\u2028c\\u200bd"),
        ("\x9b31m", "\\x9b31m"),
        ("\ud800", "\\ud800"),
        ("x" * (SHOWN_MAX + 1), "x" * SHOWN_MAX + f"... ({SHOWN_MAX + 1} characters)"),
    ],
)
def test_text_is_shown_without_doing_anything(text: str, expected: str) -> None:
    assert shown(text) == expected


def test_a_log_has_one_line_for_each_message() -> None:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(ShownFormatter("%(levelname)s %(message)s"))
    log = logging.Logger("test")
    log.addHandler(handler)
    log.warning("host %s", "x\nERROR all is lost\x1b[31m")
    try:
        raise ValueError("a\x1b[31mb")
    except ValueError:
        log.exception("failed")
    first, second, *trace = stream.getvalue().splitlines()
    assert first == "WARNING host x\\nERROR all is lost\\x1b[31m"
    assert second == "ERROR failed"
    assert trace[-1] == "ValueError: a\\x1b[31mb"
    assert len(trace) > 2


def test_a_name_that_needs_no_escapes_is_shown_as_it_is() -> None:
    assert show_name(NQN) == NQN
    assert show_name("nqn." + "x" * 219) == "nqn." + "x" * 219


def test_a_name_is_one_word_whatever_a_stranger_made_of_it() -> None:
    hostile = (
        "nqn.x:\x1b[2J\r\n2026-11-28 I ftl0: deleted, asked for by 'root' `id` \"\u202e\u2028\ud800\U0001f600"
        + "é" * 200
    )
    word = show_name(hostile)
    assert word.isascii()
    assert word.isprintable()
    assert not set(word) & set(" '\"`")
    assert word.startswith(r"nqn.x:\x1b[2J\r\n2026-11-28\x20I\x20ftl0:")
    assert len(word) == NAME_SHOWN_MAX
    assert word.endswith("...")
    # Two names are never shown as one.
    assert show_name("a\n") != show_name("a\\n")


def test_of_many_names_some_are_shown_and_the_others_counted() -> None:
    assert show_names(["a", "b c"]) == r"a, b\x20c"
    assert show_names(str(number) for number in range(1024)) == "0, 1, 2, 3, 4, 5, 6, 7 and 1016 more"


def test_a_line_keeps_its_words() -> None:
    assert show_line('it\'s a "line"\n') == 'it\'s a "line"\\n'
    assert len(show_line("\0" * 1000)) == LINE_SHOWN_MAX


def test_what_was_escaped_is_not_escaped_again() -> None:
    """A name in a message, which the log escapes as a whole."""
    word = show_name("x\n\\n\u202e")
    assert shown(f"host {word} connected\x1b") == f"host {word} connected\\x1b"
