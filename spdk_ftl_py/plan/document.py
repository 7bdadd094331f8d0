"""Parses an untrusted YAML document (JSON is YAML), and keeps the line of each part of it."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from ..errors import ParameterError

if TYPE_CHECKING:
    from yaml.nodes import Node

BYTES_MAX: Final = 4 << 20
NODES_MAX: Final = 200_000
"""An alias counts with everything that it stands for."""
DEPTH_MAX: Final = 32
_NULL_TAG: Final = "tag:yaml.org,2002:null"

Path = tuple[str | int, ...]


class PlanError(ParameterError):
    """The message names the file, the line, the part of the document, the fault and what is allowed."""


@dataclass
class Document:
    """value: dicts, lists, strings, numbers, booleans and None."""

    name: str
    value: Any = None
    lines: dict[Path, int] = field(default_factory=dict)

    def where(self, path: Path) -> str:
        """``plan.yaml, line 7: targets[0].ftls[1].conf``."""
        at = path
        while at and at not in self.lines:
            at = at[:-1]
        text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).lstrip(".")
        return f"{self.name}, line {self.lines.get(at, 1)}{f': {text}' if text else ''}"

    def error(self, path: Path, message: str) -> PlanError:
        return PlanError(f"{self.where(path)}: {message}")


def read(text: bytes, name: str) -> Document:
    """Raises PlanError if the text is not YAML, is too large, or has a key twice."""
    import yaml

    if len(text) > BYTES_MAX:
        raise PlanError(f"{name}: has more than {BYTES_MAX} bytes: use several plans")
    document = Document(name)
    try:
        loader = yaml.SafeLoader(text)
        try:
            node = loader.get_single_node()
            if node is None:
                raise PlanError(f"{name}: is empty: add targets")
            document.value = _Reader(document, loader).read(node, ())
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f", line {mark.line + 1}" if mark is not None else ""
        raise PlanError(f"{name}{line}: is not YAML: {error.problem or error.context}") from None
    except (yaml.YAMLError, UnicodeError, ValueError, OverflowError) as error:
        raise PlanError(f"{name}: is not YAML: {' '.join(str(error).split())[:200]}") from None
    except RecursionError:
        raise PlanError(f"{name}: is nested too deeply") from None
    return document


class _Reader:
    """Builds the values itself, to detect keys that are given twice, and to keep nested aliases from growing."""

    def __init__(self, document: Document, loader: Any) -> None:
        self._document = document
        self._loader = loader
        self._count = 0

    def read(self, node: Node, path: Path) -> Any:
        from yaml.nodes import MappingNode, SequenceNode

        self._count += 1
        self._document.lines[path] = node.start_mark.line + 1
        if self._count > NODES_MAX:
            raise self._document.error(path, f"the document has more than {NODES_MAX} parts, aliases counted in full")
        if len(path) > DEPTH_MAX:
            raise self._document.error(path, "is nested too deeply")
        if isinstance(node, SequenceNode):
            return [self.read(each, (*path, index)) for index, each in enumerate(node.value)]
        if isinstance(node, MappingNode):
            return self._read_mapping(node, path)
        value = self._loader.construct_object(node, deep=True)
        if isinstance(value, str | int | float | bool) or (value is None and node.tag == _NULL_TAG):
            return value
        # Dates, binaries, sets.
        raise self._document.error(path, f"is a {type(value).__name__}: to use it as text, put it in quotation marks")

    def _read_mapping(self, node: Any, path: Path) -> dict[str, Any]:
        mapping: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key: Hashable = self._loader.construct_object(key_node, deep=True) if key_node.id == "scalar" else None
            line = key_node.start_mark.line + 1
            if not isinstance(key, str):
                self._document.lines[path] = line
                raise self._document.error(path, f"has the key {str(key)[:40]!r}: keys must be text")
            inside = (*path, key)
            if key in mapping:
                self._document.lines[inside] = line
                raise self._document.error(inside, "is given twice")
            mapping[key] = self.read(value_node, inside)
            # The line of the key, not of a value that begins later.
            self._document.lines[inside] = line
        return mapping
