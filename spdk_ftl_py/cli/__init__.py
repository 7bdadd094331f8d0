"""`spdk-ftl`: the command line."""
