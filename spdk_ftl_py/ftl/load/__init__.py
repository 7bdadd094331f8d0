"""What a load reads: bands, writes that are held outside of media, the checkpoint."""
