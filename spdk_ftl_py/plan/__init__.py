"""`spdk-ftl apply`: what is to be there, from a file, compared with what is there, and made so."""
