"""`spdk-ftl demo`: all programs on one machine, with verified I/O."""
