"""`spdk-ftl apply`: reads the desired state from a file, compares it with the actual state, and makes the changes."""
