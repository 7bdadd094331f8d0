"""What decides the results of a sweep beside its grid: all who simulate its points must have the same."""

from __future__ import annotations

import errno
import os
import stat
import sys
from pathlib import Path
from typing import Final

from ...errors import NotFoundError, ParameterError
from ...text import show_line
from ...workers.identity import ENTRY_POINT, FILE, MISSING, MODULE, PACKAGE, Identity, identity
from .grid import Grid

_OF_A_PROCESS: Final = ("/dev/stdin", "/dev/fd/", "/proc/")
"""Beginnings of paths that are something else for each process."""
_NOT_THEIRS: Final = frozenset({PACKAGE.name, *sys.stdlib_module_names})


def needs(grid: Grid) -> Identity:
    """This package, the policies that are no part of it, and the traces.

    Of a policy, the files count that define its class and those it inherits from; not what they import. Raises
    ConfError for a policy that is not there, NotFoundError for one without a file, ParameterError as check_traces().
    """
    check_traces(grid)
    found = identity([*_policies(grid), *(f"{FILE}{trace}" for trace in _traces(grid))])
    for name, value in found.items():
        if value == MISSING and name.startswith(MODULE):
            module = name.removeprefix(MODULE)
            raise NotFoundError(f"policy module {module} has no file: install it as one", errno=errno.ENOENT)
    return found


def check_traces(grid: Grid) -> None:
    """Raises ParameterError for a trace that can't be read as often as a sweep has points."""
    for trace in _traces(grid):
        of_a_process = os.path.abspath(trace).startswith(_OF_A_PROCESS)
        if of_a_process or not stat.S_ISREG(_mode(trace)):
            raise ParameterError(
                f"trace {show_line(str(trace))}: each point of a sweep reads it again, in a process of its own, which "
                "only a regular file allows: write the trace to a file, and name that"
            )


def _mode(trace: Path) -> int:
    try:
        return trace.stat().st_mode
    except OSError as error:
        raise ParameterError(f"trace {show_line(str(trace))} can't be read: {error.strerror}") from None


def _traces(grid: Grid) -> list[Path]:
    # It needs numpy.
    from ..workloads.parse import trace_of

    workloads = map(str, grid.axes.get("workload", [grid.base["workload"]]))
    return list(dict.fromkeys(trace for workload in workloads if (trace := trace_of(workload)) is not None))


def _policies(grid: Grid) -> list[str]:
    """Names for identity()."""
    # The registry needs numpy.
    from ...ftl.policy.registry import GROUP, Named, find_class, is_shipped

    found: set[str] = set()
    for policy in map(str, grid.axes.get("policy", [grid.base["policy"]])):
        if is_shipped(policy):
            continue
        named = Named.read(policy)
        modules = {each.__module__ for each in find_class(policy).__mro__}
        if named.class_name is None:
            found.add(f"{ENTRY_POINT}{GROUP} {named.name}")
        else:
            modules.add(named.name)
        found.update(f"{MODULE}{each}" for each in modules if each.partition(".")[0] not in _NOT_THEIRS)
    return sorted(found)
