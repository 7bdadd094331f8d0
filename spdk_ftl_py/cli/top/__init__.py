"""`spdk-ftl top`: a live view of the FTLs in the terminal."""
