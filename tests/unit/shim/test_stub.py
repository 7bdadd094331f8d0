"""_shim.pyi against the extension that was built. (mypy's stubtest knows nothing of nanobind's functions.)"""

from __future__ import annotations

import ast
import inspect
import re
from enum import IntEnum
from pathlib import Path
from typing import Any

import pytest

import spdk_ftl_py
from spdk_ftl_py import _shim, conf
from spdk_ftl_py.plan import model

STUB = ast.parse((Path(spdk_ftl_py.__file__).parent / "_shim.pyi").read_text())
CLASSES = {node.name: node for node in STUB.body if isinstance(node, ast.ClassDef)}
ENUMS = {name for name, node in CLASSES.items() if [ast.unparse(base) for base in node.bases] == ["IntEnum"]}
TUPLES = {name for name, node in CLASSES.items() if [ast.unparse(base) for base in node.bases] == ["NamedTuple"]}
FUNCTIONS = {node.name: node for node in STUB.body if isinstance(node, ast.FunctionDef)}
ANNOTATED = [node.target for node in STUB.body if isinstance(node, ast.AnnAssign)]
CONSTANTS = {target.id for target in ANNOTATED if isinstance(target, ast.Name)}


def value_of(node: ast.expr) -> Any:
    """Of a default: a literal, or a member of an enumeration of the extension."""
    if isinstance(node, ast.Attribute):
        assert isinstance(node.value, ast.Name)
        return getattr(getattr(_shim, node.value.id), node.attr)
    return ast.literal_eval(node)


def described(function: ast.FunctionDef, defaults: tuple[Any, ...] | None = None) -> list[tuple[Any, ...]]:
    """Name, kind and default of every parameter. Defaults of nanobind's signatures stand apart, in order."""
    arguments = function.args
    kinds = [("positional", argument) for argument in (*arguments.posonlyargs, *arguments.args)]
    first_default = len(kinds) - len(arguments.defaults)
    values: list[ast.expr | None] = [*[None] * first_default, *arguments.defaults, *arguments.kw_defaults]
    kinds += [("keyword", argument) for argument in arguments.kwonlyargs]
    result: list[tuple[Any, ...]] = []
    taken = 0
    for (kind, argument), value in zip(kinds, values, strict=True):
        if argument.arg == "self":
            continue
        if value is None:
            result.append((argument.arg, kind))
        elif defaults is None:
            result.append((argument.arg, kind, value_of(value)))
        else:
            result.append((argument.arg, kind, defaults[taken]))
            taken += 1
    # The order of keywords means nothing.
    return sorted(result, key=lambda parameter: parameter[0] if parameter[1] == "keyword" else "")


def runtime(function: Any) -> list[list[tuple[Any, ...]]]:
    """As described(), of each overload."""
    found = []
    for signature, _, defaults in function.__nb_signature__:
        # `\\0` stands for a default; property getters have no name.
        text = signature.replace("def (", "def getter(")
        text = re.sub(r"ndarray\[[^\[\]]*\]", "ndarray", text)  # nanobind's shapes are no Python
        for number in range(len(defaults or ())):
            text = text.replace(f"= \\{number}", "= 0", 1)
        node = ast.parse(f"{text}: ...").body[0]
        assert isinstance(node, ast.FunctionDef)
        found.append(described(node, defaults or ()))
    return found


def own_members(node: ast.ClassDef) -> dict[str, ast.FunctionDef]:
    return {member.name: member for member in node.body if isinstance(member, ast.FunctionDef)}


def own_attributes(node: ast.ClassDef) -> set[str]:
    """Those that are annotated; Python only reads them."""
    annotated = [member for member in node.body if isinstance(member, ast.AnnAssign)]
    assert all(ast.unparse(member.annotation).startswith("Final[") for member in annotated)
    return {ast.unparse(member.target) for member in annotated}


def test_stub_and_extension_have_the_same_names() -> None:
    stub = set(CLASSES) | set(FUNCTIONS) | CONSTANTS
    assert stub == {name for name in vars(_shim) if not name.startswith("_")}


def test_block_bytes_are_the_same_where_the_shim_is_not_imported() -> None:
    assert conf.BLOCK_BYTES == model.BLOCK_BYTES == _shim.BLOCK_BYTES


def test_constants_are_integers() -> None:
    assert all(isinstance(getattr(_shim, name), int) for name in CONSTANTS)


@pytest.mark.parametrize("name", sorted(FUNCTIONS))
def test_a_function_takes_what_its_stub_says(name: str) -> None:
    assert described(FUNCTIONS[name]) in runtime(getattr(_shim, name))


@pytest.mark.parametrize("name", sorted(ENUMS))
def test_an_enumeration_has_the_members_of_its_stub(name: str) -> None:
    assigned = [member for member in CLASSES[name].body if isinstance(member, ast.Assign)]
    stub = {ast.unparse(member.targets[0]): ast.literal_eval(member.value) for member in assigned}
    actual = getattr(_shim, name)
    assert issubclass(actual, IntEnum)
    assert stub == {member.name: member.value for member in actual}


@pytest.mark.parametrize("name", sorted(TUPLES))
def test_a_named_tuple_has_the_fields_of_its_stub(name: str) -> None:
    annotated = [member for member in CLASSES[name].body if isinstance(member, ast.AnnAssign)]
    actual = getattr(_shim, name)
    assert issubclass(actual, tuple)
    assert tuple(ast.unparse(member.target) for member in annotated) == actual._fields


@pytest.mark.parametrize("name", sorted(set(CLASSES) - ENUMS - TUPLES))
def test_a_class_has_the_members_and_bases_of_its_stub(name: str) -> None:
    node, actual = CLASSES[name], getattr(_shim, name, None)
    assert inspect.isclass(actual), f"_shim.{name} is not in the extension"
    bases = [base.id for base in node.bases if isinstance(base, ast.Name)]
    assert [base.__name__ for base in actual.__bases__] == (bases or ["object"])
    stub, attributes = own_members(node), own_attributes(node)
    present = {member for member in vars(actual) if not member.startswith("_")}
    assert {member for member in stub if not member.startswith("_")} | attributes == present
    for member in attributes:
        value = vars(actual)[member]
        assert isinstance(value, property), f"{name}.{member} is no property"
        assert value.fset is None, f"{name}.{member} can be changed"
    for member, function in stub.items():
        decorators = {decorator.id for decorator in function.decorator_list if isinstance(decorator, ast.Name)}
        value = vars(actual)[member]
        if "property" in decorators:
            assert isinstance(value, property), f"{name}.{member} is no property"
            continue
        assert described(function) in runtime(value), f"{name}.{member} takes something else"
