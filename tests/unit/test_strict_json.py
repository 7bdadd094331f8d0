"""JSON of strangers is JSON, or refused in one line."""

from __future__ import annotations

import pytest

from spdk_ftl_py import strict_json


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b'{"id": NaN}', "NaN is not a JSON number"),
        (b"[-Infinity]", "-Infinity is not a JSON number"),
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
