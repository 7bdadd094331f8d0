"""The types of results: that their checker finds what is wrong, and what no e2e test makes a daemon answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypedDict
from uuid import UUID

import pytest

from spdk_ftl_py import results
from spdk_ftl_py.ftl.load.write_buffer_file import BufferFile
from support.typed_values import mismatches


class _Part(TypedDict):
    number: int


class _Whole(_Part, total=False):
    share: float
    parts: list[_Part]
    by_name: dict[str, _Part]
    reason: str | None
    anything: Any


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ({"number": 1}, []),
        ({"number": 1, "share": 1, "parts": [{"number": 2}], "by_name": {}, "reason": None, "anything": [()]}, []),
        ({}, [".number is missing"]),
        ([], [". is [], no _Whole"]),
        ({"number": True}, [".number is True, no int"]),
        ({"number": "1", "share": "x"}, [".number is '1', no int", ".share is 'x', no float"]),
        ({"number": 1, "more": 2}, [".more is not in _Whole"]),
        ({"number": 1, "parts": [{"number": 2}, {}]}, [".parts[1].number is missing"]),
        ({"number": 1, "parts": {}}, [".parts is {}, no list"]),
        ({"number": 1, "by_name": {"a": {"number": None}}}, [".by_name.a.number is None, no int"]),
        ({"number": 1, "by_name": []}, [".by_name is [], no object"]),
        ({"number": 1, "reason": 5}, [".reason is 5, no str"]),
    ],
)
def test_the_checker_names_what_differs(value: Any, told: list[str]) -> None:
    assert mismatches(value, _Whole) == told


@pytest.mark.parametrize("problem", [None, "its header is damaged"])
def test_a_write_buffer_file_has_its_type(problem: str | None) -> None:
    held = None if problem else 5
    file = BufferFile(Path("/dev/shm/spdk-ftl-0/x.wbuf"), UUID(int=1), 4096, held, held, problem)
    assert mismatches(file.to_dict(), results.BufferFile) == []
