"""What a script runs in its own process, without a daemon: docs/python.md. Thin, so that what is below may change."""
