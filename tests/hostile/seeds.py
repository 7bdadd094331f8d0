"""Which malformed PDUs and capsules are sent: others in each run, and the same ones again where they are asked for."""

from __future__ import annotations

import os
import secrets
from typing import Final

SEED_ENV: Final = "SPDK_FTL_MALFORMED"
PDUS_ENV: Final = "SPDK_FTL_MALFORMED_PDUS"
CI_SEED: Final = "1"


def chosen_seed() -> tuple[str, int | None]:
    """(seed, the number of the one connection that is wanted, if so). Printed: pytest shows it where a test fails."""
    chosen = os.environ.get(SEED_ENV) or (CI_SEED if os.environ.get("CI") else secrets.token_hex(4))
    seed, _, number = chosen.partition(":")
    print(f"{SEED_ENV}={chosen}")
    return seed, int(number) if number else None


def chosen_pdus(otherwise: int) -> int:
    """How many."""
    return int(os.environ.get(PDUS_ENV) or otherwise)
