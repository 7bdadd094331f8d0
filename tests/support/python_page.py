"""The examples of docs/python.md, as they stand."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

PAGE = Path(__file__).resolve().parents[2] / "docs" / "python.md"
_BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Example:
    section: str
    line: int
    """Of its first line, in the page."""
    text: str

    @property
    def name(self) -> str:
        return re.sub(r"\W+", "_", self.section.lower())


def examples(page: str | None = None) -> list[Example]:
    text = PAGE.read_text(encoding="utf-8") if page is None else page
    found = []
    for block in _BLOCK.finditer(text):
        section = re.findall(r"^## (.+)$", text[: block.start()], re.MULTILINE)[-1]
        found.append(Example(section, text.count("\n", 0, block.start(1)) + 1, block[1]))
    return found
