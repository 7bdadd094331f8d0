"""`spdk-ftl apply`: brings FTLs, and their lists of hosts, into the state that a plan describes."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Final

from ..errors import FtlError, ParameterError
from ..plan.apply import Outcome, apply
from ..plan.difference import CREATE, DELETE, Changes, Step
from ..plan.document import BYTES_MAX
from ..plan.model import Plan, parse
from ..text import shown
from ..usage import text
from .commands import add_socket, daemon_client

EXIT_AS_PLANNED: Final = 0
EXIT_FAILURE: Final = 1
EXIT_USAGE: Final = 2
EXIT_NOT_YET: Final = 3
_SIGNS: Final = {CREATE: "+", DELETE: "-"}

_DESCRIPTION: Final = """\
Bring FTLs, and the lists of hosts that may connect to them, into the state that a plan describes, on any number of SPDK
targets. The command changes only what differs from the plan, so you can repeat it, for instance after each boot. It
never erases anything: it loads the FTL on a base, and creates one only if the base is empty.
"""
_EPILOG: Final = """\
a plan (YAML or JSON):
  targets:
    - address: /var/tmp/spdk.sock
      ftls:
        - name: ftl0
          base: Nvme0n1
          cache: Cache0                 # optional, like all that follows
          overprovisioning: 20
          conf: {write_buffer_size: 8MiB, scrub_days: 7}
          listen: 10.0.0.1:4420
          hosts:
            - nqn.2014-08.org.nvmexpress:uuid:b286d19a-0059-4709-abcd-9f7732b1567d
            - {nqn: "nqn.2026-11.com.example:db", dhchap_key: /etc/keys/db}

  All keys: docs/provisioning.md and schemas/plan/plan.json. An unknown key is an error, and so is a difference that
  can't be changed while an FTL runs (such as its base). The command then changes nothing.

exit codes: 0 everything matches the plan, or --dry-run has shown what it would change; 1 failure (the output says what
was done; apply the plan again to continue); 2 wrong usage, or a fault in the plan; 3 an FTL is not online yet (for
instance because its base does not exist yet; the daemon keeps waiting), or --check found differences; 130 interrupted
"""


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "apply",
        help="create or change FTLs, and the hosts that may connect to them, to match a plan",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("plan", metavar="PLAN", type=text, help="file with the plan; - reads standard input")
    parser.add_argument("--dry-run", action="store_true", help="show what the command would change, and change nothing")
    parser.add_argument(
        "--check", action="store_true", help="the same as --dry-run, but exit with code 3 if there are differences"
    )
    parser.add_argument(
        "--prune",
        action="store_true",
        help="delete FTLs that the plan lacks, on the targets that it names (their data stays on the bases)",
    )
    parser.add_argument(
        "--wait",
        type=_seconds,
        default=0,
        metavar="SECONDS",
        help="how long to wait until all FTLs of the plan are online (default: %(default)s)",
    )
    add_socket(parser)
    parser.add_argument("--json", action="store_true", help="print JSON instead of lines")
    parser.set_defaults(run=run)


def _seconds(text: str) -> int:
    if not text.isdecimal() or len(text) > 6:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of seconds")
    return int(text)


def run(args: argparse.Namespace) -> int:
    try:
        plan = _read(args.plan)
    except ParameterError as error:
        print(f"spdk-ftl: {shown(error.message)}", file=sys.stderr)
        return EXIT_USAGE
    dry_run = args.dry_run or args.check
    try:
        outcome = apply(
            daemon_client(args),
            plan,
            dry_run=dry_run,
            prune=args.prune,
            wait_s=args.wait,
            progress=(lambda step: None) if args.json else _show_step,
        )
    except FtlError as error:
        # For example if no daemon runs. Programs read standard output.
        outcome = Outcome(Changes(), dry_run, error=shown(error.message))
    if args.json:
        print(json.dumps(outcome.to_dict(), indent=2), flush=True)
    elif dry_run and not outcome.changes.problems:
        for step in outcome.changes.steps:
            _show_step(step)
    return _show_end(outcome, quiet=args.json, check=args.check)


def _read(path: str) -> Plan:
    """Raises ParameterError, and FtlError if the file does not exist."""
    name = "standard input" if path == "-" else path
    try:
        if path == "-":
            text = sys.stdin.buffer.read(BYTES_MAX + 1)
        else:
            with Path(path).open("rb") as file:
                text = file.read(BYTES_MAX + 1)
    except OSError as error:
        raise FtlError(f"plan {name} can't be read: {error.strerror}", errno=error.errno) from error
    return parse(text, name)


def _show_step(step: Step) -> None:
    print(f"{_SIGNS.get(step.action, '~')} {step.name} on {step.target}: {shown(step.text)}", flush=True)


def _show_end(outcome: Outcome, *, quiet: bool, check: bool) -> int:
    for problem in outcome.changes.problems:
        print(f"spdk-ftl: {shown(problem)}", file=sys.stderr)
    if outcome.changes.problems:
        print("spdk-ftl: nothing was changed", file=sys.stderr)
        return EXIT_FAILURE
    if not quiet:
        for target, name in outcome.changes.extra:
            print(f"? {name} on {target}: not in the plan, left as it is (--prune deletes it)")
    if outcome.error is not None:
        print(f"spdk-ftl: {outcome.error}", file=sys.stderr)
        total = len(outcome.changes.steps)
        if len(outcome.done) < total:
            message = f"{len(outcome.done)} of {total} changes are done; apply the plan again to make the rest"
            print(f"spdk-ftl: {message}", file=sys.stderr)
        return EXIT_FAILURE
    if not quiet:
        count = len(outcome.changes.steps)
        would = " would be made" if outcome.dry_run else " made"
        print("no changes" if not count else f"{count} change{'' if count == 1 else 's'}{would}")
    if outcome.dry_run:
        return EXIT_NOT_YET if check and outcome.changes.steps else EXIT_AS_PLANNED
    for each in outcome.waiting:
        why = each.get("waiting_for") or each.get("progress") or each.get("error") or "it is being created"
        print(f"spdk-ftl: {each['name']} on {each['target']} is {each['state']}: {shown(str(why))}", file=sys.stderr)
    return EXIT_NOT_YET if outcome.waiting else EXIT_AS_PLANNED
