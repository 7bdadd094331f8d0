"""What an entry of the L2P costs in each of its forms in memory (docs/architecture.md, "L2P entries").

    python bench/l2p_forms.py [--blocks 16777216] [--rounds 5]

CPU time of one thread for each LBA, in random order: to put an entry, to get it, and to count it by zone, as a load
does. The best of the rounds. Includes the arrays that carry LBAs and entries.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np

from spdk_ftl_py import _shim

ZONE_SIZE, ZONE_CAPACITY = 1 << 19, 275_712
"""2 GiB and 1077 MiB."""
FORMS = {
    # zones of the base, zone size, one in so many entries is of a trim (0: none)
    "narrow": (100, ZONE_CAPACITY, 0),
    "narrow, numbered without holes": (3616, ZONE_CAPACITY, 0),
    "compact": (4096, ZONE_SIZE, 0),
    "compact, numbered without holes": (15_300, ZONE_CAPACITY, 0),
    "the same, a sixteenth trimmed": (15_300, ZONE_CAPACITY, 16),
    "wide": (16_384, ZONE_SIZE, 0),
}


def best(rounds: int, work: Callable[[], object]) -> float:
    times = []
    for _ in range(rounds):
        began = time.thread_time()
        work()
        times.append(time.thread_time() - began)
    return min(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", type=int, default=1 << 24, help="LBAs")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    rng = np.random.default_rng(1)
    lbas = rng.permutation(args.blocks).astype(np.uint64)
    print("| form | bytes | put ns | get ns | count ns |")
    print("|---|---|---|---|---|")
    for name, (zones, capacity, trimmed) in FORMS.items():
        base = zones * ZONE_SIZE
        table = _shim.RestoredL2p(args.blocks, base, zone_size=ZONE_SIZE, zone_capacity=capacity, with_seqs=False)
        # As many zones in each form: else the caches would tell.
        entries = rng.integers(0, 100, args.blocks, dtype=np.uint64) * np.uint64(ZONE_SIZE)
        entries += rng.integers(0, ZONE_CAPACITY, args.blocks, dtype=np.uint64)
        if trimmed:
            entries[::trimmed] |= np.uint64(_shim.TRIM_FLAG)
        table.put(lbas, entries)
        costs = [
            best(args.rounds, lambda: table.put(lbas, entries)),  # noqa: B023
            best(args.rounds, lambda: table.entries_of(lbas)),  # noqa: B023
            best(args.rounds, lambda: table.count(ZONE_SIZE, zones)),  # noqa: B023
        ]
        width = _shim.l2p_entry_bytes(base, ZONE_SIZE, capacity)
        print(f"| {name} | {width} | " + " | ".join(f"{cost / args.blocks * 1e9:.1f}" for cost in costs) + " |")


if __name__ == "__main__":
    main()
