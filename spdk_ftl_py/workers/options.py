"""The options that choose who does the work."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from ..errors import ParameterError
from ..usage import parsed, whole
from .cluster import DaskWorkers
from .identity import Identity
from .local import LocalWorkers, cores
from .work import Workers

JOBS_MAX: Final = 1024
_ADDRESS: Final = re.compile(r"((tcp|tls|ws|wss)://)?([A-Za-z0-9_.-]+|\[[0-9A-Fa-f:]+\]):[0-9]{1,5}")
TRUST: Final = (
    "a Dask scheduler lets everybody who reaches it run code on its workers: use it only in a network that you trust, "
    "or with Dask's own TLS settings"
)


def _address(given: str) -> str:
    if not _ADDRESS.fullmatch(given):
        raise ParameterError(f"{given[:80]!r} is not the address of a Dask scheduler, such as tcp://storage1:8786")
    return given


def add_worker_options(parser: argparse._ActionsContainer, what: str) -> None:
    """what: is run by the workers; for --help."""
    parser.add_argument(
        "--jobs",
        type=whole(1, JOBS_MAX),
        metavar="N",
        help=f"run {what} in N processes of this machine (default: one for each core)",
    )
    parser.add_argument(
        "--scheduler",
        type=parsed(_address),
        metavar="ADDRESS",
        help=f"run {what} on the workers of the Dask cluster whose scheduler has this address; {TRUST}",
    )


@contextmanager
def chosen_workers(jobs: int | None, scheduler: str | None, code: Identity | None = None) -> Iterator[Workers]:
    """code: as spread() has it. Raises FtlError."""
    workers: Workers = DaskWorkers(scheduler, code) if scheduler is not None else LocalWorkers(jobs or cores())
    try:
        yield workers
    finally:
        workers.close()
