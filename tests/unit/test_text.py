"""What strangers chose is shown without doing anything, and JSON of theirs is JSON or refused."""

from __future__ import annotations

import io
import logging

import pytest

from spdk_ftl_py import strict_json
from spdk_ftl_py.text import SHOWN_MAX, ShownFormatter, shown


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


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b'{"id": NaN}', "NaN is no number"),
        (b"[-Infinity]", "-Infinity is no number"),
        (b"[1e999]", "too large"),
        (b'["\\ud800"]', "surrogate"),
        (b'{"\\udfff": 1}', "surrogate"),
        (b"[" * 400 + b"]" * 400, "nested deeper"),
        (b'{"a":' * 400 + b"1" + b"}" * 400, "nested deeper"),
        (b"[" * 100_000, "nested deeper"),
        (b"[" + b"9" * 5000 + b"]", "digits"),
        (b'"\xff"', "not UTF-8"),
        (b'["', "Unterminated"),
    ],
)
def test_what_is_no_json_is_refused(raw: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        strict_json.loads(raw)


@pytest.mark.parametrize(
    "raw", [b'{"a": ["\\ud83d\\ude00", 1.5, null]}', b'["[[[[", "\\"[[[["]', b"[" * 64 + b"]" * 64, '"ö"'.encode()]
)
def test_what_is_json_is_taken(raw: bytes) -> None:
    strict_json.loads(raw)
