"""Policies by name, as conf reloc_policy has them: ``NAME``, or ``MODULE:CLASS``, each with ``:KEY=VALUE`` as often as
the policy has parameters. A name is that of a shipped policy, or of an entry point in the group GROUP."""

from __future__ import annotations

import importlib
import importlib.metadata
import inspect
import sys
from dataclasses import dataclass
from typing import Any, Final

from ...conf import RELOC_POLICIES, check_reloc_policy
from ...errors import ConfError
from ...text import show_line
from .interface import Policy, Surroundings
from .sepbit import SepBit
from .shipped import AgeThreshold, CostBenefit, DChoices, Greedy, Seed

GROUP: Final = "spdk_ftl_py.policies"
SHIPPED: Final[dict[str, type[Policy]]] = {
    each.name: each for each in (AgeThreshold, CostBenefit, DChoices, Greedy, Seed, SepBit)
}
_REMEDY: Final = f"use {', '.join(RELOC_POLICIES)}, the name of an entry point in group {GROUP}, or MODULE:CLASS"


@dataclass(frozen=True)
class Named:
    """What conf reloc_policy says. class_name None: ``name`` is not a module."""

    text: str
    name: str
    class_name: str | None
    parameters: dict[str, Any]

    @classmethod
    def read(cls, text: str) -> Named:
        """Raises ConfError."""
        check_reloc_policy(text)
        name, *more = text.split(":")
        class_name = more.pop(0) if more and "=" not in more[0] else None
        parameters: dict[str, Any] = {}
        for part in more:
            key, _, value = part.partition("=")
            if key in parameters:
                raise ConfError(f"conf reloc_policy = {text!r}: {key} is given twice")
            parameters[key] = _value(value)
        return cls(text, name, class_name, parameters)

    def error(self, what: str) -> ConfError:
        return ConfError(f"conf reloc_policy = {self.text!r}: {what}")


def is_shipped(text: str) -> bool:
    """Whether finding the class takes no import."""
    return text.partition(":")[0] in SHIPPED


def find_class(text: str, *, may_import: bool = True) -> type[Policy]:
    """The class that conf reloc_policy names. Imports the module, which may take long and runs its code: call it only
    with what somebody has ordered who may give orders. may_import: False takes only what is imported already, and entry
    points, which whoever installed them has declared to be policies. Raises ConfError."""
    named = Named.read(text)
    if named.class_name is None:
        if named.name in SHIPPED:
            return SHIPPED[named.name]
        found: object = _load_entry_point(named)
    else:
        found = _attribute(named, _module(named, may_import=may_import))
    if not isinstance(found, type) or not issubclass(found, Policy):
        what = f"{named.name}:{named.class_name}" if named.class_name else f"the entry point {named.name}"
        raise named.error(f"{what} is not a subclass of spdk_ftl_py.Policy: derive it from that")
    return found


def make_policy(text: str, surroundings: Surroundings, *, may_import: bool = True) -> Policy:
    """Raises ConfError, which says what is wrong with the name, the class or the parameters."""
    named = Named.read(text)
    kind = find_class(text, may_import=may_import)
    try:
        inspect.signature(kind).bind(surroundings, **named.parameters)
    except TypeError as error:
        raise named.error(f"{kind.__name__} takes {_parameters_of(kind)}: {show_line(str(error))}") from None
    except ValueError:
        pass  # It has no signature that can be looked at.
    try:
        policy = kind(surroundings, **named.parameters)
    except (Exception, SystemExit) as error:
        raise named.error(f"{kind.__name__} can't be made: {told(error)}") from error
    if not isinstance(policy, Policy):
        raise named.error(f"{kind.__name__} makes a {type(policy).__name__}, not a policy")
    return policy


def told(error: BaseException) -> str:
    """An error of somebody else's code, in one line."""
    try:
        text = str(error)
    except Exception:
        text = "(its text can't be made)"
    kind = type(error).__name__
    return show_line(f"{kind}: {text}" if text else kind)


def _value(text: str) -> int | float | bool | str:
    if text in ("true", "false"):
        return text == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _parameters_of(kind: type[Policy]) -> str:
    # The first one is surroundings.
    _, *names = [f"{each}" for each in inspect.signature(kind).parameters.values()] or [""]
    return f"the parameters {', '.join(names)}" if names else "no parameters"


def _load_entry_point(named: Named) -> object:
    found = list(importlib.metadata.entry_points(group=GROUP, name=named.name))
    if not found:
        raise named.error(f"no such policy: {_REMEDY}")
    try:
        return found[0].load()
    except (Exception, SystemExit) as error:
        raise named.error(f"the entry point {named.name} ({found[0].value}) can't be loaded: {told(error)}") from error


def _module(named: Named, *, may_import: bool) -> object:
    module = sys.modules.get(named.name)
    if module is not None:
        return module
    if not may_import:
        raise named.error(
            "a superblock alone does not make the daemon import a module: set reloc_policy again, or install the "
            f"policy as an entry point in group {GROUP}"
        )
    # It may have been installed since this process began.
    importlib.invalidate_caches()
    try:
        return importlib.import_module(named.name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{named.name}.".startswith(f"{error.name}."):
            raise named.error(f"module {named.name} can't be imported: {told(error)}") from error
        raise named.error(
            f"there is no module {error.name}: install its package for {sys.executable}, or start the daemon with the "
            "module's folder in PYTHONPATH"
        ) from None
    except (Exception, SystemExit) as error:
        raise named.error(f"module {named.name} can't be imported: {told(error)}") from error


def _attribute(named: Named, module: object) -> object:
    assert named.class_name is not None
    try:
        return getattr(module, named.class_name)
    except AttributeError:
        there = sorted(
            name
            for name, each in vars(module).items()
            if isinstance(each, type) and issubclass(each, Policy) and each.__module__ == named.name
        )
        has = f"its policies are {', '.join(there)}" if there else "and it has no policy"
        raise named.error(f"module {named.name} has no class {named.class_name}: {has}") from None
