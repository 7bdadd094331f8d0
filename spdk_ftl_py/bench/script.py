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

from .. import outputs, pictures
from ..errors import FtlError, ParameterError
from ..under_test.programs import ProgramError
from ..under_test.spdk_tgt import SpdkTargetError
from . import plot
from .bed import Bed, Options
from .compare import lines_of_changes
from .measured import WARM_S, Measured, Timing
from .measuring import measure, windows
from .perf import possible
from .plan import FULL, QUICK, SHARED, Section, selected
from .progress import progress
from .results import gc_rows, rows_of
from .rows import Row, load, save
from .shared import SharedBed, measure_shared, shared_rows
from .table import lines_of

TARGETS: Final = ("embedded", "spdk_tgt")
PROGRAM_ENVIRONMENT: Final = "SPDK_TGT"
QUICK_SECONDS: Final = 0.2
QUICK_WARM_S: Final = 0.08
SECONDS: Final = 1.5
QUICK_REPEATS: Final = 3
REPEATS: Final = 5
KEPT: Final = Path(__file__).resolve().parents[2] / "bench" / "results" / "latest.json"
BASE_MIB: Final = 2048
QUICK_BASE_MIB: Final = 1024
BASE_MIB_MIN: Final = 512


def main(description: str, argv: list[str] | None = None) -> int:
    """Returns the exit code (argparse itself exits with 2)."""
    parser = build_parser(description)
    args = parser.parse_args(argv)
    try:
        sections = selected(QUICK if args.quick and not args.only else FULL, args.only)
        if args.perf is not None:
            sections = [
                kept
                for section in sections
                if (kept := section.where(possible)).workloads and section.variant != SHARED
            ]
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
        warm_s=QUICK_WARM_S if args.quick else WARM_S,
    )
    try:
        if args.keep and args.json is None:
            args.json = KEPT
        outputs.check(args.json)
        if args.plot is not None:
            pictures.check(args.plot)
        before = load(args.compare) if args.compare is not None else []
        plain = [section for section in sections if section.variant != SHARED]
        rows = _run(args, plain, programs, timing, console) if plain else []
        for section in sections:
            if section.variant == SHARED:
                rows += _run_shared(args, section, timing, console)
        if args.json is not None:
            how = {
                "date": time.strftime("%Y-%m-%d"),
                "command": "python bench/run.py " + " ".join(sys.argv[1:] if argv is None else argv),
            }
            save(args.json, rows, how, update=args.update)
        if args.plot is not None:
            plot.draw(rows, args.plot)
    except KeyboardInterrupt:
        return 130
    except (FtlError, ProgramError, SpdkTargetError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    print("\n".join(lines_of(rows)))
    if args.compare is not None:
        print("\n".join(["", f"**compared with {args.compare}**", "", *lines_of_changes(before, rows)]))
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
    parser.add_argument("--list", action="store_true", help="print the workloads, and end")
    parser.add_argument(
        "--target", action="append", choices=TARGETS,
        help="embedded, or spdk_tgt (the program in $SPDK_TGT); default: embedded, and spdk_tgt if $SPDK_TGT is set",
    )  # fmt: skip
    parser.add_argument("--seconds", type=_positive, metavar="N", help="length of a window")
    parser.add_argument("--repeats", type=_count, metavar="N", help="windows of each workload on each side")
    parser.add_argument(
        "--base-mib", type=_base, metavar="MIB",
        help=f"size of raw bdev and base (default: {BASE_MIB}, with --quick {QUICK_BASE_MIB})",
    )  # fmt: skip
    parser.add_argument(
        "--cores", type=_cores, default=(0, 1, 1), metavar="T,D,C",
        help="cores of target, daemon and client (default: 0,1,1)",
    )  # fmt: skip
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows to this file")
    parser.add_argument("--update", action="store_true", help="keep the rows of that file that were not measured now")
    parser.add_argument("--keep", action="store_true", help=f"write the rows to {KEPT} instead, for later comparisons")
    parser.add_argument(
        "--compare", type=Path, metavar="FILE", nargs="?", const=KEPT,
        help=f"list the results that differ beyond noise from those in FILE (default: {KEPT})",
    )  # fmt: skip
    parser.add_argument("--plot", type=Path, metavar="OUT.svg", help="draw the ratios (needs matplotlib)")
    parser.add_argument(
        "--perf", type=_executable, metavar="PATH",
        help="use this spdk_nvme_perf instead of our client. It polls: give it a core of its own if there is one",
    )  # fmt: skip
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


def _cores(given: str) -> tuple[int, int, int]:
    cores = tuple(int(core) for core in given.split(","))
    available = os.sched_getaffinity(0)
    if len(cores) != 3 or not set(cores) <= available:
        known = ",".join(map(str, sorted(available)))
        raise argparse.ArgumentTypeError(f"{given}: must be three of the cores {known}; they may be the same")
    return cores[0], cores[1], cores[2]


def _executable(given: str) -> str:
    program = shutil.which(given)
    if program is None:
        raise argparse.ArgumentTypeError(f"{given!r} is not a program")
    return str(Path(program).absolute())


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
            target_core, daemon_core, client_core = args.cores
            base_mib = args.base_mib or (QUICK_BASE_MIB if args.quick else BASE_MIB)
            options = Options(
                program, base_mib=base_mib, target_core=target_core, other_core=daemon_core, client_core=client_core,
                perf=args.perf,
            )  # fmt: skip
            tell(f"{target}: starting", 0)
            with tempfile.TemporaryDirectory(prefix="ftl-bench-") as folder, Bed(Path(folder), options) as bed:
                rows += _measure(bed, f"{target}/{_way(args)}", sections, timing, partial(_tell, tell, target))
    return rows


def _run_shared(args: argparse.Namespace, section: Section, timing: Timing, console: Console) -> list[Row]:
    """Once, whatever the targets are: it needs the embedded one."""
    target_core, daemon_core, _ = args.cores
    base_mib = args.base_mib or (QUICK_BASE_MIB if args.quick else BASE_MIB)
    options = Options(None, base_mib=base_mib, target_core=target_core, other_core=daemon_core)
    with progress(console, len(section.workloads) * timing.repeats) as tell:
        tell(f"{section.name}: starting", 0)
        with tempfile.TemporaryDirectory(prefix="ftl-bench-") as folder, SharedBed(Path(folder), options) as bed:
            found = measure_shared(bed, section, timing, partial(_tell, tell, "embedded"))
    return list(shared_rows(f"embedded/{SHARED}", found))


def _way(args: argparse.Namespace) -> str:
    """How the I/O comes to the bdevs, in the names of rows."""
    return "tcp" if args.perf is None else "tcp-perf"


def _tell(tell: Callable[[str, int], None], target: str, what: str) -> None:
    tell(f"{target} {what}", 1)


def _measure(bed: Bed, prefix: str, sections: list[Section], timing: Timing, tell: Callable[[str], None]) -> list[Row]:
    rows: list[Row] = []
    found: dict[str, dict[str, Measured]] = {}
    for section in sections:
        measured = measure(bed, section, timing, tell)
        found.setdefault(section.name, {}).update(measured)
        rows += rows_of(prefix, section, measured, goals=bed.perf is None)
    if bed.perf is not None:
        return rows
    return rows + list(gc_rows(prefix, found.get("fresh", {}), found.get("gc", {})))
