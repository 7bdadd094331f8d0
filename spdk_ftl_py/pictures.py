"""What all plots have in common: matplotlib, which is an extra, and the file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .errors import FtlError, UnsupportedError
from .text import shown


def pyplot() -> Any:
    """Of matplotlib. Call it before long work, too. Raises UnsupportedError."""
    try:
        import matplotlib
    except ImportError as error:
        raise UnsupportedError(f"a plot needs matplotlib (pip install 'spdk-ftl-py[plot]'): {error}") from None
    # No display is needed.
    matplotlib.use("agg")
    # Text stays text, and the same result gives the same file.
    # Names may have dollar signs.
    matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "spdk-ftl", "text.parse_math": False})
    from matplotlib import pyplot as found

    return found


def save(figure: Any, path: Path) -> None:
    """In the format that the suffix says, SVG by default; the figure is closed. Raises FtlError."""
    kind = path.suffix[1:] or "svg"
    try:
        figure.savefig(path, format=kind, metadata={"Date": None} if kind == "svg" else None)
    except OSError as error:
        why = error.strerror or str(error)
        raise FtlError(f"plot {shown(str(path))}: {why}: give a file that can be written") from None
    except ValueError as error:
        raise FtlError(f"plot {shown(str(path))}: {error}: use the suffix .svg") from None
    finally:
        pyplot().close(figure)
