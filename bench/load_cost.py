"""What a load costs for each block, after a crash and after a halt: CPU, time, memory, and the longest stall of the
event loop.

    python bench/load_cost.py                                      this tree
    python bench/load_cost.py --trees . ../before --rounds 3       two trees, by turns
    python bench/load_cost.py --sizes 0.06,0.25                    TB; each further block is shown, too

A drive is that of bench/scale.py, whose content is made from a seed; each load runs in a process of its own
(bench/scale_rows.py of its tree, which must be built). CPU is that of the process, without what the drive takes to make
its blocks. The lowest of all rounds counts, and the highest stall. 0.06 TB are 11 million blocks, and take 250 MB.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
KINDS = {"dirty": "after a crash", "clean": "after a halt"}


def measured(tree: Path, terabytes: float) -> dict[str, Any]:
    command = [sys.executable, str(tree / "bench" / "scale_rows.py"), "load", str(terabytes)]
    done = subprocess.run(
        command, env=os.environ | {"PYTHONPATH": str(tree)}, stdout=subprocess.PIPE, text=True, check=False
    )
    if done.returncode:
        sys.exit(f"{tree}: the load of {terabytes} TB failed: is the shim of that tree built?")
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def blocks(result: dict[str, Any], kind: str) -> int:
    """What a load reads about: all versions on media after a crash, else each LBA once."""
    return int(result["on_media" if kind == "dirty" else "mapped"])


def show(tree: Path, kind: str, sizes: list[float], results: dict[float, list[dict[str, Any]]]) -> None:
    before: tuple[int, float, float] | None = None
    for size in sizes:
        loads = [each[kind] for each in results[size]]
        count = blocks(results[size][0], kind)
        cpu, wall = min(each["cpu_s"] for each in loads), min(each["wall_s"] for each in loads)
        beside = min(each["peak_bytes"] for each in loads) - int(results[size][0]["l2p_bytes"])
        print(
            f"{tree.name:12} {KINDS[kind]:14} {count / 1e6:8.1f} M blocks  {cpu / count * 1e9:7.1f} ns CPU "
            f"{wall / count * 1e9:7.1f} ns  {beside / (1 << 20):7.1f} MiB beside the L2P  "
            f"stall {max(each['stall_s'] for each in loads) * 1e3:6.1f} ms"
        )
        if before is not None:
            more = count - before[0]
            print(
                f"{'':12} {'':14} {'further blocks':>17}  {(cpu - before[1]) / more * 1e9:7.1f} ns CPU "
                f"{(wall - before[2]) / more * 1e9:7.1f} ns"
            )
        before = count, cpu, wall


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trees", nargs="+", type=Path, default=[ROOT], help="source trees, each with its own shim")
    parser.add_argument("--sizes", default="0.06", help="TB, at least 0.06, separated by commas (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=1)
    args = parser.parse_args()
    sizes = sorted(map(float, args.sizes.split(",")))
    trees = [tree.resolve() for tree in args.trees]
    results: dict[Path, dict[float, list[dict[str, Any]]]] = {tree: {size: [] for size in sizes} for tree in trees}
    for _ in range(args.rounds):
        for size in sizes:
            for tree in trees:
                results[tree][size].append(measured(tree, size))
    for kind in KINDS:
        for tree in trees:
            show(tree, kind, sizes, results[tree])


if __name__ == "__main__":
    main()
