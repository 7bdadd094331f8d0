"""What a torture run is asked for."""

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
    """Now and then a write, reset or flush of the drive fails, a zone goes read-only, a drive is busy, blocks rot."""
    chain: bool | None = None
    """Whether I/O goes as NVMe/TCP PDUs from the host to the drive, over connections that are lost now and then; None:
    in part of the worlds."""
    world: int | None = None
    """Only this one of the seed's worlds."""

    def replay(self, world: int, crashes: int) -> str:
        """The command that runs one world again. crashes: as many as it was allowed, since the last of them differ
        (they are not followed by another one in the load); it ends with the first violation all the same."""
        return self._command(world, crashes)

    def command(self) -> str:
        """The command that runs all of it."""
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
        return " ".join(words)
