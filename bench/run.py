"""Raw bdev and FTL side by side: IOPS, latencies, CPU time, ratios, goals (docs/performance.md, "Raw bdev and FTL").

The script starts a target on core 0, and the daemon and a client on core 1. The target has a raw malloc bdev, and a
base of the same size with the FTL on it. The same client reaches both over NVMe/TCP, by turns: a window on the raw
bdev, one on the FTL, and so on. A result is the median of the repeats.

  python bench/run.py --quick                            the most important workloads, within 3 minutes
  python bench/run.py --only write-qd1,seq-write --seconds 2 --repeats 5
  python bench/run.py --only 'gc/*' --target spdk_tgt    with the spdk_tgt of $SPDK_TGT
  python bench/run.py --only 'fresh+vfio-user/*'         the goals of vfio-user (embedded target)
  python bench/run.py --list                             lists the workloads

Run it on a machine with no other work. Exit code 1: the bench failed; goals that are not met do not make it fail.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

ROOT = str(Path(__file__).resolve().parents[1])
sys.path.insert(0, ROOT)
# For the programs that it starts.
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (ROOT, os.environ.get("PYTHONPATH", ""))))

from spdk_ftl_py.bench.script import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main(__doc__ or ""))
