"""The options of `spdk-ftl simulate` for a sweep, and what they do."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from ... import outputs, pictures
from ...errors import FtlError
from ...usage import parsed, path, refusing
from ...workers.options import add_worker_options, chosen_workers
from ..bar import bar
from . import plot, point, results
from .grid import Grid, axis, grid
from .needs import check_traces
from .results import ERROR, Row
from .sweep import Sweep, journal_of

if TYPE_CHECKING:
    from rich.console import Console

SHOWN_MAX: Final = 100
"""Rows of the table on the screen."""
EXAMPLES: Final = """\
  spdk-ftl simulate --sweep policy=greedy,sepbit reserved=10,20 workload=uniform,zipf:0.99 --out wa.parquet
                                                       eight simulations, on all cores; --resume goes on with them
"""


def add_sweep_options(parser: argparse.ArgumentParser) -> None:
    """The parser has --json and --plot of its own, an option with a type for each setting, and itself as the default
    `parser`."""
    group = parser.add_argument_group(
        "sweeps",
        "Simulate each combination of some values. Settings that are not swept are those of the other options.",
    )
    group.add_argument(
        "--sweep",
        nargs="+",
        type=parsed(axis),
        metavar="NAME=VALUE,...",
        help=r"the values of a setting, for example policy=greedy,sepbit reserved=10,20; \, is a comma in a value",
    )
    group.add_argument(
        "--out",
        type=parsed(lambda given: results.suffix(path(given))),
        metavar="RESULTS",
        help="write the results to this file, as Parquet (.parquet) or CSV (.csv); RESULTS.journal beside it says "
        "which points are finished",
    )
    group.add_argument(
        "--resume",
        action="store_true",
        help="go on with the sweep that RESULTS.journal is of, if there is one; points that failed are simulated again",
    )
    add_worker_options(group, "the points of a sweep")


def sweep_wanted(arguments: argparse.Namespace) -> bool:
    """Ends the program, as wrong usage does, if there are options for a sweep but no sweep."""
    if arguments.sweep is not None:
        return True
    for name in ("out", "resume", "jobs", "scheduler"):
        if getattr(arguments, name) not in (None, False):
            arguments.parser.error(f"--{name} can only be used with --sweep")
    return False


def run_sweep(arguments: argparse.Namespace, base: Mapping[str, Any], *, function: str = point.FUNCTION) -> int:
    """base: the settings by the other options. Raises FtlError if a point has failed; its results are written then."""
    _check_usage(arguments)
    with refusing(arguments.parser, "--sweep"):
        points = grid(arguments.sweep, base, _types(arguments.parser, base))
        check_traces(points)
    journal = None if arguments.out is None else journal_of(arguments.out)
    outputs.check_distinct({
        "--out": arguments.out, "the journal of --out": journal, "--json": arguments.json, "--plot": arguments.plot,
    })  # fmt: skip
    if arguments.out is not None:
        results.check(arguments.out)
    outputs.check(arguments.json)
    if arguments.plot is not None:
        pictures.check(arguments.plot)
    # rich takes long, and --help does not need it.
    from rich.console import Console

    console = Console(stderr=True)

    def say(text: str) -> None:
        console.print(text, markup=False, highlight=False, soft_wrap=True)

    sweep = Sweep(points, arguments.out, resume=arguments.resume, function=function)
    try:
        if sweep.dropped:
            say(f"the journal ends in a torn record, which was dropped ({sweep.dropped} bytes)")
        if sweep.restored:
            say(f"{sweep.restored} of {len(points)} points are finished")
        if sweep.restored < len(points):
            _simulate(arguments, sweep, console, say)
        rows = sweep.rows()
        if arguments.out is not None:
            results.write(rows, arguments.out)
    except KeyboardInterrupt:
        go_on = "--resume goes on" if arguments.out is not None else "without --out nothing is kept"
        say(f"interrupted after {sweep.done} of {len(points)} points: {go_on}")
        raise
    finally:
        sweep.close()
    if str(arguments.json) != "-":
        _show(rows, points)
    if arguments.json:
        outputs.write_json(arguments.json, sweep.to_dict())
    if arguments.plot and len(sweep.failed) < len(points):
        plot.draw(rows, points.varying, arguments.plot)
    if sweep.failed:
        where, error = sweep.failed[0]
        swept = " ".join(f"{name}={where[name]}" for name in points.axes)
        raise FtlError(
            f"{len(sweep.failed)} of {len(points)} points failed (--resume simulates them again); the first, "
            f"{swept}: {error}"
        )
    return 0


def _types(parser: argparse.ArgumentParser, base: Mapping[str, Any]) -> dict[str, Callable[[str], Any]]:
    """What the options for the settings accept."""
    found: dict[str, Callable[[str], Any]] = {}
    for action in parser._actions:
        if action.dest in base and action.choices is not None:
            found[action.dest] = _one_of(list(action.choices))
        elif action.dest in base and callable(action.type):
            found[action.dest] = action.type
    return found


def _one_of(choices: Sequence[str]) -> Callable[[str], str]:
    def convert(given: str) -> str:
        if given not in choices:
            raise argparse.ArgumentTypeError(f"{given[:40]!r}: must be one of {', '.join(choices)}")
        return given

    return convert


def _check_usage(arguments: argparse.Namespace) -> None:
    if arguments.jobs is not None and arguments.scheduler is not None:
        arguments.parser.error("--jobs can't be used with --scheduler, whose workers decide how many processes run")
    if arguments.resume and arguments.out is None:
        arguments.parser.error("--resume needs the --out of the sweep that it goes on with")


def _simulate(arguments: argparse.Namespace, sweep: Sweep, console: Console, say: Callable[[str], None]) -> None:
    chosen = chosen_workers(arguments.jobs, arguments.scheduler, sweep.code)
    with chosen as workers, bar(console, "sweep", len(sweep.grid)) as tell:
        tell(sweep.restored)
        sweep.run(workers, tell, say)


def _show(rows: Sequence[Row], points: Grid) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    names = points.varying or list(points.axes)
    table = Table(*names, "WA", "error", title="spdk-ftl simulate --sweep")
    table.columns[len(names)].justify = "right"
    for row in rows[:SHOWN_MAX]:
        wa = row.get(plot.WA)
        table.add_row(
            *(escape(str(row[name])) for name in names), "" if wa is None else f"{wa:.3f}", escape(row[ERROR] or "")
        )
    console = Console()
    console.print(table)
    if len(rows) > SHOWN_MAX:
        console.print(f"and {len(rows) - SHOWN_MAX} more: --out has all of them", highlight=False)
