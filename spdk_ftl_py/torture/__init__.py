"""`spdk-ftl torture`: the crash machine."""
