"""How long operations report their progress."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str, float], None]
"""Step, and the part of it done, 0..1."""
PartDone = Callable[[float], None]
"""The part of one step that is done, 0..1."""
