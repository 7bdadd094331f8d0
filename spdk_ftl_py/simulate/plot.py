"""A simulation as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..pictures import pyplot, save


def draw(result: dict[str, Any], path: Path) -> None:
    """Write amplification over host writes, with the model and the steady value. Raises FtlError."""
    spec, points = result["spec"], result["write_amplification_over_time"]
    figure, axis = pyplot().subplots(figsize=(8.0, 4.0))
    axis.plot(
        [point["writes"] for point in points], [point["write_amplification"] for point in points], color="#4a6fa5"
    )
    axis.axhline(
        result["write_amplification"], color="#2f7d4f", linestyle="--", linewidth=1,
        label=f"second half: {result['write_amplification']:.2f}",
    )  # fmt: skip
    axis.axhline(
        result["write_amplification_model"], color="#b3452c", linestyle=":", linewidth=1,
        label=f"model, uniform writes: {result['write_amplification_model']:.2f}",
    )  # fmt: skip
    axis.set_ylim(bottom=1)
    axis.set_xlim(left=0)
    axis.set_xlabel("host writes / logical capacity")
    axis.set_ylabel("write amplification")
    axis.set_title(
        f"{spec['policy']}, {spec['workload']}: {spec['bands']} bands of {spec['band_blocks']} blocks, "
        f"{spec['reserved']} % reserve",
        fontsize=10,
    )
    axis.legend(frameon=False)
    figure.tight_layout()
    save(figure, path)
