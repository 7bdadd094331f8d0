"""What all plots have in common: matplotlib, which is an extra, and the file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from . import outputs
from .errors import FtlError, UnsupportedError
from .text import shown


def pyplot() -> Any:
    """Of matplotlib. Raises UnsupportedError."""
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


def check(path: Path) -> None:
    """Before long work: is matplotlib there, can it write such a file, and can that file be written? Raises
    FtlError."""
    pyplot()
    from matplotlib.backend_bases import FigureCanvasBase

    if _kind(path) not in FigureCanvasBase.get_supported_filetypes():
        raise FtlError(f"plot {shown(str(path))}: there is no format {shown(path.suffix)}: use the suffix .svg")
    outputs.check(path, option="plot")


def _kind(path: Path) -> str:
    return path.suffix[1:].lower() or "svg"


def save(figure: Any, path: Path) -> None:
    """In the format that the suffix says, SVG by default; the figure is closed. Raises FtlError."""
    kind = _kind(path)
    try:
        figure.savefig(path, format=kind, metadata={"Date": None} if kind == "svg" else None)
    except OSError as error:
        why = error.strerror or str(error)
        raise FtlError(f"plot {shown(str(path))}: {why}: give a file that can be written") from None
    except (ValueError, RuntimeError) as error:
        # Some formats need other programs.
        why = " ".join(str(error).split())
        raise FtlError(f"plot {shown(str(path))}: {why}: use the suffix .svg") from None
    finally:
        pyplot().close(figure)
