"""The RPC that changes what the daemon logs."""

from __future__ import annotations

import logging
from typing import Any

from ..errors import ParameterError
from ..runtime.logs import AUDIT, LogLevels
from .requester import requester
from .server import Method

log = logging.getLogger(__name__)


class LogRpcs:
    def __init__(self, levels: LogLevels, *, audit_log: str | None = None) -> None:
        """audit_log: the file to which the daemon writes orders instead of the log."""
        self._levels = levels
        self._audit_log = audit_log

    @property
    def methods(self) -> dict[str, Method]:
        return {"ftl_set_log_level": self.set_log_level}

    def describe(self) -> dict[str, Any]:
        """The part of ftl_get_daemon's answer about the log."""
        return {
            "log_level": self._levels.level,
            "log_subjects": dict(sorted(self._levels.subjects.items())),
            "audit_log": self._audit_log,
        }

    async def set_log_level(self, params: dict[str, Any]) -> dict[str, Any]:
        """What describe() returns afterwards. Raises ParameterError."""
        level, subject = params["level"], params.get("subject")
        if subject == AUDIT and self._audit_log is not None:
            raise ParameterError(
                f"subject audit: all orders go to {self._audit_log}, whatever the level: to log them instead, start "
                "the daemon without --audit-log"
            )
        self._levels.set(level, subject)
        # Any level but error shows this.
        log.warning("log level %s%s, set by %s", level, f" for {subject}" if subject else "", requester())
        return self.describe()
