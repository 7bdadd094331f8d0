"""A simulation as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..errors import FtlError, UnsupportedError
from ..text import shown


def check() -> None:
    """Before a long run. Raises UnsupportedError without matplotlib."""
    _pyplot()


def _pyplot() -> Any:
    try:
        import matplotlib
    except ImportError as error:
        raise UnsupportedError(f"a plot needs matplotlib (pip install 'spdk-ftl-py[plot]'): {error}") from None
    matplotlib.use("svg")
    # Text stays text, and the same result gives the same file.
    matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "spdk-ftl"})
    from matplotlib import pyplot

    return pyplot


def draw(result: dict[str, Any], path: Path) -> None:
    """Write amplification over host writes, with the model and the steady value. Raises FtlError."""
    pyplot = _pyplot()
    spec, points = result["spec"], result["write_amplification_over_time"]
    figure, axis = pyplot.subplots(figsize=(8.0, 4.0))
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
    try:
        figure.savefig(path, format="svg", metadata={"Date": None})
    except OSError as error:
        raise FtlError(f"--plot {shown(str(path))}: {error.strerror}: give a file that can be written") from None
    finally:
        pyplot.close(figure)
