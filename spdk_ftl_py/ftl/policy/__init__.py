"""What an FTL may decide freely: docs/policies.md."""
