"""The log of a program, on stderr: with the levels that a user chooses, and with priorities if stderr is the journal.

A subject is a module of this package, or a folder of modules, without ``spdk_ftl_py.``: ``ftl.gc``, ``daemon.server``.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import re
import sys
from collections.abc import Mapping
from typing import Final

from ..errors import ParameterError
from ..text import ShownFormatter

LEVELS: Final = {
    "error": logging.ERROR,
    "warning": logging.WARNING,
    "info": logging.INFO,
    "debug": logging.DEBUG,
}
AUDIT: Final = "audit"
"""The subject of orders. It is no module (daemon/audit.py)."""
_PACKAGE: Final = __name__.partition(".")[0]
_SUBJECT: Final = re.compile(r"[a-z][a-z0-9_]{0,39}(\.[a-z_][a-z0-9_]{0,39}){0,3}")
_JOURNAL: Final = "JOURNAL_STREAM"
_PRIORITIES: Final = ((logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))
"""The least level, and its priority in the journal (sd-daemon(3)); below all of these it is 7, debug."""


def logger_name(subject: str) -> str:
    return f"{_PACKAGE}.{subject}"


def check_subject(subject: str) -> str:
    """Returns it. Raises ParameterError if nothing is logged under that name."""
    if subject == AUDIT:
        return subject
    try:
        found = _SUBJECT.fullmatch(subject) is not None and importlib.util.find_spec(logger_name(subject)) is not None
    except ImportError:
        found = False
    if not found:
        raise ParameterError(
            f"subject {subject[:80]!r}: there is no such subject: use audit, or a folder or module of the package, as "
            "the log shows it, such as ftl.gc, nvme.target or daemon.server"
        )
    return subject


def check_setting(setting: str) -> str:
    """LEVEL or SUBJECT=LEVEL; returns it. Raises ParameterError."""
    subject, equals, level = setting.rpartition("=")
    if level not in LEVELS:
        raise ParameterError(
            f"{setting[:80]!r}: must be LEVEL or SUBJECT=LEVEL, where LEVEL is one of {', '.join(LEVELS)}"
        )
    if equals:
        check_subject(subject)
    return setting


class LogLevels:
    """The level of the whole log, and those of subjects."""

    def __init__(self, level: str = "info", subjects: Mapping[str, str] | None = None) -> None:
        self._first = level
        self.level = level
        self.subjects: dict[str, str] = dict(subjects or {})

    @classmethod
    def parse(cls, settings: list[str], *, level: str = "info") -> LogLevels:
        """From strings LEVEL and SUBJECT=LEVEL. For the same subject, the last one wins. level: the default of the
        whole log. Raises ParameterError."""
        subjects: dict[str, str] = {}
        for setting in settings:
            subject, equals, value = check_setting(setting).rpartition("=")
            if equals:
                subjects[subject] = value
            else:
                level = value
        return cls(level, subjects)

    def apply(self) -> None:
        logging.getLogger().setLevel(LEVELS[self.level])
        # Its messages of level info are about every signal handler.
        logging.getLogger("asyncio").setLevel(max(LEVELS[self.level], logging.WARNING))
        for subject, level in self.subjects.items():
            logging.getLogger(logger_name(subject)).setLevel(LEVELS[level])

    def set(self, level: str, subject: str | None = None) -> None:
        """level: one of LEVELS; or "default", which restores the level that the program was started with. With a
        subject, "default" gives the subject the level of the whole log.

        Raises ParameterError.
        """
        if subject is None:
            self.level = self._first if level == "default" else level
        elif level != "default":
            self.subjects[check_subject(subject)] = level
        else:
            self.subjects.pop(check_subject(subject), None)
            logging.getLogger(logger_name(subject)).setLevel(logging.NOTSET)
        self.apply()


class JournalFormatter(ShownFormatter):
    """Each line begins with its priority, for journald, which has the time itself."""

    def format(self, record: logging.LogRecord) -> str:
        priority = next((number for least, number in _PRIORITIES if record.levelno >= least), 7)
        return "\n".join(f"<{priority}>{line}" for line in super().format(record).split("\n"))


def goes_to_journal(environment: Mapping[str, str], descriptor: int) -> bool:
    """Whether systemd has connected this descriptor to the journal (systemd.exec(5), $JOURNAL_STREAM)."""
    device, _, inode = environment.get(_JOURNAL, "").partition(":")
    try:
        found = os.fstat(descriptor)
        return (found.st_dev, found.st_ino) == (int(device), int(inode))
    except (OSError, ValueError):
        return False


def log_to_stderr(form: str, levels: LogLevels) -> None:
    """Logs like logging.basicConfig(). form: the format of a line, to which the time is added unless stderr is the
    journal."""
    handler = logging.StreamHandler()
    try:
        in_journal = goes_to_journal(os.environ, sys.stderr.fileno())
    except (OSError, ValueError, AttributeError):
        in_journal = False
    handler.setFormatter(JournalFormatter(form) if in_journal else ShownFormatter(f"%(asctime)s {form}"))
    logging.basicConfig(handlers=[handler])
    levels.apply()
