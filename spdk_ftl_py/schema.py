"""Loader and validator of schemas/*.json: one JSON Schema (2020-12) for each RPC of the daemon, the single source of
parameter names, types, bounds, defaults and help.

Four annotations extend the standard keywords: ``x-cli`` lists the flags with which the plugin offers a parameter (none:
the plugin fills it in itself), ``x-allowed`` describes a ``pattern`` in words, ``x-metavar`` names one entry of an
array in --help, and ``x-reads-only`` marks an RPC that changes nothing.

Light, because rpc.py imports it for every command: the first validation imports jsonschema.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from .errors import ParameterError

if TYPE_CHECKING:
    from jsonschema.exceptions import ValidationError
    from jsonschema.protocols import Validator

VALUE_SHOWN_MAX = 80
_KEY_FILE = "the absolute path of a key file"
"""x-allowed of parameters that name the file of a key."""

ALIASES = {"construct_ftl_bdev": "bdev_ftl_create", "delete_ftl_bdev": "bdev_ftl_delete"}
"""Names that rpc.py had in 2020, with today's names."""

_TYPE_NAMES = {
    "integer": "a whole number",
    "string": "a string",
    "boolean": "true or false",
    "object": "an object",
    "array": "an array",
}


@dataclass(frozen=True)
class Parameter:
    """One parameter of an RPC. ``flags`` are those of the command line, with the long one that names it second. An
    array contains strings, one for each flag on the command line."""

    name: str
    type: str
    description: str
    required: bool
    flags: tuple[str, ...]
    default: Any
    minimum: int | None
    maximum: int | None
    choices: tuple[str, ...] = ()
    metavar: str = ""
    properties: tuple[Parameter, ...] = ()

    @property
    def allowed(self) -> str:
        """The bounds in words; empty if there are none."""
        if self.minimum is not None and self.maximum is not None:
            return f"{self.minimum} to {self.maximum}"
        return ", ".join(self.choices)

    @property
    def help(self) -> str:
        """The line for --help: description, bounds, default."""
        notes = [self.allowed] if self.allowed else []
        if self.default is not None and self.type != "boolean":
            notes.append(f"default: {self.default}")
        return f"{self.description} ({'; '.join(notes)})" if notes else self.description


class RpcSchema:
    """The parameters of one RPC."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        self.method: str = document["title"]
        self.description: str = document["description"]
        self.reads_only: bool = document.get("x-reads-only", False) is True
        """The RPC changes nothing, so users who only monitor may call it."""
        self.document = document
        self.parameters = _parameters(document)

    def parameter(self, name: str) -> Parameter:
        return next(parameter for parameter in self.parameters if parameter.name == name)

    def validate(self, params: object) -> dict[str, Any]:
        """check(), with the defaults of absent parameters filled in."""
        checked = self.check(params)
        for parameter in self.parameters:
            if parameter.default is not None:
                checked.setdefault(parameter.name, parameter.default)
        return checked

    def check(self, params: object, *, without: Iterable[str] = ()) -> dict[str, Any]:
        """Returns params with whole floats (JSON's 3.0) as integers.

        without: names of required parameters that somebody else adds later. Raises ParameterError, which names the
        parameter, its fault and what is allowed.
        """
        if params is None:
            params = {}
        if not isinstance(params, dict):
            raise ParameterError(f"{self.method}: params must be an object of named parameters, not {_shown(params)}")
        absent = set(without)
        errors = [e for e in _validator(self.method).iter_errors(params) if not _only_missing(e, absent)]
        if errors:
            # Deepest last: if there are an unknown name and a bad value, the unknown name is the likelier cause of
            # both.
            raise ParameterError(self._message(min(errors, key=lambda error: (len(error.absolute_path), str(error)))))
        return {name: _whole(value) for name, value in params.items()}

    def _message(self, error: ValidationError) -> str:
        name = ".".join(str(part) for part in error.absolute_path)
        rule, limit, value = error.validator, cast(Any, error.validator_value), cast(Any, error.instance)
        entry = cast("Mapping[str, Any]", error.schema)
        if rule == "required":
            missing = next(wanted for wanted in limit if wanted not in value)
            return (
                f"{self.method}: parameter {self._display(missing)} is missing: {self.parameter(missing).description}"
            )
        if rule == "additionalProperties":
            unknown = next(given for given in value if given not in entry["properties"])
            inside = f" in {name}" if name else ""
            return (
                f"{self.method}: unknown parameter {_shown(unknown)}{inside}; known: {', '.join(entry['properties'])}"
            )
        if entry.get("x-allowed") == _KEY_FILE:
            # What was given may be the key itself, and the message gets into logs.
            return f"{self.method}: {self._display(name)}: must be {_KEY_FILE}"
        must = ""
        if rule == "maxItems":
            return f"{self.method}: {self._display(name)} has {len(value)} entries: at most {limit} are allowed"
        if rule == "type":
            must = _TYPE_NAMES.get(limit, limit)
        elif rule in ("minimum", "maximum"):
            must = f"{entry.get('minimum')} to {entry.get('maximum')}"
        elif rule == "enum":
            must = f"one of {', '.join(limit)}"
        elif rule == "pattern":
            must = entry.get("x-allowed", "")
        if not must:
            return f"{self.method}: {self._display(name) or 'params'}: {error.message[:VALUE_SHOWN_MAX]}"
        return f"{self.method}: {self._display(name)} is {_shown(value)}: must be {must}"

    def _display(self, name: str) -> str:
        flags = next((p.flags for p in self.parameters if p.name == name.partition(".")[0] and p.type != "object"), ())
        return f"{name} ({flags[0]})" if flags else name


def schema_folder() -> Path:
    """schemas/ of the checkout that this module is in, otherwise the copy installed beside it."""
    package = Path(__file__).resolve().parent
    checkout = package.parent / "schemas"
    if (package.parent / "CMakeLists.txt").is_file() and checkout.is_dir():
        return checkout
    return package / "schemas"


@functools.cache
def methods() -> tuple[str, ...]:
    """Every RPC that has a schema, sorted."""
    return tuple(sorted(path.stem for path in schema_folder().glob("*.json")))


@functools.cache
def load(method: str) -> RpcSchema:
    """Raises ParameterError for a method without a schema."""
    method = ALIASES.get(method, method)
    if method not in methods():
        raise ParameterError(f"no schema for method {_shown(method)}; known: {', '.join(methods())}")
    return RpcSchema(json.loads((schema_folder() / f"{method}.json").read_text(encoding="utf-8")))


def _parameters(document: Mapping[str, Any]) -> tuple[Parameter, ...]:
    required = set(document.get("required", ()))
    return tuple(
        Parameter(
            name=name,
            type=entry["type"],
            description=entry["description"],
            required=name in required,
            flags=tuple(entry.get("x-cli", ())),
            default=entry.get("default"),
            minimum=entry.get("minimum"),
            maximum=entry.get("maximum"),
            choices=tuple(entry.get("enum", ())),
            metavar=entry.get("x-metavar", ""),
            properties=_parameters(entry) if entry["type"] == "object" else (),
        )
        for name, entry in document["properties"].items()
    )


@functools.cache
def _validator(method: str) -> Validator:
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import ValidationError
    from jsonschema.validators import extend as untyped_extend

    def pattern(_validator: object, expression: str, instance: object, _schema: object) -> Iterable[ValidationError]:
        # ECMA's $ matches at the very end only; Python's also before a final newline.
        if isinstance(instance, str) and not re.search(re.sub(r"\$$", r"\\Z", expression), instance):
            yield ValidationError(f"{_shown(instance)} does not match")

    extend: Callable[..., type[Validator]] = untyped_extend
    validator: Validator = extend(Draft202012Validator, {"pattern": pattern})(load(method).document)
    return validator


def _only_missing(error: ValidationError, absent: set[str]) -> bool:
    if error.validator != "required" or error.absolute_path:
        return False
    return any(f"{name!r} is a required property" == error.message for name in absent)


def _whole(value: Any) -> Any:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, dict):
        return {name: _whole(entry) for name, entry in value.items()}
    return value


def _shown(value: object) -> str:
    text = json.dumps(value, ensure_ascii=True, default=repr)
    return text if len(text) <= VALUE_SHOWN_MAX else text[: VALUE_SHOWN_MAX - 3] + "..."
