"""What an FTL may decide freely: docs/policies.md. Here is what a policy of one's own needs."""

from .interface import AgeClasses, BandTable, Placement, Policy, Reclaimed, Surroundings

__all__ = ["AgeClasses", "BandTable", "Placement", "Policy", "Reclaimed", "Surroundings"]
