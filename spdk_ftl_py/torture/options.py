"""The options of a torture run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

NO_CACHE: Final = "none"
VSS: Final = "vss"
NON_VSS: Final = "non-vss"
CACHES: Final = (NO_CACHE, VSS, NON_VSS)


@dataclass(frozen=True)
class Options:
    seed: int = 1
    crashes: int = 500
    every: int = 0
    """Media operations between a load and the next crash; 0: at random."""
    use_append: bool = False
    cache: str = NO_CACHE
    """One of CACHES."""
    faults: bool = False
    """Now and then a write, reset or flush of the drive fails, a zone becomes read-only, a drive is busy, or blocks
    rot."""
    chain: bool | None = None
    """I/O goes from the host to the drive as NVMe/TCP PDUs, over connections that are lost now and then. None: in part
    of the worlds."""
    cores: int = 1
    """With more than one, hosts' I/O comes from further reactors, which are stepped in the same thread."""
    classes: int | None = None
    """The most classes of bands; None: 2, and more in part of the worlds."""
    checkpoint: bool = False
    """Worlds with zones of their own write running checkpoints all the time."""
    world: int | None = None
    """Run only this one of the seed's worlds."""

    def replay(self, world: int, crashes: int) -> str:
        """The command that runs one world again. crashes: the limit that the world had, because the last crashes depend
        on it (no crash in a load follows them). The run still ends at the first violation."""
        return self._command(world, crashes)

    def command(self) -> str:
        """The command that repeats the whole run."""
        return self._command(self.world, self.crashes)

    def _command(self, world: int | None, crashes: int) -> str:
        words = ["spdk-ftl torture", f"--seed {self.seed}"]
        if world is not None:
            words.append(f"--world {world}")
        words.append(f"--crashes {crashes}")
        if self.every:
            words.append(f"--every {self.every}")
        if self.use_append:
            words.append("--use-append")
        if self.cache != NO_CACHE:
            words.append(f"--cache {self.cache}")
        if self.faults:
            words.append("--faults")
        if self.chain is not None:
            words.append("--chain" if self.chain else "--no-chain")
        if self.cores > 1:
            words.append(f"--cores {self.cores}")
        if self.classes is not None:
            words.append(f"--classes {self.classes}")
        if self.checkpoint:
            words.append("--checkpoint")
        return " ".join(words)
