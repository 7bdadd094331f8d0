"""The command `spdk-ftl simulate`."""

from __future__ import annotations

import argparse
from typing import Any, Final

from .. import outputs, pictures
from ..conf import RELOC_POLICIES, FtlConf
from ..text import shown
from ..usage import parsed, path, refusing, whole
from .bar import bar
from .spec import BAND_BLOCKS_MAX, BANDS_MAX, PRECONDITIONS, ZONES_MAX, Spec, blocks_of
from .sweep.command import EXAMPLES, add_sweep_options, run_sweep, sweep_wanted

_DEFAULT: Final = Spec()

DESCRIPTION: Final = """\
Simulate an FTL's garbage collection, and show its write amplification (WA): the blocks that reach media for each block
that hosts write. The band manager, its policy and its limits are those of the daemon. The media are without data: at
most 8 bytes of memory for each block, or 12 with the ages of relocated blocks, and one to three million host writes a
second.

First each LBA is written once, in order. Then hosts write as --workload says. The WA shown is that of the second half
of these writes; --plot shows whether it is steady. The same options and seed give the same result.
"""
EPILOG: Final = f"""\
examples:
  spdk-ftl simulate                                            uniform writes, 1024 bands, 20 % reserve
  spdk-ftl simulate --workload zipf:0.99 --policy cost_benefit some LBAs are written far more often than others
  spdk-ftl simulate --bands 225 --band-blocks 4096 --zones 4 --open-zones 14
                                                               bands of 4 zones, on a drive with 14 open zones
  spdk-ftl simulate --bands 4096 --band-blocks 262144 --writes 3x
                                                               4 TiB, in 7.2 GiB of memory
  spdk-ftl simulate --writes 20x --json s.json --plot s.svg    for scripts, and as a picture
{EXAMPLES}
exit codes: 0 success, 1 failure (the reason is on stderr), 2 wrong usage, 130 interrupted
"""


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "simulate",
        help="simulate garbage collection: write amplification and wear of a policy under a workload",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    drive = parser.add_argument_group("drive")
    drive.add_argument(
        "--bands", type=whole(2, BANDS_MAX), default=_DEFAULT.bands, metavar="K",
        help="number of bands (default: %(default)s)",
    )  # fmt: skip
    drive.add_argument(
        "--band-blocks", type=whole(2, BAND_BLOCKS_MAX), default=_DEFAULT.band_blocks, metavar="K",
        help="blocks of 4 KiB that a band holds, without metadata (default: %(default)s)",
    )  # fmt: skip
    drive.add_argument(
        "--zones", type=whole(1, ZONES_MAX), default=_DEFAULT.zones, metavar="K",
        help="zones in each band (default: %(default)s)",
    )  # fmt: skip
    drive.add_argument(
        "--open-zones", type=whole(0), default=_DEFAULT.open_zones, metavar="N",
        help="zones that may be open at a time; 0: any number. They limit the classes of bands (default: %(default)s)",
    )  # fmt: skip
    drive.add_argument(
        "--reserved", type=whole(1, 99), default=_DEFAULT.reserved, metavar="K",
        help="percent of the blocks that hosts do not see, as conf lba_rsvd (default: %(default)s)",
    )  # fmt: skip
    drive.add_argument(
        "--shared", action="store_true", help="hosts' writes and relocation share one stream, as on drives with few "
        "open zones",
    )  # fmt: skip
    drive.add_argument(
        "--media-mib-per-s", type=whole(1, 1 << 20), default=_DEFAULT.media_mib_per_s, metavar="K",
        help="what the media write in a second, for the estimate of latencies (default: %(default)s)",
    )  # fmt: skip
    run = parser.add_argument_group("what happens")
    run.add_argument(
        "--workload", type=parsed(_workload), default=_DEFAULT.workload, metavar="WORKLOAD",
        help="what hosts do: uniform, zipf:THETA, seq and more (docs/policies.md; default: %(default)s)",
    )  # fmt: skip
    run.add_argument(
        "--policy", type=parsed(_policy), default=_DEFAULT.policy, metavar="POLICY",
        help=f"conf reloc_policy: {', '.join(sorted(RELOC_POLICIES))} (default: %(default)s)",
    )  # fmt: skip
    run.add_argument(
        "--writes", type=parsed(_writes), default=_DEFAULT.writes, metavar="WRITES",
        help="blocks that hosts write: a multiple of the logical capacity such as 10x, or a number (default: "
        "%(default)s)",
    )  # fmt: skip
    run.add_argument(
        "--precondition", choices=PRECONDITIONS, default=_DEFAULT.precondition,
        help="what is there before: fill: each LBA was written once, in order; none: nothing (default: %(default)s)",
    )  # fmt: skip
    run.add_argument(
        "--seed", type=whole(0, (1 << 64) - 1), default=_DEFAULT.seed, metavar="N",
        help="seed of the workload (default: %(default)s)",
    )  # fmt: skip
    output = parser.add_argument_group("output")
    output.add_argument("--json", type=path, metavar="FILE", help="write the result as JSON; - for standard output")
    output.add_argument(
        "--plot", type=path, metavar="FILE", help="draw WA over time, as SVG (needs matplotlib: extra [plot])"
    )
    add_sweep_options(parser)
    parser.set_defaults(run=run_command, parser=parser)


def _workload(given: str) -> str:
    # It needs numpy.
    from .workloads.parse import check

    check(given)
    return given


def _policy(given: str) -> str:
    # It needs numpy.
    from ..ftl.policy.registry import find_class

    FtlConf(reloc_policy=given).check()
    find_class(given)
    return given


def _writes(given: str) -> str:
    # Of the smallest device: simulate() knows whether it is too much of the real one.
    blocks_of(given, 1)
    return given


def spec_of(args: argparse.Namespace) -> Spec:
    return Spec(
        bands=args.bands,
        band_blocks=args.band_blocks,
        zones=args.zones,
        open_zones=args.open_zones,
        reserved=args.reserved,
        shared=args.shared,
        workload=args.workload,
        policy=args.policy,
        writes=args.writes,
        seed=args.seed,
        precondition=args.precondition,
        media_mib_per_s=args.media_mib_per_s,
    )


def run_command(args: argparse.Namespace) -> int:
    spec = spec_of(args)
    if sweep_wanted(args):
        return run_sweep(args, spec.to_dict())
    with refusing(args.parser):
        spec.check()
    outputs.check_distinct({"--json": args.json, "--plot": args.plot})
    outputs.check(args.json)
    if args.plot is not None:
        pictures.check(args.plot)
    # Here, because rich takes long, and the shim may be missing; --help needs neither.
    from rich.console import Console

    from .engine import simulate

    with refusing(args.parser), bar(Console(stderr=True), "simulate", 1.0) as tell:
        result = simulate(spec, tell)
    if args.json is None or str(args.json) != "-":
        print("\n".join(lines_of(result)))
    if args.json is not None:
        outputs.write_json(args.json, result)
    if args.plot is not None:
        from .plot import draw

        draw(result, args.plot)
    return 0


def lines_of(result: dict[str, Any]) -> list[str]:
    """The table."""
    gc, wear, latency = result["gc"], result["wear"], result["latency"]
    spec = result["spec"]
    limits = ", ".join(f"{name} {count}" for name, count in result["limits_applied"].items()) or "none"
    rows = [
        (
            "drive",
            f"{spec['bands']} bands of {spec['band_blocks']} blocks, {spec['reserved']} % reserve, "
            f"{result['block_count']} logical blocks",
        ),
        ("workload", f"{spec['workload']}, seed {spec['seed']}; policy {spec['policy']}"),
        (
            "host writes",
            f"{result['host_writes']} blocks, {result['host_writes'] / result['block_count']:.1f} x the capacity"
            + (" (the workload ended)" if result["workload_ended"] else ""),
        ),
        ("media writes", f"{result['media_writes']} blocks, {result['relocated']} of them relocated"),
        (
            "WA",
            f"{result['write_amplification']:.3f} in the last {result['steady_writes']} writes; "
            f"{result['write_amplification_whole']:.3f} in all; model for uniform writes "
            f"{result['write_amplification_model']:.3f}",
        ),
        ("GC", f"{gc['moves']} bands moved, {gc['valid_part']:.1%} of each was in force"),
        ("wear", f"resets of a band: {wear['min']} to {wear['max']}, mean {wear['mean']}"),
        ("limits", f"came into effect: {limits}; {result['free_bands']} bands are free at the end"),
        (
            "estimate",
            f"at {latency['media_mib_per_s']} MiB/s of media: {latency['host_iops']} writes/s; relocation between two "
            f"writes takes {latency['wait_us_p99']:g} us (p99), {latency['wait_us_max']:g} us (most)",
        ),
        ("simulated", f"{result['writes_per_s']} writes/s in {result['elapsed_s']:.1f} s"),
    ]
    if (trace := result["trace"]) is not None:
        text = f"{trace['requests']} requests in {trace['lines']} lines, {trace['passed']} passed over"
        if trace["malformed"]:
            text += f", {trace['malformed']} malformed; the first is {shown(trace['first_malformed'])}"
        rows.insert(2, ("trace", text))
    width = max(len(name) for name, _ in rows)
    return [f"{name:<{width}}  {value}" for name, value in rows]
