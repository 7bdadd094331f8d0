"""Measures bdevs and FTLs side by side: `spdk-ftl bench`, and bench/run.py of a checkout (docs/performance.md)."""
