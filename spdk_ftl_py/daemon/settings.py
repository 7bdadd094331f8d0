"""What bdev_ftl_set_property can change: names, the values that strings stand for, and the parameters that hold
them."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from typing import Any, Final

from .. import schema
from ..conf import LIMIT_NAMES, FtlConf
from ..errors import ConfError, ParameterError
from ..ftl.properties import ALWAYS, SETTINGS
from ..ignored_settings import IGNORED

LIMITS: Final = tuple(f"limit_{name}{suffix}" for name in LIMIT_NAMES for suffix in ("", "_threshold"))
FIXED: Final = {
    "overprovisioning": "because it determines the capacity: create a new FTL",
    "use_append": "because it determines the size of batches: create a new FTL",
    "cores": "because it applies to one load: delete the FTL, and load it with bdev_ftl_create -u UUID --conf cores=N",
    "allow_open_bands": "because it applies to one load: delete the FTL, and load it with bdev_ftl_create -u UUID -o",
}
"""Settings that are fixed at the creation, and what to do instead."""
_NUMBER: Final = re.compile(r"-?[0-9]{1,20}")
_SWITCHES: Final = {"true": True, "false": False, "on": True, "off": False}

log = logging.getLogger(__name__)


def given(name: str, value: str) -> Any:
    """The value for a property from its string, within the bounds of bdev_ftl_create; None if the property always has
    that value, or is ignored. Raises ParameterError."""
    if name in IGNORED:
        log.warning("bdev_ftl_set_property: %s is ignored: %s", name, IGNORED[name].why)
        return None
    if name in ALWAYS:
        if value != "true":
            raise ParameterError(f"bdev_ftl_set_property: {name} is always true: {ALWAYS[name]}")
        return None
    if name in FIXED:
        raise ParameterError(f"bdev_ftl_set_property: {name} can't be changed, {FIXED[name]}")
    if name not in LIMITS and name not in SETTINGS:
        known = ", ".join((*LIMITS, *SETTINGS))
        raise ParameterError(f"bdev_ftl_set_property: no property {name!r} can be changed: use one of {known}")
    create = schema.load("bdev_ftl_create")
    parameter = next(each for each in (*create.parameters, *create.parameter("conf").properties) if each.name == name)
    if parameter.type == "boolean":
        if value not in _SWITCHES:
            raise ParameterError(f"bdev_ftl_set_property: {name} is {value!r}: must be true or false")
        return _SWITCHES[value]
    if parameter.type == "integer":
        number = int(value) if _NUMBER.fullmatch(value) else None
        assert parameter.minimum is not None
        assert parameter.maximum is not None
        if number is None or not parameter.minimum <= number <= parameter.maximum:
            raise ParameterError(f"bdev_ftl_set_property: {name} is {value!r}: must be a number, {parameter.allowed}")
        return number
    try:
        FtlConf.from_dict({name: value}).check()
    except ConfError as error:
        raise ParameterError(f"bdev_ftl_set_property: {error.message}") from None
    return value


def with_setting(params: Mapping[str, Any], name: str, value: Any) -> dict[str, Any]:
    """The parameters of bdev_ftl_create that change with the setting."""
    return {name: value} if name in LIMITS else {"conf": {**(params.get("conf") or {}), name: value}}
