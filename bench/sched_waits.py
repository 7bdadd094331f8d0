"""How long a thread waited for its CPU, and who ran meanwhile.

    perf sched record -C 1 -o sched.data -- sleep 6; perf sched script -i sched.data | python bench/sched_waits.py

Reads `perf sched script` (one CPU) from standard input. A wait lasts from the moment in which the thread could run to
the moment in which it did.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections import Counter
from collections.abc import Iterable

EVENT = re.compile(r"([\d.]+):\s+sched:sched_(switch|waking|wakeup):\s+(.*)$")
SWITCH = re.compile(r"prev_comm=(.+?) prev_pid=\d+ prev_prio=\d+ prev_state=(\S+) ==> next_comm=(.+?) next_pid=")
WAKE = re.compile(r"comm=(.+?) pid=")


def waits_of(thread: str, lines: Iterable[str]) -> list[tuple[float, Counter[str]]]:
    """(seconds, seconds by who ran), in the order of time."""
    waits: list[tuple[float, Counter[str]]] = []
    ready: float | None = None
    ran: Counter[str] = Counter()
    now, since = "", 0.0
    for line in lines:
        if (event := EVENT.search(line)) is None:
            continue
        at, kind, what = float(event[1]), event[2], event[3]
        if kind != "switch":
            if (wake := WAKE.search(what)) is not None and wake[1] == thread and ready is None:
                ready, ran = at, Counter()
            continue
        if (switch := SWITCH.search(what)) is None:
            continue
        before, state, after = switch.groups()
        if ready is not None and now:
            ran[now] += at - max(since, ready)
        if before == thread:
            ready, ran = (at if state.startswith("R") else None), Counter()
        if after == thread and ready is not None:
            waits.append((at - ready, ran))
            ready, ran = None, Counter()
        now, since = after, at
    return waits


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--thread", default="reactor-0", help="its name (default: an FTL's reactor)")
    args = parser.parse_args()
    waits = waits_of(args.thread, sys.stdin)
    if not waits:
        sys.exit(f"no thread {args.thread} waited: give perf sched script, and the name of a thread on that CPU")
    longest = max(waits, key=lambda wait: wait[0])
    print(f"{len(waits)} waits; longest {longest[0] * 1e3:.2f} ms")
    for bound in (1, 3):
        longer = [wait for wait in waits if wait[0] > bound / 1e3]
        ran = sum((wait[1] for wait in longer), Counter[str]())
        shares = ", ".join(f"{name} {seconds * 1e3:.1f} ms" for name, seconds in ran.most_common(4))
        print(f"longer than {bound} ms: {len(longer)}; meanwhile ran: {shares or 'nobody'}")


if __name__ == "__main__":
    main()
