"""`spdk-ftl demo`: everything together on one machine, with verified I/O through it."""
