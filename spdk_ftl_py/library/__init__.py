"""Objects that a script can run in its own process, without a daemon: docs/python.md. A thin layer, so that the modules
below it may change."""
