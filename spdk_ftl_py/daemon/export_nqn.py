"""The NQN of an FTL's export: by default one with its uuid, otherwise made from the user's template."""

from __future__ import annotations

import re
from typing import Final
from uuid import UUID

from ..errors import ParameterError
from ..nvme.nqn import check_nqn
from ..spdk.exports import NQN_PREFIX

NAME: Final = "{name}"
UUID_: Final = "{uuid}"
_OTHER_BRACES: Final = re.compile(r"[{}]")


def export_nqn(template: str | None, name: str, device: UUID) -> str:
    """template: an NQN with {name} and {uuid}, which are replaced by those of the FTL; None: the default. Raises
    ParameterError if the result is not a valid NQN of an export."""
    if template is None:
        return f"{NQN_PREFIX}{device}"
    what = f"nqn {template!r}"
    left = template.replace(NAME, "").replace(UUID_, "")
    if _OTHER_BRACES.search(left):
        raise ParameterError(f"{what}: has braces other than {NAME} and {UUID_}: remove them")
    nqn = check_nqn(template.replace(NAME, name).replace(UUID_, str(device)), "nqn")
    if nqn.startswith(NQN_PREFIX) and nqn != f"{NQN_PREFIX}{device}":
        raise ParameterError(
            f"{what}: {NQN_PREFIX} is reserved for names that the daemon chooses: choose another prefix"
        )
    return nqn


def check_template(template: str) -> str:
    """Checks a template for all FTLs of a daemon, and returns it. Raises ParameterError."""
    if NAME not in template and UUID_ not in template:
        raise ParameterError(f"nqn {template!r}: every FTL would have this NQN: add {NAME} or {UUID_}")
    export_nqn(template, "n" * 63, UUID(int=0))
    return template
