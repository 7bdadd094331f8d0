"""The command line of bench/run.py."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

from rich.console import Console

from ..errors import FtlError, ParameterError
from ..under_test.programs import ProgramError
from ..under_test.spdk_tgt import SpdkTargetError
from .bed import Bed, Options
from .measured import Measured, Timing
from .measuring import measure, windows
from .plan import FULL, QUICK, Section, selected
from .progress import progress
from .results import gc_rows, rows_of
from .rows import Row, save
from .table import lines_of

TARGETS: Final = ("embedded", "spdk_tgt")
PROGRAM_ENVIRONMENT: Final = "SPDK_TGT"
QUICK_SECONDS: Final = 0.4
SECONDS: Final = 1.5
QUICK_REPEATS: Final = 3
REPEATS: Final = 5
BASE_MIB: Final = 2048
BASE_MIB_MIN: Final = 512


def main(description: str, argv: list[str] | None = None) -> int:
    """Returns the exit code (argparse itself exits with 2)."""
    parser = build_parser(description)
    args = parser.parse_args(argv)
    try:
        sections = selected(QUICK if args.quick and not args.only else FULL, args.only)
        programs = [(target, _program(target)) for target in _targets(args)]
    except ParameterError as error:
        parser.error(error.message)
    if args.list:
        for section in sections:
            for workload in section.workloads:
                print(f"{section.name}/{workload.name}")
        return 0
    console = Console(stderr=True)
    timing = Timing(
        seconds=args.seconds or (QUICK_SECONDS if args.quick else SECONDS),
        repeats=args.repeats or (QUICK_REPEATS if args.quick else REPEATS),
    )
    try:
        rows = _run(args, sections, programs, timing, console)
        if args.json is not None:
            how = {
                "date": time.strftime("%Y-%m-%d"),
                "command": "python bench/run.py " + " ".join(sys.argv[1:] if argv is None else argv),
            }
            save(args.json, rows, how, update=args.update)
    except KeyboardInterrupt:
        return 130
    except (FtlError, ProgramError, SpdkTargetError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    print("\n".join(lines_of(rows)))
    return 0


def build_parser(description: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="bench/run.py", description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="fewer workloads, shorter windows: at most 3 minutes")
    parser.add_argument(
        "--only", metavar="PATTERN,…", type=lambda given: given.split(","), default=[],
        help="the workloads to measure: SECTION/WORKLOAD, or a WORKLOAD of the section fresh; * and ? as for files",
    )  # fmt: skip
    parser.add_argument("--list", action="store_true", help="print what would be measured, and end")
    parser.add_argument(
        "--target", action="append", choices=TARGETS,
        help="embedded, or spdk_tgt (the program in $SPDK_TGT); default: embedded, and spdk_tgt if $SPDK_TGT is set",
    )  # fmt: skip
    parser.add_argument("--seconds", type=_positive, metavar="N", help="length of a window")
    parser.add_argument("--repeats", type=_count, metavar="N", help="windows of each workload on each side")
    parser.add_argument(
        "--base-mib",
        type=_base,
        default=BASE_MIB,
        metavar="MIB",
        help="size of raw bdev and base (default: %(default)s)",
    )
    parser.add_argument(
        "--cores", type=_cores, default=(0, 1), metavar="T,O",
        help="core of the target, and of daemon and client (default: 0,1)",
    )  # fmt: skip
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows to this file")
    parser.add_argument("--update", action="store_true", help="keep the rows of that file that were not measured now")
    return parser


def _positive(given: str) -> float:
    value = float(given)
    if not 0.05 <= value <= 3600:
        raise argparse.ArgumentTypeError(f"{given}: must be within 0.05..3600")
    return value


def _count(given: str) -> int:
    value = int(given)
    if not 1 <= value <= 1000:
        raise argparse.ArgumentTypeError(f"{given}: must be within 1..1000")
    return value


def _base(given: str) -> int:
    value = int(given)
    if not BASE_MIB_MIN <= value <= 1 << 20:
        raise argparse.ArgumentTypeError(f"{given}: must be at least {BASE_MIB_MIN}")
    return value


def _cores(given: str) -> tuple[int, int]:
    cores = tuple(int(core) for core in given.split(","))
    available = os.sched_getaffinity(0)
    if len(cores) != 2 or not set(cores) <= available:
        raise argparse.ArgumentTypeError(f"{given}: must be two of the cores {','.join(map(str, sorted(available)))}")
    return cores[0], cores[1]


def _targets(args: argparse.Namespace) -> list[str]:
    if args.target:
        return list(dict.fromkeys(args.target))
    return list(TARGETS if os.environ.get(PROGRAM_ENVIRONMENT) else TARGETS[:1])


def _program(target: str) -> str | None:
    """Raises ParameterError."""
    if target == "embedded":
        return None
    given = os.environ.get(PROGRAM_ENVIRONMENT)
    if not given:
        raise ParameterError(f"--target spdk_tgt: set {PROGRAM_ENVIRONMENT} to the path of the program")
    program = shutil.which(given)
    if program is None:
        raise ParameterError(f"{PROGRAM_ENVIRONMENT}={given} is not a program")
    return str(Path(program).absolute())


def _run(
    args: argparse.Namespace, sections: list[Section], programs: list[tuple[str, str | None]], timing: Timing,
    console: Console,
) -> list[Row]:  # fmt: skip
    rows: list[Row] = []
    with progress(console, windows(sections, timing) * len(programs)) as tell:
        for target, program in programs:
            options = Options(program, base_mib=args.base_mib, target_core=args.cores[0], other_core=args.cores[1])
            tell(f"{target}: starting", 0)
            with tempfile.TemporaryDirectory(prefix="ftl-bench-") as folder, Bed(Path(folder), options) as bed:
                rows += _measure(bed, f"{target}/tcp", sections, timing, partial(_tell, tell, target))
    return rows


def _tell(tell: Callable[[str, int], None], target: str, what: str) -> None:
    tell(f"{target} {what}", 1)


def _measure(bed: Bed, prefix: str, sections: list[Section], timing: Timing, tell: Callable[[str], None]) -> list[Row]:
    rows: list[Row] = []
    found: dict[str, dict[str, Measured]] = {}
    for section in sections:
        measured = measure(bed, section, timing, tell)
        found.setdefault(section.name, {}).update(measured)
        rows += rows_of(prefix, section, measured)
    return rows + list(gc_rows(prefix, found.get("fresh", {}), found.get("gc", {})))
