"""What strangers chose, in logs and on terminals."""

from __future__ import annotations

from spdk_ftl_py.text import LINE_SHOWN_MAX, NAME_SHOWN_MAX, show_line, show_name, show_names

NQN = "nqn.2014-08.org.nvmexpress:uuid:5f5b1c1e-5d2c-4ef0-9d6a-6f7a0c1e2d3b"


def test_a_name_that_needs_no_escapes_is_shown_as_it_is() -> None:
    assert show_name(NQN) == NQN
    assert show_name("nqn." + "x" * 219) == "nqn." + "x" * 219


def test_a_name_is_one_word_whatever_a_stranger_made_of_it() -> None:
    hostile = (
        "nqn.x:\x1b[2J\r\n2026-11-28 I ftl0: deleted, asked for by 'root' `id` \"\u202e\u2028\ud800\U0001f600"
        + "é" * 200
    )
    shown = show_name(hostile)
    assert shown.isascii()
    assert shown.isprintable()
    assert not set(shown) & set(" '\"`")
    assert shown.startswith(r"nqn.x:\x1b[2J\r\n2026-11-28\x20I\x20ftl0:")
    assert len(shown) == NAME_SHOWN_MAX
    assert shown.endswith("...")
    # Two names are never shown as one.
    assert show_name("a\n") != show_name("a\\n")


def test_of_many_names_some_are_shown_and_the_others_counted() -> None:
    assert show_names(["a", "b c"]) == r"a, b\x20c"
    assert show_names(str(number) for number in range(1024)) == "0, 1, 2, 3, 4, 5, 6, 7 and 1016 more"


def test_a_line_keeps_its_words() -> None:
    assert show_line('it\'s a "line"\n') == 'it\'s a "line"\\n'
    assert len(show_line("\0" * 1000)) == LINE_SHOWN_MAX
