"""The result of one world."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Final

from .model import Violation

SUMMED_STATS: Final = (
    "user_written_blocks",
    "media_written_blocks",
    "reloc_moved_blocks",
    "zone_resets",
    "media_trim_blocks",
    "busy_answers",
    "unreadable_blocks",
    "scrub_read_blocks",
    "l2p_page_reads",
    "l2p_page_waits",
    "scrub_bad_blocks",
)


@dataclass
class WorldResult:
    shape: str = ""
    crashes: int = 0
    clean_halts: int = 0
    loads: int = 0
    loads_interrupted: int = 0
    checks: int = 0
    blocks_verified: int = 0
    io_count: int = 0
    media_operations: int = 0
    faults: int = 0
    growths: int = 0
    """FTLs that have grown."""
    copies: int = 0
    """FTLs that got another UUID."""
    out_of_space: int = 0
    """Worlds that ended early because too many zones were lost."""
    kinds: Counter[str] = field(default_factory=Counter)
    places: Counter[str] = field(default_factory=Counter)
    stats: Counter[str] = field(default_factory=Counter)
    violations: list[Violation] = field(default_factory=list)
    last_crash: str = ""
    digest: str = ""
    """A digest of everything that was found. The same seed gives the same digest."""
