"""`spdk-ftl torture`: crashes FTLs and verifies what is left."""
